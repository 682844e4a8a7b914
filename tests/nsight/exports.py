"""Exports of Nsight Systems with generations in them, and the recordings that vlmtrace would have made beside them.

    with Export(path, "3.25.0") as export:
        laid = generation(export.process().thread(), Plan(steps=8, delay_ns=400 * US))
    made = matching_recording(export, offset_ns=export.start_ns)

A generation is laid as vlmtrace's ranges and marks tell it, with device work in every stage; what it answers knows how
much of it was launched where. The recording's host times are the marks' plus ``offset_ns``, and its device times are
when the streams reached them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise

from tests.nsight.export_file import US, Export, Process, Thread
from tests.nsight.laid import Kernel, Laid, Work
from tests.nsight.schemas import NEWEST, OLD, OLDEST, REAL, VERSIONS
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import (
    TIMED,
    WARMED,
    Anchor,
    Clock,
    Cost,
    Generation,
    Recording,
    TracedModel,
    Track,
)
from vlmtrace.timeline.spans import NewSpan, SpansBuilder
from vlmtrace.timeline.validation import validate

__all__ = [
    "NEWEST",
    "OLD",
    "OLDEST",
    "REAL",
    "US",
    "VERSIONS",
    "Export",
    "Generated",
    "Kernel",
    "Laid",
    "Launches",
    "Plan",
    "Process",
    "Thread",
    "Work",
    "generation",
    "matching_recording",
    "recorded",
]

CCCL = "CCCL"
"""The NVTX domain of CUB and Thrust, whose ranges lie inside vlmtrace's."""

GEMM = Kernel(0, "gemm", "<cutlass_80_tensorop_bf16_s16816gemm_bf16_128x64>")


