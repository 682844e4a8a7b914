"""Synthetic recordings with round numbers, for tests that need no model: what a device, or a host, might have seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vlmtrace.timeline import names
from vlmtrace.timeline.recording import (
    COLD,
    TIMED,
    WARMED,
    Anchor,
    Clock,
    Cost,
    FoundStage,
    Generation,
    Recording,
    TracedModel,
    Track,
)
from vlmtrace.timeline.spans import NewSpan, SpansBuilder
from vlmtrace.timeline.validation import validate

US = 1_000
MS = 1_000_000
ORIGIN = 5_000_000_000_000
UNIX = 1_795_000_000_000_000_000

__all__ = ["COLD", "MS", "ORIGIN", "TIMED", "UNIX", "US", "WARMED", "Shape", "recording"]


@dataclass(frozen=True)
class Shape:
    """Durations of one synthetic generation, in ns; ``lead`` is how far the device ends a stage after the host.

    The host waits for the device before a generation ends, so that the device reaches entry and return of ``generate``
    at once, after 5 µs at the most; ``late`` is how much later it reaches the return.
    """

    setup: int = 2 * MS
    vision: int = 30 * MS
    between: int = 1 * MS
    prefill: int = 20 * MS
    first_token: int = 500 * US
    step: int = 10 * MS
    gap: int = 1 * MS
    tail: int = 300 * US
    steps: int = 4
    lead: int = 200 * US
    late: int = 0
    vision_inside: bool = False
    role: str = TIMED


def recording(*shapes: Shape, device: int | None = 0, detail: str = "module") -> Recording:
    """A recording of one generation per shape, on a device (default) or, with ``device=None``, on the host's clock."""
    shapes = shapes or (Shape(),)
    made = _Maker(device, detail)
    for index, shape in enumerate(shapes):
        made.generation(index, shape)
    return made.finish()


