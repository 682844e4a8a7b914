"""Sections: blocks that are shown below a summary when asked for, before anybody draws them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Section"]


@dataclass(frozen=True, slots=True)
class Section:
    """Text to be drawn as a block of its own.

    Each of ``lines`` and ``notes`` is parts to be set apart by dots; ``lines`` stand above the table, ``notes`` below.
    The first column of the table is of words, and so are those named in ``words``; all others are numbers.
    """

    title: str
    lines: tuple[tuple[str, ...], ...] = ()
    headings: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[tuple[str, ...], ...] = ()
    words: frozenset[str] = frozenset()

    def is_words(self, column: int) -> bool:
        """Whether that column holds words, to be set flush left."""
        return column == 0 or self.headings[column] in self.words
