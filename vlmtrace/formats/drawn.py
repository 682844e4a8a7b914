"""Drawn: what a recording's trace shows, as a reader of the trace has to find it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain

from vlmtrace.formats.layout import layout_of
from vlmtrace.formats.perfetto import DOCUMENT_CATEGORY
from vlmtrace.formats.slices import DERIVED, earliest, series, slices
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording

__all__ = ["Drawn"]


class Drawn:
    """The slices, arrows and samples of ``recording`` in a Perfetto or, with ``chrome``, a JSON trace.

    Times are ns as the file counts them. Everything is ascending by its first time, and made anew at each iteration: a
    recording may hold millions. ``counters`` are the names of those that the trace shows: one that is only derived from
    the recording, and that the version which wrote the trace did not draw yet, is not asked for.
    """

    def __init__(self, recording: Recording, counters: Collection[str], *, chrome: bool) -> None:
        self._recording, self._layout, self._chrome = recording, layout_of(recording), chrome
        self._counters = tuple(counters)
        self._start = earliest(recording, self._layout)
        self._base = min(self._start, recording.origin_ns, *(() if chrome else (0,)))

    def slices(self) -> Iterator[tuple[int, int, str, str]]:
        """Begin, duration, title and category of every slice, and of the instant that tells what was recorded."""
        facts = (self._start - self._base, 0, names.RECORDING, DERIVED if self._chrome else DOCUMENT_CATEGORY)
        drawn = (
            (one.begin - self._base, one.end - one.begin, one.title, one.category)
            for one in slices(self._recording, self._layout)
        )
        return chain((facts,), drawn)

    def arrows(self) -> Iterator[tuple[int, str, int, str]]:
        """Of every arrow: begin and title of the slice it leads to, and of the one it comes from."""
        left: dict[int, tuple[int, str]] = {}
        for one in slices(self._recording, self._layout):
            here = one.begin - self._base, one.title
            if one.arrives:
                yield (*here, *left.pop(one.flow))
            if one.leaves:
                left[one.flow] = here

    def samples(self) -> list[tuple[int, float]]:
        """Time and value of every sample of every counter."""
        every = (
            one
            for one in series(self._recording, self._layout)
            # In JSON a counter's name is followed by its unit.
            if one.row.index is not None or any(name.startswith(one.row.title) for name in self._counters)
        )
        pairs = chain.from_iterable(zip(one.times, one.values, strict=True) for one in every)
        return sorted((time - self._base, float(value)) for time, value in pairs)
