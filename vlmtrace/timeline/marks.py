"""Marks: boundaries as they are written down, before anything is made of them."""

from __future__ import annotations

from array import array
from typing import Final

__all__ = ["POINT", "UNRESOLVED", "Marks"]

POINT: Final = 1 << 20
"""Added to a kind where the mark is a point (a token, the merge's end) rather than a boundary of a span."""

UNRESOLVED: Final = -(1 << 62)
"""The device time of a mark that the device never reached: recorded into a graph, or lost with its context."""


class Marks:
    """Resolved marks, parallel columns: ``code`` (kind, ``~kind`` for an end, ``POINT | kind``), number, host, device.

    On the host's clock ``device`` equals ``host``.
    """

    def __init__(self) -> None:
        self.code = array("i")
        self.number = array("q")
        self.host = array("q")
        self.device = array("q")

    def __len__(self) -> int:
        return len(self.code)
