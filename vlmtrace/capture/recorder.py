"""The Recorder: mutable while a program runs, and the one place where its boundaries are gathered.

``finish()`` turns it into a frozen Recording. Between ``start()`` and ``stop()`` every outermost ``generate()`` of the
models it was given (of any model, where none was named) is one generation; discovery and attachment happen before its
first mark, the one wait and the clock's anchors after its last.
"""

from __future__ import annotations

import copy
import functools
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

import torch
from torch import nn

from vlmtrace.capture import outcome
from vlmtrace.capture.boundaries import check_calls
from vlmtrace.capture.cache_layout import CacheLayouts
from vlmtrace.capture.composition import compose
from vlmtrace.capture.device_state import DeviceState, SeldomState
from vlmtrace.capture.disturbances import Disturbances
from vlmtrace.capture.ended import Ended
from vlmtrace.capture.environment import environment, working_device
from vlmtrace.capture.gpu_sampler import GpuSampler
from vlmtrace.capture.lanes import Lanes
from vlmtrace.capture.listeners import RecordingRange, attached_nvtx_domain
from vlmtrace.capture.observed import CURRENT, Loop, Observed, aside
from vlmtrace.capture.patches import Around, Family, Patches
from vlmtrace.capture.plans import Plan, Plans
from vlmtrace.capture.ring import Kept, Ring
from vlmtrace.capture.surroundings import Surroundings
from vlmtrace.capture.tape import Tape
from vlmtrace.errors import VlmtraceError
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import COLD, TIMED, WARMED, Json, Recording
from vlmtrace.timeline.spans import NONE

__all__ = ["Recorder", "RecorderOptions", "active"]

_GENERATE: Final = names.KIND_OF[names.GENERATE]
_DRAFT: Final = names.KIND_OF[names.DRAFT]
_WARMUP: Final = names.KIND_OF[names.WARMUP]
_WAIT: Final = names.KIND_OF[names.WAIT]
_ROOM_BETWEEN_TOKENS: Final = {"stage": 64, "module": 128, "layer": 4096}


_BATCHING: Final = "transformers.generation.continuous_batching.continuous_api"

_MOST_SHAPES: Final = 10_000
"""A server sees ever new ones; the oldest are forgotten, and cold again if they come back."""


@dataclass(frozen=True, slots=True)
class RecorderOptions:
    """How to record. ``stages`` overrides discovery (stage name → module paths), as ``--stage`` does.

    Steps and tokens are always recorded; with ``every`` = N the layers and the head of one step in N only.
    With ``slowest`` = N nothing waits, and only the N slowest generations are kept: see :class:`Ring`.
    ``sample_gpu`` is how often a second a thread asks NVML about the GPUs, ``None`` for never. ``memory`` reads the
    allocator of the device that a generation runs on at the borders of its stages; not with ``slowest``.
    """

    name: str
    detail: str = "stage"
    stages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keep_text: bool = False
    nvtx: bool = True
    every: int = 1
    slowest: int | None = None
    sample_gpu: int | None = None
    memory: bool = False


_active: Recorder | None = None


def active() -> Recorder | None:
    """The recorder that is running in this process, if one is; a forked child has none."""
    return None if _active is None or not _active.is_here else _active


