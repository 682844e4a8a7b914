"""Titles: what a slice or row is called on a timeline, short and printable, whatever the recording calls it."""

from __future__ import annotations

from array import array
from typing import Final

from vlmtrace.timeline import names
from vlmtrace.timeline.recording import COLD, PROFILED, WARMED, Generation, Recording

__all__ = ["Titles", "clean"]

_LONGEST: Final = 120
_ROLES: Final = {WARMED: "warm-up", COLD: "cold", PROFILED: "profiled"}


def clean(text: str, longest: int = _LONGEST) -> str:
    """``text`` as a viewer can show it: at most ``longest`` characters, no control character, never empty."""
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    if not cut.isprintable():
        cut = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in cut)
    return cut or "(unnamed)"


class Titles:
    """The titles of a recording's slices, answered one span at a time."""

    def __init__(self, recording: Recording) -> None:
        self._name = recording.spans.name
        self._by_name = [clean(names.short(name)) for name in recording.spans.strings]
        self._by_row = {generation.span: _generation_title(generation) for generation in recording.generations}
        self._index_of = {generation.span: generation.index for generation in recording.generations}

    def alike(self) -> array[int]:
        """By row a number that is the same where titles are, of the span and of its launch."""
        made = self._name[:]
        for row in self._by_row:
            made[row] = -1 - row
        return made

    def of(self, row: int) -> str:
        """The title of span ``row``: its short name, of a generation with its token counts."""
        return self._by_row.get(row) or self._by_name[self._name[row]]

    def of_launch(self, row: int) -> str:
        """The title of the slice in which the host launched span ``row``."""
        index = self._index_of.get(row)
        title = self._by_name[self._name[row]] if index is None else f"{names.GENERATE} #{index}"
        return f"{title} → launches"

    def of_call(self, call: int) -> str:
        """The title of the slice of a CUDA call, whose name is at ``call`` in the spans' string table."""
        return self._by_name[call]


def _generation_title(generation: Generation) -> str:
    """``generate #3 529 img / 551 → 32``: visual tokens of the prompt's tokens, and the tokens that came of it."""
    visual, prompt = (_count(generation, key) for key in ("visual_tokens", "prompt_tokens"))
    title = f"{names.GENERATE} #{generation.index}"
    if visual is not None:
        title += f" {visual} img"
    if prompt is not None:
        title += f"{'' if visual is None else ' /'} {prompt}"
    if generation.new_tokens:
        title += f" → {sum(generation.new_tokens)}"
    notes = [_ROLES[generation.role]] if generation.role in _ROLES else []
    if not generation.complete:
        notes.append("incomplete")
    return f"{title} ({', '.join(notes)})" if notes else title


def _count(generation: Generation, key: str) -> int | None:
    value = generation.inputs.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
