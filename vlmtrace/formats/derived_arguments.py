"""Derived arguments: what a person who clicks on a slice is told beside what was recorded of it.

For reading only, in a dictionary of their own: how far the host was ahead, a stage's share of its generation, how it
was found in the model, what went into a generation. Few slices have any: a recording may hold a million of others.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from vlmtrace.formats.titles import clean
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Generation, Recording, TracedModel
from vlmtrace.timeline.spans import NONE

__all__ = ["DerivedArguments"]

Texts: TypeAlias = tuple[tuple[str, str], ...]

_LEAD: Final = "lead_us"
_SHARE: Final = "share_percent"
_SHARED: Final = frozenset((names.VISION, names.PREFILL, names.DECODE))
_FOUND: Final = _SHARED | {names.ENCODER, names.PROJECTOR, names.LM_HEAD}
_LONGEST: Final = 500


class DerivedArguments:
    """By row of a recording's spans; ``is_launched`` says of each row whether a device timed a stage there.

    ``leads`` are whole µs from the host's second mark to the device's, as the counter shows them, ``shares`` percent of
    the generation. ``alike`` is the same number where texts are the same, and the same of these two is there.
    """

    def __init__(self, recording: Recording, is_launched: Sequence[int]) -> None:
        spans = recording.spans
        self.leads: dict[int, int] = {}
        self.shares: dict[int, float] = {}
        self.alike = array("q", bytes(8 * len(spans)))
        self._texts: list[Texts] = [()]
        numbers: dict[tuple[Texts, bool, bool], int] = {((), False, False): 0}
        of_name = [name if name in _FOUND or name in (names.GENERATE, names.STEP) else None for name in spans.strings]
        for row, name_at in enumerate(spans.name):
            name = of_name[name_at]
            if name is None or spans.generation[row] == NONE:
                continue
            generation = recording.generations[spans.generation[row]]
            if is_launched[row]:
                self.leads[row] = (spans.end[row] - spans.host_end[row] + 500) // 1_000
            whole = spans.end[generation.span] - spans.begin[generation.span]
            if name in _SHARED and whole > 0:
                self.shares[row] = round(100 * (spans.end[row] - spans.begin[row]) / whole, 1)
            key = _texts(recording, generation, name), row in self.leads, row in self.shares
            self.alike[row] = numbers.setdefault(key, len(numbers))
            if len(numbers) > len(self._texts):
                self._texts.append(key[0])

    def texts(self, row: int) -> Texts:
        """What is told in words of a span, by key."""
        return self._texts[self.alike[row]]

    def numbers(self, row: int) -> list[tuple[str, Mapping[int, int] | Mapping[int, float]]]:
        """What is told in numbers of a span, by key; each number with all of its kind, by row."""
        return [(key, column) for key, column in ((_LEAD, self.leads), (_SHARE, self.shares)) if row in column]

    def of(self, row: int) -> dict[str, int | float | str]:
        """All of it."""
        return {key: column[row] for key, column in self.numbers(row)} | dict(self.texts(row))


def _texts(recording: Recording, generation: Generation, name: str) -> Texts:
    model = recording.models[generation.model] if generation.model < len(recording.models) else None
    if name == names.GENERATE:
        return _of_generation(generation, model)
    if model is None or name not in _FOUND:
        return ()
    found = "; ".join(f"{one.path}: {one.how}" for one in model.stages if one.stage == name)
    return (("found", clean(found, _LONGEST)),) if found else ()


def _of_generation(generation: Generation, model: TracedModel | None) -> Texts:
    made = [] if model is None else [("dtype", model.dtype), ("attention", model.attention)]
    made.append(("mode", generation.mode))
    shapes = generation.inputs.get("shapes")
    if isinstance(shapes, dict) and shapes:
        made.append(("shapes", " · ".join(f"{key} {'×'.join(map(str, _sizes(size)))}" for key, size in shapes.items())))
    return tuple((key, clean(text, _LONGEST)) for key, text in made if text)


def _sizes(size: object) -> list[object]:
    return size if isinstance(size, list) else [size]
