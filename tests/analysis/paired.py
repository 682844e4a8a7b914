"""Paired recordings: a synthetic one with kernels and copies, as pairing it with a report would have put them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tests.analysis.altered import rebuilt
from tests.synthetic import US
from vlmtrace.timeline.recording import COPIES, KERNELS, Pairing, Recording, Track
from vlmtrace.timeline.spans import NewSpan

__all__ = ["Op", "paired"]


@dataclass(frozen=True)
class Op:
    """One kernel or, with ``copied`` bytes, one copy; ``call`` are begin and end of its launch on the host.

    Without a ``stage`` it is unattributed.
    """

    begin: int
    end: int
    stage: str | None
    generation: int | None = 0
    step: int | None = None
    name: str = "gemm"
    full: str | None = "void gemm<8>(float*)"
    device: int = 0
    stream: int = 7
    call: tuple[int, int] | None = None
    api: str = "cudaLaunchKernel"
    copied: int | None = None

    @property
    def is_kernel(self) -> bool:
        return self.copied is None

    @property
    def args(self) -> dict[str, int | str]:
        made: dict[str, int | str] = {"stage": self.stage} if self.stage is not None else {"unattributed": "elsewhere"}
        if self.is_kernel and self.full is not None:
            made["kernel"] = self.full
        if self.copied is not None:
            made["bytes"] = self.copied
        if self.call is not None:
            made["call"] = self.api
        return made


@dataclass
class _Lanes:
    """Tracks of one stream's kernels or copies, as many as it takes for none to overlap."""

    tracks: list[Track]
    ends: dict[tuple[str, int, int], list[list[int]]] = field(default_factory=dict)

    def track(self, op: Op) -> int:
        key = (KERNELS if op.is_kernel else COPIES, op.device, op.stream)
        lanes = self.ends.setdefault(key, [])
        for lane in lanes:
            if lane[1] <= op.begin:
                lane[1] = op.end
                return lane[0]
        self.tracks.append(Track(key[0], op.device, 4711, "MainThread", stream=op.stream))
        lanes.append([len(self.tracks) - 1, op.end])
        return lanes[-1][0]


def paired(recording: Recording, ops: Sequence[Op], **pairing: object) -> Recording:
    """``recording`` with these operations, and the report they are said to be of."""
    lanes = _Lanes(list(recording.tracks))
    spans = [
        NewSpan(
            op.name,
            lanes.track(op),
            (op.begin, op.end),
            op.call,
            generation=op.generation,
            number=op.step,
            args=op.args,
        )
        for op in sorted(ops, key=lambda op: (op.begin, op.end))
    ]
    of_none = Counter("elsewhere" for op in ops if op.stage is None and op.is_kernel)
    report = Pairing(
        report="run.nsys-rep",
        product="2025.3.2",
        schema="3.19.1",
        offset_ns=0,
        pivot_ns=0,
        rate_ppb=0,
        bound_ns=2 * US,
        kernels=sum(op.is_kernel for op in ops),
        unattributed=dict(of_none),
    )
    tracked = replace(recording, tracks=tuple(lanes.tracks))
    return replace(rebuilt(tracked, more=tuple(spans)), pairing=replace(report, **pairing))  # type: ignore[arg-type]