class Recorder:
    """Records generations between ``start()`` and ``stop()``; a context manager does both.

    ``domain`` is told of ranges as an NVTX domain is; without it, NVTX is where a tool listens.

    Raises:
        VlmtraceError: from ``start()`` if another recorder is running: two would count each other's work; or if this
            torch calls modules in a way that cannot be seen.
        UsageError: for a stage path that one of ``models`` does not have.
    """

    def __init__(
        self, options: RecorderOptions, models: Sequence[nn.Module] | None = None, domain: Any | None = None
    ) -> None:
        self.options = options
        self.role: str | None = None
        self.tags: dict[str, Json] = {}
        self.workload: dict[str, Json] = {}
        self.random_weights = False
        self.on_generation: Callable[[int], None] | None = None
        self.ended: list[Ended] = []
        self.batching = 0
        self.texts: list[str] = list(names.KINDS)
        if domain is None and options.nvtx:
            domain = attached_nvtx_domain()
        waits = options.slowest is None
        self.lanes = Lanes(
            self.texts.__getitem__, domain, self._between_tokens, waits=waits, memory=options.memory and waits
        )
        self.surroundings = Surroundings(self.lanes, self.texts, keep_text=options.keep_text)
        self.plans = Plans(options.detail, options.stages)
        self.disturbances = Disturbances()
        self._seldom_state = SeldomState()
        self._layouts = CacheLayouts()
        self.ring = None if options.slowest is None else Ring(options.slowest, self.disturbances.seen)
        self.sampler = None if options.sample_gpu is None else GpuSampler(options.sample_gpu)
        self._settled = itertools.count(1)
        self._seen_shapes: dict[str, None] = {}
        generate: dict[str, Around] = {"generate": self._around_generate}
        self._patches = Patches(
            (
                Family("transformers.generation.utils", "GenerationMixin", generate),
                Family("transformers.modeling_utils", "PreTrainedModel", generate),
                Family(_BATCHING, "ContinuousMixin", {"init_continuous_batching": self._around_batching}),
                *self.surroundings.families(),
            )
        )
        self._timed_range = RecordingRange(domain)
        self.origin = (time.monotonic_ns(), time.time_ns())
        self._wanted: frozenset[int] | None = None
        self._named: list[nn.Module] = []
        if models is not None:
            plans = [self.plans.prepare(model) for model in models]
            self._named = [part.module for plan in plans for part in plan.anatomy.generating]
            self._wanted = frozenset().union(*(plan.generating for plan in plans))

    def start(self) -> Recorder:
        global _active  # noqa: PLW0603  (a process has one recorder, and its patches must find it)
        if _active is not None:
            raise VlmtraceError(
                "a recording is already running in this process",
                "end it before starting another (a program under vlmtrace record needs no vlmtrace.trace of its own)",
            )
        check_calls()
        self.plans.put()
        _active = self
        self.origin = (time.monotonic_ns(), time.time_ns())
        self._patches.install()
        for model in self._named:
            self._patches.shadow(model, "generate", self._around_generate)
        self._named.clear()
        self.disturbances.install()
        if self.sampler is not None:
            self.sampler.start()
        return self

    def stop(self) -> None:
        global _active  # noqa: PLW0603
        if _active is not self:
            return
        if self.sampler is not None:
            self.sampler.stop()
        self._timed_range.close()
        self.disturbances.remove()
        self._patches.remove()
        if self.ring is not None:
            self.ring.close()
        self.plans.forget()
        _active = None

    @property
    def is_here(self) -> bool:
        """Whether this is the process that records; a child that it forked is not."""
        return self.surroundings.is_here

    def __enter__(self) -> Recorder:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def finish(self, incomplete: str | None = None) -> Recording:
        """Stop, resolve what is left, and freeze. ``incomplete`` says why the recording ended early, if it did."""
        self.stop()
        for ended in self.ended:
            ended.cut()
        if incomplete is None:
            incomplete = next((ended.error for ended in self.ended if ended.error is not None), None)
        return compose(self, environment(), incomplete)

    def recording_of(self, kept: Kept) -> Recording:
        """One generation that the ring has kept, as a recording of its own."""
        made = copy.copy(self)
        made.ended, made.lanes, made.disturbances = [kept.ended], Lanes(self.texts.__getitem__, None), Disturbances()
        made.sampler = None
        made.lanes.all.append(kept.lane)
        made.disturbances.seen.extend(kept.disturbances)
        return compose(made, environment(), kept.ended.error)

    def tag(self, tags: Mapping[str, Json]) -> None:
        """Tags for the generations that end from now on; ``None`` takes a tag away."""
        for key, value in tags.items():
            if value is None:
                self.tags.pop(key, None)
            else:
                self.tags[key] = value

    def _around_generate(self, original: Any, model: nn.Module, args: Any, kwargs: Any) -> Any:
        observed = CURRENT.observed
        if observed is not None:
            return self._nested(observed, original, model, args, kwargs)
        if not self.surroundings.idle() or (self._wanted is not None and id(model) not in self._wanted):
            return original(model, *args, **kwargs)
        return self._outermost(original, model, args, kwargs)

    def _around_batching(self, original: Any, model: nn.Module, args: Any, kwargs: Any) -> Any:
        """Continuous batching runs a scheduler, which has no generations: counted, so that it can be said."""
        if self.surroundings.is_here:
            self.batching += 1
        return original(model, *args, **kwargs)

    def _nested(self, observed: Observed, original: Any, model: nn.Module, args: Any, kwargs: Any) -> Any:
        """A ``generate()`` inside another: the place where prefill and decode run, or a helper of the loop around it.

        A model with a ``generate()`` of its own hands over to an inner one before any loop has begun, and a decoding
        method of a user's own may call the model's again before it has run anything itself. Any other loop that has
        begun calls others to draft or to serve it: what they run is no stage of this generation.
        """
        outer = observed.loop
        hands_over = outer.model is model and not outer.seen_forward and not outer.drafted
        if outer.begun and not hands_over:
            return self._helper(observed, functools.partial(original, model, *args, **kwargs))
        observed.loop = Loop(model)
        try:
            result = original(model, *args, **kwargs)
            observed.end_loop(outcome.generated_ids(result))
            return result
        finally:
            observed.loop = outer

    def _helper(self, observed: Observed, call: Callable[[], Any]) -> Any:
        """Where a loop is drafted for, the ``generate()`` inside it is taken for a draft."""
        if not observed.loop.drafted:
            return aside(call)
        observed.mark(_DRAFT, NONE)
        try:
            return aside(call)
        finally:
            observed.mark(~_DRAFT, NONE)

    def _outermost(self, original: Any, model: nn.Module, args: Any, kwargs: Any) -> Any:
        plan = self.plans.of(model)
        device = cuda_index(plan.working_device(model))
        voice = self.lanes.voice(device)
        inputs = outcome.inputs_of(args, kwargs)
        role = self.role or self._role_of(plan, inputs)
        if role == WARMED:
            self._timed_range.close()
        else:
            self._timed_range.open()
        room = _ROOM_BETWEEN_TOKENS[self.options.detail]
        voice.tape.reserve(2 * room)
        self.disturbances.watch_compiler()
        between = functools.partial(self._between_tokens, voice.tape, room)
        observed = Observed(voice.listener.mark, between, Loop(model), every=self.options.every)
        with plan.attachment:
            state = None if device is None or self.ring is not None else DeviceState(device)
            if self.ring is None:
                voice.anchor_if_stale()
            else:
                self.ring.before(self.lanes.here())
            ended = Ended(voice, plan.index, role, device, voice.tape.written, anchors=len(voice.tape.anchors))
            if self.ring is None:
                self.ended.append(ended)
            if state is not None:
                ended.memory_before = state.before
            if self.sampler is not None and device is not None:
                self.sampler.watch(device)
            with ended.noting_errors():
                try:
                    return self._timed(ended, observed, functools.partial(original, model, *args, **kwargs))
                finally:
                    self._settle(ended, observed, inputs)
                    if device is not None and state is not None and not voice.lost:
                        ended.device_state = state.change() | self._seldom_state(device, role) | ended.own_peak()

    def _between_tokens(self, tape: Tape, room: int) -> None:
        """Where growing takes no time from a stage: events for the next step, and a compiler that was just loaded."""
        tape.reserve(room)
        self.disturbances.watch_loaded()

    def _timed(self, ended: Ended, observed: Observed, call: Callable[[], Any]) -> Any:
        voice = ended.voice
        depth, grown = voice.depth, voice.tape.grown_ns
        kind = _WARMUP if ended.role == WARMED else _GENERATE
        CURRENT.observed = observed
        voice.listener.mark(kind, NONE)
        try:
            with ended.noting_errors():
                result = call()
            observed.end_loop(outcome.generated_ids(result))
            return result
        finally:
            voice.close(kind, depth)
            CURRENT.observed = None
            ended.last = voice.tape.written
            ended.growing_ns = voice.tape.grown_ns - grown

    def _settle(self, ended: Ended, observed: Observed, inputs: dict[str, Json]) -> None:
        """After the last mark: the one wait, the elapsed times, the anchors; then what the host knows of it all."""
        with ended.settling:
            if not ended.running:  # the recording has ended meanwhile, without it
                return
            if self.ring is None:
                ended.count(self._resolve(ended, observed), outcome.end_tokens(observed.generation_config))
            else:
                self.ring.after(ended, observed)
            ended.observe(observed, inputs, self._layouts)
            ended.tags = dict(self.tags)
            self.lanes.here().output = ended.output
            ended.running = False
        if self.on_generation is not None:
            self.on_generation(next(self._settled))

    def _resolve(self, ended: Ended, observed: Observed) -> list[tuple[int, torch.Tensor]]:
        """Wait once, read the elapsed times, and answer the (prompt length, token ids) of each loop, on the host."""
        voice = ended.voice
        try:
            host_ids = [(prompt, outcome.on_host(ids)) for prompt, ids in observed.answers]
            if ended.device is not None:
                mark = self.lanes.voice(None).listener.mark
                mark(_WAIT, NONE)
                fence = voice.tape.fence()
                after = voice.tape.wait(fence)
                mark(~_WAIT, NONE)
                voice.tape.resolve()
                ended.wait = (after, voice.tape.position(fence))
                ended.waits = 1
                voice.anchor()
            else:
                voice.tape.resolve()
        except RuntimeError as error:  # the device is lost: keep what the host saw, and let the program hear of it
            voice.lost = True
            voice.tape.lose()
            ended.error = ended.error or f"device times lost: {error}"
            host_ids = []
        ended.anchors = len(voice.tape.anchors)
        return host_ids

    def _role_of(self, plan: Plan, inputs: Mapping[str, Json]) -> str:
        """Without a role given, the first generation of each model and input shape is cold."""
        shapes = repr((plan.index, inputs["shapes"]))
        if shapes in self._seen_shapes:
            return TIMED
        self._seen_shapes[shapes] = None
        if len(self._seen_shapes) > _MOST_SHAPES:
            del self._seen_shapes[next(iter(self._seen_shapes))]
        return COLD


def execution_device(model: nn.Module) -> int | None:
    """The CUDA device on which a model's work runs (not where offloaded weights rest), ``None`` without one."""
    return cuda_index(working_device(model))


def cuda_index(device: torch.device | None) -> int | None:
    """The number of a CUDA device, of the current one where it names none; ``None`` of any other."""
    if device is None or device.type != "cuda":
        return None
    return torch.cuda.current_device() if device.index is None else device.index