@dataclass(frozen=True, slots=True)
class Launches:
    """So many kernels, each as long; every second one is a matrix product."""

    count: int
    ns: int = 4 * US

    def kernels(self, parts: int = 1, part: int = 0) -> list[Kernel]:
        """The kernels; or those of one of so many parts, as even as they can be."""
        product, other = Kernel(self.ns, GEMM.name, GEMM.template), Kernel(self.ns)
        first, behind = (self.count * at // parts for at in (part, part + 1))
        return [other if number % 2 else product for number in range(first, behind)]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one ``generate()`` does: kernels by stage, and how they come about.

    ``gap`` is launched between two steps, ``setup``, ``between``, ``first_token`` and ``tail`` where vlmtrace has
    ``other``; all of these in ``generate`` and in no stage. Before every stage's kernels come ``copies`` to the device
    and ``memsets``; before every kernel ``asides``, calls that the CUDA runtime makes of its driver. ``layers`` ranges
    share the kernels of prefill and of every step. ``graphs``: the kernels of a step are one CUDA graph, which the
    export tells by its nodes (``node``) or as one (``graph``). With ``cccl`` the first kernel of the prefill lies in a
    range of another library's. Work begins ``delay_ns`` after its call or later. ``syncs``: the host waits for the
    device before it returns (``end``), or after every token (``token``), or never.
    """

    steps: int = 4
    tokens: int = 100
    h2d: Launches | None = None
    setup: Launches = Launches(2, US)
    encoder: Launches = Launches(20)
    projector: Launches = Launches(4)
    between: Launches = Launches(1, US)
    prefill: Launches = Launches(30, 10 * US)
    first_token: Launches = Launches(1, US)
    step: Launches = Launches(12)
    gap: Launches = Launches(3, 2 * US)
    tail: Launches = Launches(0)
    copies: int = 1
    memsets: int = 1
    asides: int = 0
    layers: int = 0
    graphs: str | None = None
    cccl: bool = False
    vision: bool = True
    vision_inside: bool = False
    delay_ns: int = 200 * US
    syncs: str | None = "end"
    role: str = TIMED


@dataclass(slots=True, eq=False)
class Generated:
    """One generation as it was laid: its outermost range, and what its recording needs besides."""

    plan: Plan
    thread: Thread
    device: int
    root: Laid
    h2d: Laid | None = None
    wait: Laid | None = None
    tokens: list[tuple[int, int]] = field(default_factory=list)
    anchors: list[tuple[int, int, int]] = field(default_factory=list)

    def ranges(self, name: str) -> list[Laid]:
        """Its ranges of that name, in order."""
        return [laid for laid in self.root.walk() if laid.name == name]

    def work(self, name: str) -> Work:
        """The work launched in all of its ranges of that name, whatever lay inside them."""
        total = Work()
        for laid in self.ranges(name):
            total += laid.work
        return total

    def own(self, name: str) -> Work:
        """The work launched in its ranges of that name and in no range inside them."""
        total = Work()
        for laid in self.ranges(name):
            total += laid.own
        return total


@contextmanager
def recorded(thread: Thread) -> Iterator[None]:
    """What vlmtrace lays before and around the generations of a recording: its cost measured, then the one range."""
    for _ in range(3):
        with thread.range(names.CALIBRATE):
            thread.at += US
    begin = thread.at
    yield
    thread.start_end(names.RECORDING, begin, thread.at)


def generation(thread: Thread, plan: Plan | None = None) -> Generated:
    """Lay one ``generate()``, the wait behind it and an anchor, beginning at the thread's time."""
    plan = plan or Plan()
    thread.delay_ns = plan.delay_ns
    h2d = None
    if plan.h2d is not None:
        with thread.range(names.H2D, marks=True) as h2d:
            for _ in range(plan.h2d.count):
                thread.copy(1 << 20, ns=plan.h2d.ns)
    name = names.WARMUP if plan.role == WARMED else names.GENERATE
    with thread.range(name, marks=True) as root:
        made = Generated(plan, thread, thread.device, root, h2d)
        _inside(made)
    with thread.range(names.WAIT) as made.wait:
        thread.record_event(2 * US)
        thread.synchronize("cudaEventSynchronize_v3020")
    with thread.range(names.ANCHOR):
        for _ in range(2):
            before = thread.at
            reached = thread.record_event(2 * US)
            thread.synchronize("cudaEventSynchronize_v3020")
            made.anchors.append((before, reached, thread.at))
    thread.process.generated.append(made)
    return made


def _inside(made: Generated) -> None:
    thread, plan = made.thread, made.plan
    _launch(thread, plan, plan.setup.kernels())
    if plan.vision and not plan.vision_inside:
        _vision(thread, plan)
        _launch(thread, plan, plan.between.kernels())
    with thread.range(names.PREFILL, plan.tokens, marks=True):
        if plan.vision and plan.vision_inside:
            _vision(thread, plan)
        _moves(thread, plan)
        if plan.cccl:
            with thread.range("cub::DeviceScan::InclusiveScan", domain=CCCL):
                thread.launch(Kernel(US, "DeviceScanKernel", "<long>"), "cuLaunchKernel")
        _layers(thread, plan, plan.prefill)
    _token(made)
    _launch(thread, plan, plan.first_token.kernels())
    for step in range(plan.steps):
        if step:
            _launch(thread, plan, plan.gap.kernels())
        with thread.range(names.STEP, step, marks=True):
            _moves(thread, plan)
            if plan.graphs is None:
                _layers(thread, plan, plan.step)
            else:
                thread.launch_graph(plan.step.kernels(), 1, plan.graphs)
        _token(made)
    _launch(thread, plan, plan.tail.kernels())
    if plan.syncs == "end":
        thread.synchronize()


def _token(made: Generated) -> None:
    made.tokens.append(made.thread.mark())
    if made.plan.syncs == "token":
        made.thread.copy(kind=2)
        made.thread.synchronize()


def _vision(thread: Thread, plan: Plan) -> None:
    with thread.range(names.VISION, marks=True):
        _moves(thread, plan)
        with thread.range(names.ENCODER, marks=True):
            _launch(thread, plan, plan.encoder.kernels())
        with thread.range(names.PROJECTOR, marks=True):
            _launch(thread, plan, plan.projector.kernels())


def _moves(thread: Thread, plan: Plan) -> None:
    for _ in range(plan.copies):
        thread.copy()
    for _ in range(plan.memsets):
        thread.memset()


def _layers(thread: Thread, plan: Plan, launches: Launches) -> None:
    parts = max(1, plan.layers)
    for layer in range(parts):
        with thread.range(names.LAYER, marks=True) if plan.layers else nullcontext():
            _launch(thread, plan, launches.kernels(parts, layer))


def _launch(thread: Thread, plan: Plan, kernels: list[Kernel]) -> None:
    for kernel in kernels:
        for _ in range(plan.asides):
            thread.call("cuKernelGetName", driver=True)
        thread.launch(kernel)


def matching_recording(
    export: Export, offset_ns: int, *, drift_ppb: int = 0, process: Process | None = None, name: str = "made-up"
) -> Recording:
    """The recording of a process's generations: a time ``t`` of the export is ``t + offset_ns`` on its axis.

    Its clock runs ``drift_ppb`` faster than the export's from the start of the session on. Host times are those of the
    marks: ``beside_ns`` before a range begins and behind its end.
    """
    process = process or next(one for one in export.processes if one.generated)
    return _Match(process, lambda at: at + offset_ns + at * drift_ppb // 10**9).recording(name, export.utc_ns)


class _Match:
    """The recording of what was laid. ``axis`` maps an export's time onto the recording's."""

    def __init__(self, process: Process, axis: Callable[[int], int]) -> None:
        self.process, self.axis = process, axis
        self.builder = SpansBuilder()
        self.tracks: dict[tuple[str, int | None, int], int] = {}
        self.clocks: list[Clock] = []
        self.generations: list[Generation] = []

    def recording(self, name: str, utc_ns: int) -> Recording:
        for index, made in enumerate(self.process.generated):
            self.generation(index, made)
        spans, row_of = self.builder.freeze()
        generations = [
            Generation(one.index, one.role, 0, row_of[one.span], one.clock, one.mode, one.new_tokens, one.inputs)
            for one in self.generations
        ]
        marks = sum(len(laid.marks) for made in self.process.generated for laid in made.root.walk())
        count = len(generations)
        layers = any(made.plan.layers for made in self.process.generated)
        model = TracedModel("made-up", "MadeUp", "made_up", 0, True, "bfloat16", "cuda:0", "sdpa", ())
        return validate(
            Recording(
                name=name,
                detail="layer" if layers else "module",
                origin_ns=self.axis(0),
                origin_unix_ns=utc_ns,
                environment={"gpu": "NVIDIA H100 80GB HBM3", "pid": self.process.pid},
                workload={},
                models=(model,),
                generations=tuple(generations),
                tracks=tuple(Track(kind, device, thread, "MainThread") for kind, device, thread in self.tracks),
                spans=spans,
                counters=(),
                clocks=tuple(self.clocks),
                cost=Cost("cudaEventRecord", marks, marks // 2, count, 2 * count, 2_000, 150, (50_000,) * count),
            )
        )

    def track(self, kind: str, made: Generated, device: int | None) -> int:
        return self.tracks.setdefault((kind, device, made.thread.tid), len(self.tracks))

    def generation(self, index: int, made: Generated) -> None:
        if made.h2d is not None:
            self.span(index, made, names.H2D, made.h2d.marks)
        root = self.span(index, made, names.GENERATE, made.root.marks)
        self.stages(index, made, root)
        for number, (host, device) in enumerate(made.tokens):
            self.span(index, made, names.TOKEN, [(host, device)] * 2, parent=root, number=number)
        if made.wait is not None and made.wait.end is not None:
            self.span(index, made, names.WAIT, [(made.wait.start,) * 2, (made.wait.end,) * 2])
        # The device's clock is the axis less the offset of the session's start.
        offset = self.axis(0)
        anchors = tuple(Anchor(self.axis(a), self.axis(b) - offset, self.axis(c)) for a, b, c in made.anchors)
        self.clocks.append(Clock(made.device, index, offset, 0, 0, US, 0, 0, 0, anchors))
        inputs = {"batch": 1, "prompt_tokens": made.plan.tokens}
        tokens = (made.plan.steps + 1,)
        self.generations.append(Generation(index, made.plan.role, 0, root, index, "eager", tokens, inputs))

    def stages(self, index: int, made: Generated, root: int) -> None:
        """The stages of a generation, and what lies between them as it is named there."""
        vision = [laid for laid in made.root.children if laid.name == names.VISION]
        (prefill,) = made.ranges(names.PREFILL)
        steps = made.ranges(names.STEP)
        begin, end = made.root.marks
        at = begin
        for laid, before in zip([*vision, prefill], (names.OTHER_SETUP, names.OTHER_BETWEEN), strict=False):
            self.span(index, made, before, [at, laid.marks[0]], parent=root)
            self.tree(index, made, laid, root)
            at = laid.marks[1]
        until = steps[0].marks[0] if steps else made.tokens[0]
        self.span(index, made, names.OTHER_FIRST_TOKEN, [at, until], parent=root)
        if steps:
            until = steps[-1].marks[1]
            decode = self.span(index, made, names.DECODE, [steps[0].marks[0], until], parent=root)
            for step in steps:
                self.tree(index, made, step, decode)
            for number, (one, following) in enumerate(pairwise(steps)):
                gap = [one.marks[1], following.marks[0]]
                self.span(index, made, names.GAP, gap, parent=decode, number=number)
        self.span(index, made, names.OTHER_TAIL, [until, end], parent=root)

    def tree(self, index: int, made: Generated, laid: Laid, parent: int) -> None:
        """A range with what lies in it; a prefill's number is the tokens in the range, and none in the recording."""
        numbered = laid.number if laid.name == names.STEP else None
        row = self.span(index, made, laid.name, laid.marks, parent=parent, number=numbered)
        layers = (number for number, child in enumerate(laid.children) if child.name == names.LAYER)
        for child in laid.children:
            if child.name == names.LAYER:
                self.span(index, made, names.LAYER, child.marks, parent=row, number=next(layers))
            else:
                self.tree(index, made, child, row)

    def span(
        self,
        index: int,
        made: Generated,
        name: str,
        marks: list[tuple[int, int]],
        *,
        parent: int | None = None,
        number: int | None = None,
    ) -> int:
        track = self.track(_TRACK_OF.get(name, "stages"), made, None if name == names.WAIT else made.device)
        (host_begin, begin), (host_end, end) = [(self.axis(host), self.axis(device)) for host, device in marks]
        return self.builder.add(
            NewSpan(name, track, (begin, end), (host_begin, host_end), parent, generation=index, number=number)
        )


_TRACK_OF = {
    names.GENERATE: "generations",
    names.STEP: "steps",
    names.GAP: "steps",
    names.ENCODER: "modules",
    names.PROJECTOR: "modules",
    names.LAYER: "layers",
    names.TOKEN: "tokens",
    names.WAIT: "host",
}
