"""The Recording: everything one run of ``vlmtrace record`` observed, frozen.

Observations only: medians, verdicts and findings are computed from a recording and never stored in it.
All times are integer nanoseconds on the axis (the host's monotonic clock).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from vlmtrace.timeline.spans import Span, Spans

__all__ = [
    "COLD",
    "COPIES",
    "DETAILS",
    "KERNELS",
    "NSIGHT",
    "PROFILED",
    "TIMED",
    "TRACK_KINDS",
    "UNKNOWN",
    "WARMED",
    "Anchor",
    "Clock",
    "Cost",
    "Counter",
    "FoundStage",
    "Generation",
    "Json",
    "Lowered",
    "OverheadPair",
    "Pairing",
    "Recording",
    "SyncSite",
    "TracedModel",
    "Track",
]

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

KERNELS: Final = "kernels"
COPIES: Final = "copies"
TRACK_KINDS: Final = (
    "generations",
    "stages",
    "steps",
    "modules",
    "layers",
    "drafts",
    "tokens",
    "spans",
    KERNELS,
    COPIES,
    "host",
)
"""The rows of a timeline, in the order in which they are shown."""

DETAILS: Final = ("stage", "module", "layer")
"""How finely a recording looks, from coarse to fine."""

UNKNOWN: Final = "unknown"
"""What is said of a model's class, number type or mode where nobody told it: of a report read without a trace."""

TIMED: Final = "timed"
WARMED: Final = "warmup"
COLD: Final = "cold"
PROFILED: Final = "profiled"
"""The role of a generation that was made to see its kernels: a profiler slowed it, and no statistic counts its times.
"""

NSIGHT: Final = "Nsight Systems"


@dataclass(frozen=True, slots=True)
class Track:
    """One row of the timeline; spans on it are nested or disjoint.

    ``kind`` is one of :data:`TRACK_KINDS`. ``device`` is the CUDA device whose clock the spans come from, ``None``
    for the host's. ``thread`` is the operating system's id of the generating thread. ``stream`` is the CUDA stream of
    kernels and copies, as a profiler numbers it.
    """

    kind: str
    device: int | None
    thread: int
    thread_name: str
    rank: int | None = None
    stream: int | None = None


@dataclass(frozen=True, slots=True)
class Anchor:
    """One reading of both clocks: ``device`` (ns on the device's clock) lies between the two host times."""

    host_before: int
    device: int
    host_after: int


@dataclass(frozen=True, slots=True)
class Clock:
    """How one generation's device times were laid on the axis: ``axis = device + offset + rate × (device − pivot)``.

    ``rate_ppb`` is the fitted drift in parts per 10⁹; every position on the axis is within ``bound_ns`` of the truth.
    ``residual_ns`` is the fit's, ``chain_ns`` the error of chained elapsed times; ``widened_ns`` is how much the
    offset's interval had to grow to hold every constraint (0 where it was not empty).
    """

    device: int
    generation: int
    offset_ns: int
    pivot_ns: int
    rate_ppb: int
    bound_ns: int
    residual_ns: int
    chain_ns: int
    widened_ns: int
    anchors: tuple[Anchor, ...]


@dataclass(frozen=True, slots=True)
class Counter:
    """A sampled quantity: ``values[i]`` (in ``unit``) held from ``times[i]`` on."""

    name: str
    unit: str
    device: int | None
    times: array[int]
    values: array[int]


@dataclass(frozen=True, slots=True)
class FoundStage:
    """A part of the model that is traced: the stage name, the module path, and how discovery found it."""

    stage: str
    path: str
    how: str
    guess: bool = False


