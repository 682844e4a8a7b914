"""Kernels and copies for a synthetic recording, as if a profiler's report had been paired with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.synthetic import MS, US
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import COPIES, KERNELS, Pairing, Recording, Track
from vlmtrace.timeline.spans import NewSpan, Span, SpansBuilder
from vlmtrace.timeline.validation import validate

__all__ = ["HOSTILE", "Kernels", "with_kernels"]

HOSTILE = "void kernel<\"a\", 'b'>(</script>,\n\0 é" + "x" * 300
"""A name with all that makes trouble in a file or on a page."""

_TRACKS = tuple(
    Track(kind, device, 4711, "MainThread", stream=stream)
    for kind, device, stream in (
        (KERNELS, 0, 14),
        (KERNELS, 0, 7),
        (KERNELS, 0, 7),
        (KERNELS, 1, 7),
        (COPIES, 0, 7),
        (COPIES, 0, 14),
    )
)
_SIDE, _MAIN, _BRANCH, _SECOND_DEVICE, _COPIES, _SIDE_COPIES = range(len(_TRACKS))

_OF_STAGE = {
    names.VISION: ("conv_fprop_kernel", "flash_fwd_kernel", "gemm_bf16_128x256", "gelu_kernel"),
    names.PREFILL: ("rms_norm_kernel", "gemm_bf16_128x128", "flash_fwd_kernel", "silu_mul_kernel"),
    names.STEP: ("rms_norm_kernel", "gemv_bf16_kernel", "flash_fwd_splitkv_kernel", "gemv_bf16_kernel"),
    names.GAP: ("softmax_warp_forward", "argmax_kernel"),
    names.OTHER_FIRST_TOKEN: ("argmax_kernel",),
}
_UNATTRIBUTED = "launched outside of every range"


@dataclass(frozen=True)
class Kernels:
    """What is laid into each stage: its kernels ``times`` over, each call ``shift`` ns later on the host.

    ``graphs`` launches the kernels of every step by one call, the last of them beside the others. ``name`` is the last
    kernel's of each vision.
    """

    times: int = 3
    shift: int = 0
    graphs: bool = True
    name: str = HOSTILE


def with_kernels(base: Recording, kernels: Kernels = Kernels()) -> Recording:
    """``base``, which a device timed, with rows of kernels and copies behind its own."""
    made = _Maker(base, kernels)
    made.unattributed()
    for span in base.spans:
        if span.name in (*_OF_STAGE, names.OTHER_SETUP):
            made.stage(span)
    return made.finish()


class _Maker:
    def __init__(self, base: Recording, kernels: Kernels) -> None:
        self.base, self.kernels = base, kernels
        self.builder = SpansBuilder()
        self.builder.extend_with(base.spans)
        self.count = 0

    def add(
        self, track: int, name: str, axis: tuple[int, int], call: tuple[int, int, str] | None, **more: int | str | None
    ) -> None:
        """One operation; ``call`` is begin, end and name of the call that launched it, ``more`` are its arguments."""
        generation, number = more.pop("generation", None), more.pop("number", None)
        args = {key: value for key, value in more.items() if value is not None}
        host = axis
        if call is not None:
            host, args["call"] = (call[0] + self.kernels.shift, call[1] + self.kernels.shift), call[2]
        if _TRACKS[track].kind == KERNELS:
            args |= {"kernel": f"void {name}<bfloat16>(int)", "grid": "132×1×1", "block": "128×1×1"}
            self.count += 1
        where = len(self.base.tracks) + track
        self.builder.add(NewSpan(name, where, axis, host, generation=generation, number=number, args=args))  # type: ignore[arg-type]

    def unattributed(self) -> None:
        """Two kernels before everything else, one of them with a call."""
        begin = self.base.spans.begin[0] - MS
        for track, at, call in (
            (_MAIN, begin, (begin - 20 * US, begin - 10 * US, "cuLaunchKernelEx")),
            (_SIDE, begin + 60 * US, None),
        ):
            self.add(track, "fill_kernel", (at, at + 50 * US), call, unattributed=_UNATTRIBUTED)

    def stage(self, span: Span) -> None:
        """Its kernels, one behind the other in equal slots, as were their calls."""
        about = {"generation": span.generation, "number": span.number, "stage": span.name}
        if span.name == names.OTHER_SETUP:
            return self.setup(span, about)
        own = _OF_STAGE[span.name] * self.kernels.times
        begin, width = self._own_part(span)
        host, host_width = self._host_part(span, begin)
        slot, host_slot = width // len(own), host_width // len(own)
        graph = self.kernels.graphs and span.name == names.STEP
        for number, name in enumerate(own):
            last = number == len(own) - 1
            at, called = begin + number * slot, host + number * host_slot
            call = (called + host_slot // 10, called + host_slot // 2, "cudaLaunchKernel")
            axis = (at + slot * 6 // 10, at + slot)
            track = _MAIN
            if graph:
                call = (host + host_slot // 10, host + 2 * host_slot, "cudaGraphLaunch")
                track, axis = (_BRANCH, (axis[0] - slot, axis[1])) if last else (_MAIN, axis)
            if last and span.name == names.VISION:
                name = self.kernels.name  # noqa: PLW2901
            if last and span.name == names.PREFILL:
                track = _SECOND_DEVICE
            if last and span.name == names.GAP:
                track = _SIDE
            module = "vision.encoder" if span.name == names.VISION and not last else None
            self.add(track, name, axis, call, module=module, **about)
        return None

    def _own_part(self, span: Span) -> tuple[int, int]:
        """Where the span's kernels go: what a vision inside it leaves free."""
        inside = [one.end for one in self.base.spans.named(names.VISION) if one.parent == span.row]
        begin = max([span.begin, *inside])
        return begin, span.end - begin

    def _host_part(self, span: Span, begin: int) -> tuple[int, int]:
        host = max(span.host_begin, span.host_begin + begin - span.begin)
        return host, max(0, span.host_end - host)

    def setup(self, span: Span, about: dict[str, int | str | None]) -> None:
        """The inputs' way to the device on two streams, one call each, and a buffer set to zero."""
        slot = span.duration // 10
        for track, at, name, size in (
            (_COPIES, 1, "Memcpy HtoD", 1_204_224),
            (_SIDE_COPIES, 3, "Memcpy HtoD", 4_408),
            (_COPIES, 5, "Memset", 65_536),
        ):
            begin = span.begin + at * slot
            call = "cudaMemsetAsync" if name == "Memset" else "cudaMemcpyAsync"
            called = begin - slot // 2
            self.add(track, name, (begin, begin + slot), (called, called + slot // 4, call), bytes=size, **about)

    def finish(self) -> Recording:
        spans, row_of = self.builder.freeze()
        return validate(
            replace(
                self.base,
                tracks=self.base.tracks + _TRACKS,
                spans=spans,
                generations=tuple(replace(one, span=row_of[one.span]) for one in self.base.generations),
                pairing=Pairing(
                    report="tiny.sqlite",
                    product="2026.3.1",
                    schema="3.20",
                    offset_ns=1_000,
                    pivot_ns=0,
                    rate_ppb=0,
                    bound_ns=900,
                    kernels=self.count,
                    unattributed={_UNATTRIBUTED: 2},
                ),
            )
        )
