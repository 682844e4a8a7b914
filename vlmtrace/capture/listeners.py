"""Listeners: who is told of each boundary while the model runs. The tape of marks, and NVTX ranges beside it.

NVTX ranges are pushed only where a tool is attached: without one the ``nvtx`` package does nothing at all, and the
listener is left out. Names are registered strings, so that ``nsys --capture-range=nvtx`` can see them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from vlmtrace.timeline import names
from vlmtrace.timeline.spans import NONE

__all__ = ["Fanout", "Listener", "NvtxRanges", "RecordingRange", "attached_nvtx_domain"]


class Listener(Protocol):
    """Told of every boundary, in order. ``kind`` is a position in ``names.KINDS`` (or of a user's span behind them)."""

    @property
    def enter(self) -> Callable[[int, int], None]: ...
    @property
    def leave(self) -> Callable[[int], None]: ...
    @property
    def point(self) -> Callable[[int, int], None]: ...


def attached_nvtx_domain() -> Any | None:
    """The NVTX domain ``vlmtrace`` if a tool listens to it, else ``None``."""
    import nvtx

    domain = nvtx.get_domain(names.DOMAIN)
    return None if domain.get_event_attributes() is None else domain


class NvtxRanges:
    """Pushes one range per span: the stage name alone, with the number as payload where it is a step or a prefill.

    The ``nvtx`` package registers the messages of a domain's attributes. Points have no range. ``texts`` maps a kind
    to its name and is read once per kind.
    """

    _WITH_PAYLOAD = frozenset((names.KIND_OF[names.STEP], names.KIND_OF[names.PREFILL]))

    def __init__(self, domain: Any, texts: Callable[[int], str]) -> None:
        self._domain = domain
        self._texts = texts
        self._attributes: dict[int, Any] = {}
        self.count = 0
        self.depth = 0
        for kind in range(len(names.KINDS)):
            self._attributes_of(kind)

    def _attributes_of(self, kind: int) -> Any:
        attributes = self._attributes.get(kind)
        if attributes is None:
            attributes = self._domain.get_event_attributes(message=self._texts(kind))
            self._attributes[kind] = attributes
        return attributes

    def enter(self, kind: int, number: int) -> None:
        attributes = self._attributes_of(kind)
        if number != NONE and kind in self._WITH_PAYLOAD:
            attributes.payload = number
        self._domain.push_range(attributes)
        self.depth += 1
        self.count += 1

    def leave(self, kind: int) -> None:  # noqa: ARG002  (ranges close in order)
        self._domain.pop_range()
        self.depth -= 1

    def unwind(self, depth: int) -> None:
        """Close what an interrupt left open: torch runs no forward hook for a ``KeyboardInterrupt``."""
        while self.depth > depth:
            self.leave(NONE)

    def point(self, kind: int, number: int) -> None:
        """A point is a mark on the timeline only."""


class RecordingRange:
    """The one range around all generations but warm-ups, which a tool's capture range is set on.

    Started and ended rather than pushed and popped: generations may run on another thread than the one that stops.
    """

    def __init__(self, domain: Any | None) -> None:
        self._domain = domain
        self._handle: Any = None

    def open(self) -> None:
        if self._domain is not None and self._handle is None:
            self._handle = self._domain.start_range(self._domain.get_event_attributes(message=names.RECORDING))

    def close(self) -> None:
        if self._domain is not None and self._handle is not None:
            self._domain.end_range(self._handle)
            self._handle = None


class Fanout:
    """Several listeners told in turn, the first one first on the way in and last on the way out."""

    def __init__(self, *listeners: Listener) -> None:
        enters = tuple(listener.enter for listener in listeners)
        leaves = tuple(listener.leave for listener in reversed(listeners))
        points = tuple(listener.point for listener in listeners)

        def enter(kind: int, number: int) -> None:
            for tell in enters:
                tell(kind, number)

        def leave(kind: int) -> None:
            for tell in leaves:
                tell(kind)

        def point(kind: int, number: int) -> None:
            for tell in points:
                tell(kind, number)

        self.enter, self.leave, self.point = enter, leave, point
