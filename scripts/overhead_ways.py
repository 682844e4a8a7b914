"""The ways of looking at a ``generate()`` that scripts/overhead.py compares.

Every way is a context manager around generations of one model. Ways with hooks put them on the same modules that
vlmtrace marks at that detail, found by vlmtrace's own discovery, so that only the means differ. A decode step that runs
compiled is timed at its call site in each of them, as vlmtrace does: hooks inside would be traced into the graph.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overhead_bench import Bench


class Way:
    """Nothing at all: the base of the comparison, and of the other ways."""

    waits: int | None = 0
    """Waits for the device that it has added to the timed generation; ``None`` where nobody counted."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def __enter__(self) -> Way:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """What it takes until all times are known."""

    def ready(self) -> None:
        """Called right before the timed generation."""

    def write(self, path: Path) -> Path | None:  # noqa: ARG002
        """Write the trace beside ``path``, with an ending of its own; ``None`` where there is none."""
        return None

    def told(self) -> dict[str, Any]:
        return {"waits": self.waits}


class Vlmtrace(Way):
    """``vlmtrace.trace()``: its own count of what it cost comes with it."""

    def __init__(self, bench: Bench, detail: str) -> None:
        import vlmtrace

        super().__init__(bench)
        self.session = vlmtrace.trace(bench.model, detail=detail, random_weights=True)

    def __enter__(self) -> Way:
        self.session.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.session.__exit__(*raised)

    def write(self, path: Path) -> Path:
        return self.session.save(path.with_suffix(".pftrace"), force=True)

    def told(self) -> dict[str, Any]:
        recording = self.session.recording
        cost, timed = recording.cost, recording.generations[-1]
        return {
            "waits": cost.waits / len(recording.generations),
            "counted_ms": cost.host_ns[timed.index] / 1e6,
            "inside_ms": recording.generate_span(timed).host_duration / 1e6,
            "mark_ns": cost.mark_ns,
            "path": cost.path,
            "spans": len(recording.spans),
        }


Before = Callable[[Any, Any], None]
After = Callable[[Any, Any, Any], None]


class Hooks(Way):
    """Forward hooks on the modules of a detail; what they do is made by :meth:`pair`, once for each module."""

    def __init__(self, bench: Bench, detail: str) -> None:
        super().__init__(bench)
        self.detail = detail
        self.spans: list[tuple[str, Any, Any]] = []
        self._hooks: list[Any] = []
        self._language_hooks: list[Any] = []

    def pair(self, name: str) -> tuple[Before, After]:
        raise NotImplementedError

    def __enter__(self) -> Way:
        self._attach()
        return self

    def __exit__(self, *raised: Any) -> None:
        for handle in (*self._hooks, *self._language_hooks):
            handle.remove()
        self._hooks.clear()
        self._language_hooks.clear()
        self.bench.model.__dict__.pop("get_compiled_call", None)
        self.finish()

    def finish(self) -> None:
        """Resolve what the hooks have kept."""

    def ready(self) -> None:
        """Attach once more: the compiled steps of the generation before have dropped hooks."""
        for handle in (*self._hooks, *self._language_hooks):
            handle.remove()
        self._hooks.clear()
        self._language_hooks.clear()
        self._attach()

    def _attach(self) -> None:
        for name, module, inside_step in self.bench.parts(self.detail):
            before, after = self.pair(name)
            kept = self._language_hooks if inside_step else self._hooks
            kept.append(module.register_forward_pre_hook(before))
            kept.append(module.register_forward_hook(after))
        self._wrap_compiled_step()

    def _wrap_compiled_step(self) -> None:
        model = self.bench.model
        model.__dict__.pop("get_compiled_call", None)
        original = model.get_compiled_call
        before, after = self.pair("compiled step")

        def get_compiled_call(*args: Any, **kwargs: Any) -> Any:
            compiled = original(*args, **kwargs)

            def step(*args: Any, **kwargs: Any) -> Any:
                while self._language_hooks:
                    self._language_hooks.pop().remove()
                before(model, args)
                made = compiled(*args, **kwargs)
                after(model, args, made)
                return made

            return step

        model.__dict__["get_compiled_call"] = get_compiled_call

    def write(self, path: Path) -> Path | None:
        """The stage times alone: such hooks have nothing else to write."""
        path = path.with_suffix(".json")
        path.write_text(json.dumps([(name, ms) for name, ms, _ in self.spans]))
        return path


class NvtxRanges(Hooks):
    """NVTX ranges through the ``nvtx`` package, as vlmtrace pushes them, and nothing else; no tool listens here."""

    def pair(self, name: str) -> tuple[Before, After]:
        import nvtx

        domain = nvtx.get_domain("overhead")
        attributes = domain.get_event_attributes(message=name)

        def before(module: Any, args: Any) -> None:  # noqa: ARG001
            domain.push_range(attributes)

        def after(module: Any, args: Any, output: Any) -> None:  # noqa: ARG001
            domain.pop_range()

        return before, after

    def write(self, path: Path) -> None:  # noqa: ARG002
        return None


class EventRecords(Hooks):
    """``torch.cuda.Event(enable_timing=True).record()`` before and after; one synchronize when all has run."""

    waits = 1

    def pair(self, name: str) -> tuple[Before, After]:
        import torch

        spans, opened = self.spans, list[Any]()

        def before(module: Any, args: Any) -> None:  # noqa: ARG001
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            opened.append(event)

        def after(module: Any, args: Any, output: Any) -> None:  # noqa: ARG001
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            spans.append((name, opened.pop(), event))

        return before, after

    def finish(self) -> None:
        self.bench.sync()
        self.spans = [(name, begin.elapsed_time(end), None) for name, begin, end in self.spans]


class Syncs(Hooks):
    """``torch.cuda.synchronize()`` and ``perf_counter()`` before and after the stages; the calls are counted."""

    waits: int

    def pair(self, name: str) -> tuple[Before, After]:
        spans, opened = self.spans, list[float]()

        def now() -> float:
            self.bench.sync()
            self.waits += 1
            return time.perf_counter()

        def before(module: Any, args: Any) -> None:  # noqa: ARG001
            opened.append(now())

        def after(module: Any, args: Any, output: Any) -> None:  # noqa: ARG001
            spans.append((name, (now() - opened.pop()) * 1e3, None))

        return before, after

    def ready(self) -> None:
        super().ready()
        self.waits = 0


class TorchProfiler(Way):
    """``torch.profiler.profile()``; started before the timed generation and stopped after it."""

    waits = None

    def __init__(self, bench: Bench, *, host: bool) -> None:
        from torch.profiler import ProfilerActivity, profile

        super().__init__(bench)
        device = [ProfilerActivity.CUDA] if bench.configuration.device.startswith("cuda") else []
        self.profile = profile(activities=[*([ProfilerActivity.CPU] if host else []), *device])

    def __enter__(self) -> Way:
        self.profile.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.profile.__exit__(*raised)

    def write(self, path: Path) -> Path:
        path = path.with_suffix(".json")
        self.profile.export_chrome_trace(str(path))
        return path


class EmitNvtx(Way):
    """``torch.autograd.profiler.emit_nvtx()``: an NVTX range for every operator; it writes nothing itself."""

    waits = None

    def __init__(self, bench: Bench) -> None:
        import torch

        super().__init__(bench)
        self.ranges = torch.autograd.profiler.emit_nvtx()

    def __enter__(self) -> Way:
        self.ranges.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.ranges.__exit__(*raised)


@dataclass(frozen=True)
class Kind:
    """A way: how tables call it, the block of ways that shares its process, and what makes it.

    A way whose block has its name (a profiler) has a process to itself. One of ``processes`` is a plain generation in
    a process other than that of its base.
    """

    title: str
    block: str
    make: Callable[[Bench], Way]
    needs_gpu: bool = False


def _at(kind: Callable[[Bench, str], Way], detail: str) -> Callable[[Bench], Way]:
    return lambda bench: kind(bench, detail)


DETAILS = ("stage", "module", "layer")
HOOKS, PROCESSES = "hooks", "processes"

WAYS: dict[str, Kind] = {
    "again": Kind("nothing, against itself", HOOKS, Way),
    **{detail: Kind(f"vlmtrace, {detail}", HOOKS, _at(Vlmtrace, detail)) for detail in DETAILS},
    **{f"nvtx-{detail}": Kind(f"NVTX ranges alone, {detail}", HOOKS, _at(NvtxRanges, detail)) for detail in DETAILS},
    **{
        f"events-{detail}": Kind(f"Event.record() hooks, {detail}", HOOKS, _at(EventRecords, detail), needs_gpu=True)
        for detail in DETAILS
    },
    "syncs": Kind("sync and perf_counter() per step", HOOKS, _at(Syncs, "stage")),
    "emit-nvtx": Kind("torch emit_nvtx", "emit-nvtx", EmitNvtx, needs_gpu=True),
    "profiler-cuda": Kind("torch.profiler, CUDA", "profiler-cuda", lambda b: TorchProfiler(b, host=False), True),
    "profiler": Kind("torch.profiler, CPU + CUDA", "profiler", lambda b: TorchProfiler(b, host=True)),
    "process": Kind("nothing, in another process", PROCESSES, Way),
    "nsys": Kind("Nsight Systems", PROCESSES, Way),
    "off": Kind("nothing", "", Way),
}
"""In the order of the tables. ``off`` is the base of all and has no row."""