class _Maker:
    def __init__(self, device: int | None, detail: str) -> None:
        self.device, self.detail = device, detail
        kinds = ("generations", "stages", "steps", "modules", "tokens")
        self.tracks = [Track(kind, device, 4711, "MainThread") for kind in kinds]
        self.tracks.append(Track("host", None, 4711, "MainThread"))
        self.at = ORIGIN
        self.builder = SpansBuilder()
        self.generations: list[Generation] = []
        self.clocks: list[Clock] = []

    def span(self, name: str, track: str, axis: tuple[int, int], lead: int = 0, **more: object) -> int:
        kinds = [t.kind for t in self.tracks]
        lead = 0 if self.device is None or track == "host" else lead
        host = (axis[0] - lead // 2, axis[1] - lead)
        return self.builder.add(NewSpan(name, kinds.index(track), axis, host, **more))  # type: ignore[arg-type]

    def generate(self, axis: tuple[int, int], shape: Shape, **more: object) -> int:
        at_once, late = (0, 0) if self.device is None else (min(shape.lead // 2, 5 * US), shape.late)
        host = (axis[0] - at_once, axis[1] - at_once - late)
        return self.builder.add(NewSpan(names.GENERATE, 0, axis, host, **more))  # type: ignore[arg-type]

    def generation(self, index: int, shape: Shape) -> None:
        begin = self.at
        request_begin = begin
        pre = (begin, begin + 5 * MS)
        generate_begin = begin + 6 * MS
        inside = shape.vision if shape.vision_inside else 0
        before = 0 if shape.vision_inside else shape.vision + shape.between
        prefill = generate_begin + shape.setup + before
        prefill_end = prefill + shape.prefill + inside
        decode = prefill_end + shape.first_token
        count = shape.steps
        decode_end = decode + count * shape.step + max(0, count - 1) * shape.gap if count else decode
        end = decode_end + shape.tail
        request_end = end + 3 * MS
        g = {"generation": index}
        request = self.span(names.REQUEST, "generations", (request_begin, request_end), **g)
        self.span(names.PREPROCESS, "host", pre, parent=request, **g)
        root = self.generate((generate_begin, end), shape, parent=request, **g)
        self.span(names.OTHER_SETUP, "stages", (generate_begin, generate_begin + shape.setup), parent=root, **g)
        vision_begin = prefill if shape.vision_inside else generate_begin + shape.setup
        prefill_row = self.span(names.PREFILL, "stages", (prefill, prefill_end), shape.lead, parent=root, **g)
        vision_row = self.span(
            names.VISION,
            "stages",
            (vision_begin, vision_begin + shape.vision),
            shape.lead,
            parent=prefill_row if shape.vision_inside else root,
            args={"images": 1, "visual_tokens": 64},
            **g,
        )
        encoder = (vision_begin, vision_begin + shape.vision * 3 // 4)
        self.span(names.ENCODER, "modules", encoder, shape.lead, parent=vision_row, args={"path": "model.visual"}, **g)
        if not shape.vision_inside:
            self.span(names.OTHER_BETWEEN, "stages", (prefill - shape.between, prefill), parent=root, **g)
        first_token = prefill_end + shape.first_token // 2
        self.span(names.TOKEN, "tokens", (first_token, first_token), parent=root, number=0, **g)
        self.span(names.OTHER_FIRST_TOKEN, "stages", (prefill_end, decode), parent=root, **g)
        if count:
            decode_row = self.span(names.DECODE, "stages", (decode, decode_end), shape.lead, parent=root, **g)
            at = decode
            for step in range(count):
                if step:
                    self.span(names.GAP, "steps", (at, at + shape.gap), parent=decode_row, number=step - 1, **g)
                    at += shape.gap
                self.span(
                    names.STEP,
                    "steps",
                    (at, at + shape.step),
                    shape.lead,
                    parent=decode_row,
                    number=step,
                    args={"kv": 101 + step},
                    **g,
                )
                at += shape.step
                token = at + 100 * US
                self.span(names.TOKEN, "tokens", (token, token), parent=root, number=step + 1, **g)
        self.span(names.OTHER_TAIL, "stages", (decode_end, end), parent=root, **g)
        self.span(names.WAIT, "host", (end + 10 * US, end + 40 * US), **g)
        self.span(names.DETOKENIZE, "host", (end + 1 * MS, end + 2 * MS), parent=request, **g)
        if self.device is not None:
            anchor = Anchor(end + 50 * US, 1_000 + end - ORIGIN, end + 60 * US)
            self.clocks.append(Clock(self.device, index, ORIGIN - 1_000, 0, 20_000, 5 * US, 100, 30, 0, (anchor,)))
        self.generations.append(
            Generation(
                index=index,
                role=shape.role,
                model=0,
                span=root,
                clock=None if self.device is None else index,
                mode="eager",
                new_tokens=(count + 1,),
                inputs={"batch": 1, "prompt_tokens": 100, "visual_tokens": 64, "images": 1},
                output={"sha256": "0" * 64, "tokens": count + 1},
                tags={},
            )
        )
        self.at = request_end + 10 * MS

    def finish(self) -> Recording:
        spans, row_of = self.builder.freeze()
        model = TracedModel(
            name="tiny",
            class_name="LlavaForConditionalGeneration",
            model_type="llava",
            parameters=61_300,
            random_weights=True,
            dtype="bfloat16",
            device="cpu" if self.device is None else "cuda:0",
            attention="sdpa",
            stages=(FoundStage(names.VISION, "model.get_image_features", "method"),),
        )
        cost = Cost(
            path="host clock" if self.device is None else "cudaEventRecord",
            marks=100,
            ranges=0,
            waits=len(self.generations),
            anchor_waits=2 * len(self.generations),
            mark_ns=2_000,
            range_ns=0,
            host_ns=tuple(50_000 for _ in self.generations),
        )
        return validate(
            Recording(
                name="tiny",
                detail=self.detail,
                origin_ns=ORIGIN,
                origin_unix_ns=UNIX,
                environment={"gpu": None if self.device is None else "H100", "torch": "2.13.0"},
                workload={"command": ["vlmtrace", "record", "--demo"]},
                models=(model,),
                generations=tuple(replace(g, span=row_of[g.span]) for g in self.generations),
                tracks=tuple(self.tracks),
                spans=spans,
                counters=(),
                clocks=tuple(self.clocks),
                cost=cost,
            )
        )