@dataclass(frozen=True, slots=True)
class TracedModel:
    """A model of the recording. ``parameters`` counts elements, each shared tensor once.

    ``notes`` are discovery's: what it could not find or had to guess, in sentences.
    """

    name: str
    class_name: str
    model_type: str
    parameters: int
    random_weights: bool
    dtype: str
    device: str
    attention: str
    stages: tuple[FoundStage, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """One outermost ``generate()`` call.

    ``role`` is :data:`TIMED`, :data:`WARMED`, :data:`COLD` (the first of its input shape in a traced script) or
    :data:`PROFILED`.
    ``span`` is the row of its ``generate`` span, ``clock`` its position in the recording's clocks (``None`` on the
    host's clock). ``new_tokens`` counts each sequence's tokens until its end-of-sequence token, padding never.
    ``inputs`` holds what was known of the inputs without asking the device: ``batch``, ``prompt_tokens``,
    ``visual_tokens``, ``images`` and tensor ``shapes``. ``mode`` is how it decoded (``eager``, ``compiled``).
    ``error`` is the exception that ended it, if one did. ``device_state`` is what changed on its device meanwhile, read
    before and after it: ``alloc_retries`` and ``segments_added`` of the allocator as differences, ``allocated_bytes``,
    ``reserved_bytes``, ``peak_bytes`` (the process's, or this generation's own where stages tell theirs), and through
    NVML ``sm_clock_mhz``, ``max_sm_clock_mhz``, ``temperature_c`` and ``throttled_by`` as they were at its end; NVML is
    asked once a second only.
    """

    index: int
    role: str
    model: int
    span: int
    clock: int | None
    mode: str
    new_tokens: tuple[int, ...]
    inputs: Mapping[str, Json] = field(default_factory=dict)
    output: Mapping[str, Json] = field(default_factory=dict)
    tags: Mapping[str, Json] = field(default_factory=dict)
    error: str | None = None
    device_state: Mapping[str, Json] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.error is None


@dataclass(frozen=True, slots=True)
class Cost:
    """What tracing cost. ``host_ns[g]`` is generation g's count of marks, ranges and tokens × their calibrated cost,
    and the time in which the allocator was read and the room for marks grew inside of it.

    ``mark_ns`` and ``range_ns`` are the calibrated costs of one mark and one NVTX range, ``token_ns`` is what a token
    and its step cost besides their marks; ``waits`` are the waits added inside or right after ``generate()``;
    ``anchor_waits`` those taken outside of it to align the clocks. ``path`` names the way events are recorded.
    ``samples`` is how often NVML was asked about the GPUs while they were sampled, by a thread of its own, and
    ``sampling_ns`` how much of the host's time that took in all.
    """

    path: str
    marks: int
    ranges: int
    waits: int
    anchor_waits: int
    mark_ns: int
    range_ns: int
    host_ns: tuple[int, ...]
    samples: int = 0
    sampling_ns: int = 0
    token_ns: int = 0


@dataclass(frozen=True, slots=True)
class SyncSite:
    """A line of source that makes the host wait for the device, as torch's sync debug mode reports it.

    ``file`` starts at its package (``transformers/…/modeling_x.py``), ``function`` is the qualified name of the
    innermost Python function outside torch. ``stage`` is the innermost stage it happened in; one line in two stages is
    two sites. ``count`` is how often, summed over all audited generations.
    """

    file: str
    line: int
    function: str
    stage: str
    count: int


@dataclass(frozen=True, slots=True)
class OverheadPair:
    """One request made twice, untraced and traced: the host's wall time of each ``generate()``, in ns.

    On a device both begin and end with an idle device, so that the time holds its work.
    """

    untraced_ns: int
    traced_ns: int


@dataclass(frozen=True, slots=True)
class Lowered:
    """Why a recording looks less finely than it was asked to: at that detail its cost was above a limit.

    ``asked`` is one of :data:`DETAILS`. ``counted_ns`` is the host time spent in marks and ranges, as in :class:`Cost`,
    in the warm-up at that detail which cost most, ``generate_ns`` its host wall. ``limit_ppm`` is in parts per 10⁶.
    """

    asked: str
    counted_ns: int
    generate_ns: int
    limit_ppm: int


@dataclass(frozen=True, slots=True)
class Pairing:
    """The report of a profiler that kernels and copies were taken from.

    ``tool`` is the profiler, ``report`` its file's name, ``product`` and ``schema`` the versions of the profiler and
    of its export. Its times were laid on the axis by ``axis = t + offset + rate × (t − pivot)``, each within
    ``bound_ns`` of the truth. ``kernels`` is how many the report holds, CUDA graphs that it tells as a whole among
    them; ``unattributed`` counts those that belong to no stage, by reason. All others are spans with the argument
    ``stage``.
    """

    report: str
    product: str
    schema: str
    offset_ns: int
    pivot_ns: int
    rate_ppb: int
    bound_ns: int
    kernels: int
    unattributed: Mapping[str, Json]
    tool: str = NSIGHT


@dataclass(frozen=True, slots=True)
class Recording:
    """Everything one recording holds. Made by ``Recorder.finish()``, by ``load()`` and by analysis, never edited.

    ``origin_ns`` is the axis position that exported times count from and ``origin_unix_ns`` the wall-clock time
    there. ``incomplete`` says why a recording ended early, ``None`` where it did not. ``syncs`` were seen in
    ``audited`` further generations, which are not in the recording otherwise; 0: no audit was made. ``overhead`` are
    further requests made to measure what tracing adds: of the pairs in order, the first, third, … began untraced.
    ``lowered`` is ``None`` where ``detail`` is what was asked for. ``pairing`` is ``None`` where no kernels are known.
    """

    name: str
    detail: str
    origin_ns: int
    origin_unix_ns: int
    environment: Mapping[str, Json]
    workload: Mapping[str, Json]
    models: tuple[TracedModel, ...]
    generations: tuple[Generation, ...]
    tracks: tuple[Track, ...]
    spans: Spans
    counters: tuple[Counter, ...]
    clocks: tuple[Clock, ...]
    cost: Cost
    incomplete: str | None = None
    syncs: tuple[SyncSite, ...] = ()
    audited: int = 0
    overhead: tuple[OverheadPair, ...] = ()
    lowered: Lowered | None = None
    pairing: Pairing | None = None

    @property
    def on_device(self) -> bool:
        """Whether any stage was timed by a device's clock; else every time is the host's."""
        return any(track.device is not None for track in self.tracks)

    def generate_span(self, generation: Generation) -> Span:
        return self.spans[generation.span]

    def spans_of(self, generation: Generation) -> Iterator[Span]:
        """The spans of one generation, in order."""
        index = generation.index
        column = self.spans.generation
        return (Span(self.spans, row) for row in range(len(column)) if column[row] == index)
