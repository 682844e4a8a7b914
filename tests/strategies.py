"""Strategies: valid recordings as hypothesis draws them, with all that a name or a tag may contain."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from tests import synthetic
from tests.kernels import Kernels, with_kernels
from tests.synthetic import MS, ORIGIN, US, Shape
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Counter, Json, Lowered, OverheadPair, Recording, SyncSite, Track
from vlmtrace.timeline.spans import NewSpan, SpansBuilder
from vlmtrace.timeline.validation import validate

__all__ = ["anything", "jsons", "plain", "recordings"]

INT64 = st.integers(-(2**63), 2**63 - 1)

plain = st.text(st.characters(codec="utf-8", categories=("L", "N", "S"), exclude_characters='"\\'), max_size=8)
"""Text that needs no escape anywhere."""

anything = st.one_of(
    st.text(st.characters(), max_size=8),
    st.sampled_from(
        ["</script>", "a\nb", "\0", '"', "\\", "step", "decode.step", "generate #1", "id", "arg:id", "\ud800"]
    ),
)
"""Text as a user may choose it: control characters, quotes, lone surrogates, and the words of the format itself."""


def jsons(text: st.SearchStrategy[str]) -> st.SearchStrategy[Json]:
    """JSON as a user may tag a generation with; infinities included, NaN not, since it does not equal itself."""
    leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), text)
    keys = st.one_of(text, st.sampled_from(["$float", "$dict"]))
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=2), max_leaves=4
    )


@dataclass
class _Tree:
    """Draws spans that nest or lie apart, so that any of them may be put on any track."""

    draw: st.DrawFn
    text: st.SearchStrategy[str]
    builder: SpansBuilder
    tracks: range

    def grow(self, begin: int, end: int, parent: int | None, depth: int) -> None:
        draw = self.draw
        lag = draw(st.integers(-1000, 1000))
        stage = st.sampled_from([names.VISION, names.STEP, names.LAYER, names.TOKEN])
        handle = self.builder.add(
            NewSpan(
                draw(st.one_of(self.text, stage)),
                draw(st.sampled_from(self.tracks)),
                (begin, end),
                (begin - lag, max(begin - lag, end - draw(st.integers(-1000, 1000)))),
                parent=draw(st.sampled_from([parent, None])),
                generation=draw(st.sampled_from([0, None])),
                number=draw(st.one_of(st.none(), st.integers(0, 2**40))),
                incomplete=draw(st.booleans()),
                args=draw(self._args()),
            )
        )
        count = draw(st.integers(0, 3)) if depth else 0
        cuts = sorted(draw(st.lists(st.integers(begin, end), min_size=2 * count, max_size=2 * count)))
        for child in range(count):
            self.grow(cuts[2 * child], cuts[2 * child + 1], handle, depth - 1)

    def _args(self) -> st.SearchStrategy[dict[str, int | str]]:
        """A key is text or a number throughout a recording, so its last letter says which."""
        numbers = st.dictionaries(st.one_of(self.text.map("{}1".format), st.just("id")), INT64, max_size=2)
        texts = st.dictionaries(st.one_of(self.text.map("{}x".format), st.just("arg:")), self.text, max_size=2)
        return st.tuples(numbers, texts).map(lambda both: {**both[0], **both[1]})


@st.composite
def recordings(draw: st.DrawFn, text: st.SearchStrategy[str] = anything) -> Recording:
    """A synthetic recording with a random tree of spans, odd names, kernels, tags and counters added to it."""
    shapes = st.builds(
        Shape,
        step=st.integers(500 * US, 2 * MS),
        gap=st.integers(0, 1 * MS),
        steps=st.integers(0, 3),
        lead=st.integers(0, 400 * US),
        vision_inside=st.booleans(),
        role=st.sampled_from([synthetic.TIMED, synthetic.WARMED, synthetic.COLD]),
    )
    base = synthetic.recording(*draw(st.lists(shapes, min_size=1, max_size=2)), device=draw(st.sampled_from([0, None])))
    if base.on_device and draw(st.booleans()):
        base = with_kernels(base, draw(_kernels(text)))
    extra = (
        Track("stages", draw(st.sampled_from([0, 1, None])), 4711, "MainThread"),
        Track("spans", None, 4712, draw(text), rank=draw(st.sampled_from([None, 0, 1]))),
        Track("host", None, 4712, "worker"),
    )
    builder = SpansBuilder()
    handles: list[int] = []
    for span in base.spans:
        parent = None if span.parent is None else handles[span.parent]
        handles.append(
            builder.add(
                NewSpan(
                    span.name,
                    span.track,
                    (span.begin, span.end),
                    (span.host_begin, span.host_end),
                    parent=parent,
                    generation=span.generation,
                    number=span.number,
                    args=span.args,
                )
            )
        )
    first = len(base.tracks)
    begin = ORIGIN + draw(st.integers(-20 * US, 20 * US))
    _Tree(draw, text, builder, range(first, first + len(extra))).grow(
        begin, begin + draw(st.integers(0, 9_000)), None, 2
    )
    spans, row_of = builder.freeze()
    syncs = tuple(draw(st.lists(_sites(text), max_size=2)))
    generations = tuple(
        replace(one, span=row_of[handles[one.span]], tags=draw(st.dictionaries(text, jsons(text), max_size=2)))
        for one in base.generations
    )
    return validate(
        replace(
            base,
            name=draw(text),
            origin_ns=ORIGIN + draw(st.sampled_from([0, -1, 7 * MS])),
            workload=draw(st.dictionaries(text, jsons(text), max_size=2)),
            generations=generations,
            tracks=base.tracks + extra,
            spans=spans,
            counters=tuple(draw(st.lists(_counters(text), max_size=2))),
            incomplete=draw(st.one_of(st.none(), text)),
            syncs=syncs,
            audited=draw(st.integers(1 if syncs else 0, 3)),
            overhead=tuple(draw(st.lists(st.builds(OverheadPair, _LENGTHS, _LENGTHS), max_size=3))),
            lowered=draw(st.none() | _LOWERED),
        )
    )


_LENGTHS = st.integers(1, 2**62)

_LOWERED = st.builds(Lowered, st.just("layer"), st.integers(0, 2**62), _LENGTHS, st.integers(0, 10**6))
"""From the finest detail: a synthetic recording is of ``module`` detail."""


def _kernels(text: st.SearchStrategy[str]) -> st.SearchStrategy[Kernels]:
    """Calls earlier or later than their stages were launched cut across those, and across what they launched."""
    return st.builds(Kernels, st.integers(1, 2), st.integers(-2 * MS, 2 * MS), st.booleans(), text)


def _sites(text: st.SearchStrategy[str]) -> st.SearchStrategy[SyncSite]:
    stages = st.sampled_from([names.ENCODER, names.PREFILL, names.GAP, *names.OTHER_PARTS])
    return st.builds(SyncSite, text, st.integers(0, 10**6), text, stages, st.integers(1, 2**40))


@st.composite
def _counters(draw: st.DrawFn, text: st.SearchStrategy[str]) -> Counter:
    times = sorted(draw(st.lists(st.integers(ORIGIN - 50 * US, ORIGIN + 50 * MS), max_size=3)))
    values = draw(st.lists(INT64, min_size=len(times), max_size=len(times)))
    unit = draw(st.sampled_from(["bytes", "count", "µs", ""]))
    return Counter(draw(text), unit, draw(st.sampled_from([0, 3, None])), array("q", times), array("q", values))
