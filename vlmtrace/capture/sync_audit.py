"""Sync audit: which lines of a program make the host wait for the GPU, seen in generations that are not timed.

torch's sync debug mode warns from inside each operation that synchronises, on the thread and under the Python frames
that called it. The audit records its generations as any others are recorded, only to know their stages: a warning
belongs to the stage whose host marks it lies between. Those times are thrown away, since a warning costs far more than
the wait that it reports.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePath
from types import FrameType, TracebackType
from typing import Any, Final

import torch
from torch import nn

from vlmtrace.capture.clocks import monotonic_ns
from vlmtrace.capture.recorder import Recorder, RecorderOptions, execution_device
from vlmtrace.errors import UsageError, VlmtraceError
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording, SyncSite
from vlmtrace.timeline.spans import Span

__all__ = ["Caught", "SyncAudit", "catching", "check_device", "device_of", "sites"]

_MESSAGE: Final = "called a synchronizing CUDA operation"
"""What torch warns with (``warn_or_error_on_sync`` in its c10/cuda/CUDAFunctions.cpp); a C++ location may follow."""

_PROTOTYPE: Final = "Synchronization debug mode is a prototype"
"""What torch says once when the mode is first set: that it does not see everything. So do we, with what it misses."""

_NOT_A_USERS: Final = ("torch", "warnings", "_py_warnings")
_STAGES: Final = frozenset(
    (
        *names.OTHER_PARTS,
        names.VISION,
        names.ENCODER,
        names.PROJECTOR,
        names.PREFILL,
        names.MERGE,
        names.STEP,
        names.GAP,
    )
)


@dataclass(frozen=True, slots=True)
class Caught:
    """One synchronising operation: when (host ns), on which thread (the system's id), and the line that called it."""

    at: int
    thread: int
    file: str
    line: int
    function: str


def device_of(model: nn.Module | None) -> torch.device:
    """Where ``model`` computes; without one, where models would by default."""
    if model is not None:
        index = execution_device(model)
        return torch.device("cpu") if index is None else torch.device("cuda", index)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_device(device: str | torch.device) -> None:
    """Refuse a device on which nothing waits for a GPU.

    Raises:
        UsageError: ``device`` is not a CUDA device.
    """
    if torch.device(device).type != "cuda":
        raise UsageError(
            f"a sync audit (--audit-syncs) needs a CUDA device, and this would run on '{device}'",
            "leave it out, or run where there is a GPU",
        )


class SyncAudit:
    """Audits the generations inside a ``with`` block; :attr:`sites` and :attr:`generations` then say what was seen.

    Every outermost ``generate()`` of ``models`` counts (of any model, where none is named), so let lazy set-up happen
    in a generation before the block. ``stages`` overrides discovery, as in :class:`RecorderOptions`.

    Raises:
        VlmtraceError: on entry, while a recording is running: an audit must not be part of what is timed.
    """

    def __init__(
        self, models: Sequence[nn.Module] | None = None, stages: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        self._recorder = Recorder(RecorderOptions("sync audit", "module", stages or {}, nvtx=False), models)
        self._caught: list[Caught] = []
        self._open = ExitStack()
        self._recording: Recording | None = None

    def __enter__(self) -> SyncAudit:
        with ExitStack() as entered:
            entered.enter_context(self._recorder)
            self._caught = entered.enter_context(catching())
            self._open = entered.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()
        self._recording = self._recorder.finish()

    @property
    def generations(self) -> int:
        """How many generations were audited: those that ended well."""
        return len(_whole(self._finished()))

    @property
    def sites(self) -> tuple[SyncSite, ...]:
        """What was seen in them, counts summed; the most frequent first."""
        return sites(self._finished(), self._caught)

    def onto(self, recording: Recording) -> Recording:
        """``recording`` with this audit in it, in place of any other."""
        return replace(recording, syncs=self.sites, audited=self.generations)

    def _finished(self) -> Recording:
        if self._recording is None:
            raise VlmtraceError("the sync audit is not finished", "read it after its with block")
        return self._recording


@contextmanager
def catching() -> Iterator[list[Caught]]:
    """Put torch into its sync debug mode, and gather what it warns of into the answered list; other warnings pass.

    The mode, the warning filters and the way warnings are shown are as before when it ends.
    """
    caught: list[Caught] = []
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, *where: Any, **more: Any) -> None:
            if not str(message).startswith(_MESSAGE):
                shown(message, *where, **more)
                return
            at = monotonic_ns()
            frame = _calling(sys._getframe(1))
            place = "?" if frame is None else _file_of(frame)
            line, function = (0, "?") if frame is None else (frame.f_lineno, frame.f_code.co_qualname)
            caught.append(Caught(at, threading.get_native_id(), place, line, function))

        warnings.showwarning = show
        warnings.filterwarnings("ignore", message=_PROTOTYPE)
        warnings.filterwarnings("always", message=_MESSAGE)
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            torch.cuda.set_sync_debug_mode(before)


def sites(recording: Recording, caught: Sequence[Caught]) -> tuple[SyncSite, ...]:
    """What of ``caught`` lies in a stage of the whole generations of ``recording``, by line and stage."""
    whole = _whole(recording)
    by_thread: dict[int, list[Span]] = {}
    for span in recording.spans:
        if span.generation in whole and span.name in _STAGES:
            by_thread.setdefault(recording.tracks[span.track].thread, []).append(span)
    counts: Counter[tuple[str, int, str, str]] = Counter()
    for thread, spans in by_thread.items():
        own = sorted((one for one in caught if one.thread == thread), key=lambda one: one.at)
        for one, stage in zip(own, _stages_at([one.at for one in own], spans), strict=True):
            if stage is not None:
                counts[one.file, one.line, one.function, stage] += 1
    return tuple(SyncSite(*site, count) for site, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _whole(recording: Recording) -> frozenset[int]:
    return frozenset(generation.index for generation in recording.generations if generation.complete)


def _stages_at(times: Sequence[int], spans: Sequence[Span]) -> Iterator[str | None]:
    """The stage at each of ``times`` (ascending): the innermost, but a step with all that it holds is one stage."""
    waiting = sorted(spans, key=lambda span: (span.host_begin, -span.host_end, span.row))[::-1]
    around: list[Span] = []
    for at in times:
        while waiting and waiting[-1].host_begin <= at:
            span = waiting.pop()
            _leave(around, span.host_begin)
            around.append(span)
        _leave(around, at)
        step = next((span for span in around if span.name == names.STEP), None)
        yield None if not around else around[-1].name if step is None else step.name


def _leave(around: list[Span], at: int) -> None:
    while around and around[-1].host_end <= at:
        around.pop()


def _calling(frame: FrameType | None) -> FrameType | None:
    """The innermost frame outside torch: the line that a user can change."""
    while frame is not None and _module_of(frame).partition(".")[0] in _NOT_A_USERS:
        frame = frame.f_back
    return frame


def _module_of(frame: FrameType) -> str:
    name = frame.f_globals.get("__name__")
    return name if isinstance(name, str) else ""


def _file_of(frame: FrameType) -> str:
    """A source file from its package on, as its module's name has it; of a script the bare name."""
    path = PurePath(frame.f_code.co_filename)
    packages = _module_of(frame).split(".")
    if path.stem != "__init__":
        packages = packages[:-1]
    fits = packages and path.parts[-len(packages) - 1 : -1] == tuple(packages)
    return "/".join((*packages, path.name)) if fits else path.name
