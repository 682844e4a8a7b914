"""Listeners: who is told of each boundary while the model runs. The tape of marks, and NVTX ranges beside it.

NVTX ranges are pushed only where a tool is attached: without one the ``nvtx`` package does nothing at all, and the
listener is left out. Names are registered strings, so that ``nsys --capture-range=nvtx`` can see them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from vlmtrace.timeline import names
from vlmtrace.timeline.marks import POINT
from vlmtrace.timeline.spans import NONE

__all__ = ["Fanout", "Listener", "Mark", "NvtxRanges", "RecordingRange", "attached_nvtx_domain"]

Mark = Callable[[int, int], None]
"""Told of one boundary: ``code`` and ``number``. The code is a kind (a position in ``names.KINDS``, or of a user's span
behind them) where a span begins, ``~kind`` where it ends, and ``POINT | kind`` at a point."""


class Listener(Protocol):
    """Told of every boundary, in order."""

    @property
    def mark(self) -> Mark: ...


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
        self._texts = texts
        self._domain = domain
        self._attributes: list[Any] = []
        self.count = 0
        self.depth = 0
        self._name(len(names.KINDS) - 1)
        self.mark = self._bound()

    def _name(self, kind: int) -> None:
        for missing in range(len(self._attributes), kind + 1):
            self._attributes.append(self._domain.get_event_attributes(message=self._texts(missing)))

    def _bound(self) -> Mark:
        push, pop, attributes, with_payload = (
            self._domain.push_range,
            self._domain.pop_range,
            self._attributes,
            self._WITH_PAYLOAD,
        )

        def mark(code: int, number: int = NONE) -> None:
            if code < 0:  # ranges close in order
                pop()
                self.depth -= 1
                return
            if code >= POINT:
                return
            if code >= len(attributes):
                self._name(code)
            attribute = attributes[code]
            if code in with_payload and number != NONE:
                attribute.payload = number
            push(attribute)
            self.depth += 1
            self.count += 1

        return mark

    def unwind(self, depth: int) -> None:
        """Close what an interrupt between a mark and its ``try`` left open."""
        while self.depth > depth:
            self.mark(~0, NONE)


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
    """Two listeners, one around the other: the outer one is told first where a span begins, and last where it ends."""

    def __init__(self, outer: Listener, inner: Listener) -> None:
        tell_outer, tell_inner = outer.mark, inner.mark

        def mark(code: int, number: int = NONE) -> None:
            if code < 0:
                tell_inner(code, number)
                tell_outer(code, number)
            else:
                tell_outer(code, number)
                tell_inner(code, number)

        self.mark = mark
