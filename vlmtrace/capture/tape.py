"""Tapes: the marks of one thread on one clock, written while the model runs and resolved when it has ended.

A mark is four integers in columns made beforehand: the host time, a code, a number, and (on a device) an event from
a pool. Nothing is formatted, looked up or waited for until :meth:`Tape.resolve`. The columns are lists, which take what
they are given as it is; :class:`Marks` are packed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from vlmtrace.capture.clocks import DeviceClock, monotonic_ns, rounding_ns
from vlmtrace.capture.listeners import Mark
from vlmtrace.timeline.marks import UNRESOLVED, Marks
from vlmtrace.timeline.recording import Anchor
from vlmtrace.timeline.spans import NONE

__all__ = ["Tape"]

_CHAIN_MS: Final = 1_000.0
"""Elapsed times are read against a reference no further away than this, so that float32 resolves 60 ns."""

_ANCHOR_TRIES: Final = 5

_CHUNK: Final = 512
"""Marks that a tape grows by where it grows between tokens: making their events takes below a millisecond."""

_NO_TIME: Final = 1 << 40
"""A number as large as a host time in ns; no smaller one has an object of its own."""


class Tape:
    """Marks of one thread on one clock. ``mark`` is the hot path: a closure with all it needs.

    It is a listener like the NVTX ranges: both are told the same boundaries.
    """

    def __init__(self, clock: DeviceClock | None, capacity: int = 1024, now: Callable[[], int] = monotonic_ns) -> None:
        self.clock = clock
        self.marks = Marks()
        self.anchors: list[Anchor] = []
        self.anchor_chain_ns: list[int] = []
        self.chain_ns = 0
        self.anchor_waits = 0
        self.total = 0
        self.grown_ns = 0
        self.closed = False
        self._now = now
        self._host: list[int] = []
        self._code: list[int] = []
        self._number: list[int] = []
        self._events: list[Any] = []
        self._count = 0
        self._reference: Any = None
        self._reference_ns = 0
        self._last_ns = 0
        if clock is not None:
            self._anchor_events = clock.create(2 * _ANCHOR_TRIES)
        self.reserve(capacity)
        self.mark = self._bound()

    def __len__(self) -> int:
        return self._count

    @property
    def written(self) -> int:
        """How many marks there are by now, resolved or not: the position of the next one in :attr:`marks`."""
        return len(self.marks) + self._count

    def reserve(self, room: int) -> None:
        """Make room for ``room`` more marks. Called between stages: growing takes longer than marking.

        ``grown_ns`` is how much of the host's time it has taken so far.
        """
        missing = self._count + room - len(self._host)
        if missing <= 0 or self.closed:
            return
        begun = self._now()
        missing = max(missing, _CHUNK)
        if self.clock is not None:
            self._events.extend(self.clock.create(missing))
        self._code.extend([0] * missing)
        self._number.extend([0] * missing)
        # Last: a mark finds all other columns at least as long. Each time is an object of its own, made here with the
        # room for it: where a mark puts a new one, the old one makes place.
        first = _NO_TIME + len(self._host)
        self._host.extend(range(first, first + missing))
        self.grown_ns += self._now() - begun

    def _bound(self) -> Mark:
        host, code, number, now, clock = self._host, self._code, self._number, self._now, self.clock
        if clock is None:

            def mark_host(value: int, n: int = NONE) -> None:
                i = self._count
                try:
                    host[i] = now()
                except IndexError:
                    if not self._made_way():
                        return
                    host[i] = now()
                code[i] = value
                number[i] = n
                self._count = i + 1

            return mark_host

        events, record, streams, stream, device = self._events, clock.record, clock.streams, clock.stream, clock.device

        def mark(value: int, n: int = NONE) -> None:
            i = self._count
            try:
                host[i] = now()
                record(events[i], streams[stream(device)])
            except LookupError:
                if not self._made_way():
                    return
                host[i] = now()
                record(events[i], streams[stream(device)])
            code[i] = value
            number[i] = n
            # Last, so that an interrupt before it leaves no half-written mark.
            self._count = i + 1

        return mark

    def _made_way(self) -> bool:
        """Make what a mark did not find: room, or the stream it has met. False on a tape that is closed.

        Another thread closes it when it ends the recording meanwhile.
        """
        if self.closed:
            return False
        self.reserve(1)
        if self.clock is not None:
            self.clock.meet(self.clock.stream(self.clock.device))
        return True

    def _record(self, event: Any) -> None:
        clock = self.clock
        assert clock is not None
        stream = clock.stream(clock.device)
        clock.meet(stream)
        clock.record(event, clock.streams[stream])

    def anchor(self) -> None:
        """Read both clocks together, several times, and keep the closest reading. The device should be idle.

        The first anchor is the reference that all device times of this tape count from. Marks made before must have
        been resolved: the anchor becomes the reference of those to come.
        """
        clock = self.clock
        if clock is None:
            return
        now, wait = self._now, clock.wait
        used = self._anchor_events[:_ANCHOR_TRIES]
        readings = []
        for event in used:
            before = now()
            self._record(event)
            wait(event)
            readings.append((now() - before, before, event))
        self.anchor_waits += len(used)
        width, before, event = min(readings, key=lambda reading: reading[0])
        if self._reference is None:
            self._reference, self._reference_ns = event, 0
        device = self.position(event)
        if device == UNRESOLVED:
            return
        self.anchors.append(Anchor(before, device, before + width))
        self.anchor_chain_ns.append(self.chain_ns)
        self._reference, self._reference_ns = event, device
        # The other half of the pool serves next time, so that the reference is not recorded over.
        self._anchor_events = self._anchor_events[_ANCHOR_TRIES:] + used

    def fence(self) -> Any:
        """Record one more event behind everything marked so far; what :meth:`wait` then waits for."""
        self.reserve(1)
        event = self._events[self._count]
        if self.clock is not None:
            self._record(event)
        return event

    def wait(self, event: Any) -> int:
        """Wait, spinning, until the device has passed ``event``; the host time after it, in ns."""
        if self.clock is not None:
            self.clock.wait(event)
        return self._now()

    def resolve(self) -> None:
        """Move what was marked since the last time to :attr:`marks`; the device must have passed all of it."""
        count = self._count
        marks = self.marks
        marks.code.extend(self._code[:count])
        marks.number.extend(self._number[:count])
        marks.host.extend(self._host[:count])
        if self.clock is None:
            marks.device.extend(self._host[:count])
        else:
            marks.device.extend(self._positions(self._events[:count]))
        self.total += count
        self._count = 0

    def discard(self) -> None:
        """Forget what was marked since the last time (a calibration, say)."""
        self._count = 0

    def lose(self) -> None:
        """Move what was marked to :attr:`marks` without device times: the device is lost, the host times are not."""
        count = self._count
        clock, self.clock = self.clock, None  # resolves as on the host's clock
        self.resolve()
        self.clock = clock
        if clock is not None:
            for i in range(len(self.marks) - count, len(self.marks)):
                self.marks.device[i] = UNRESOLVED

    def has_passed(self, position: int) -> bool:
        """Whether the device has passed the mark at ``position``, of those that are not resolved."""
        return self.clock_has_passed(self._events[position])

    def clock_has_passed(self, event: Any) -> bool:
        assert self.clock is not None
        return self.clock.query(event)

    def lend(self) -> Any:
        """Record one more event behind everything marked so far; it is the caller's until :meth:`take_back`."""
        assert self.clock is not None
        event = self._anchor_events.pop() if self._anchor_events else self.clock.create(1)[0]
        self._record(event)
        return event

    def take_back(self, event: Any) -> None:
        self._anchor_events.append(event)

    def behind(self, code: int, since: int) -> int:
        """The position behind the last mark with ``code`` from ``since`` on; ``since`` where there is none."""
        return next((i + 1 for i in range(self._count - 1, since - 1, -1) if self._code[i] == code), since)

    def length(self, first: int, last: int) -> int | None:
        """How long it took from one mark to another, in ns; ``None`` where the device never reached one of them."""
        if self.clock is None:
            return self._host[last] - self._host[first]
        (elapsed,) = self.clock.elapsed(self._events[first], self._events[last : last + 1])
        return None if elapsed is None else round(elapsed * 1e6)

    def taken(self, begin: int, end: int, origin: int) -> Tape:
        """A closed tape with copies of the marks from ``begin`` to ``end``, which the device must have passed.

        Their device times count from the mark at ``origin``.
        """
        made = Tape(None, 0, self._now)
        made.close()
        marks = made.marks
        marks.code.extend(self._code[begin:end])
        marks.number.extend(self._number[begin:end])
        marks.host.extend(self._host[begin:end])
        made.total = end - begin
        if self.clock is None or begin == end:
            marks.device.extend(marks.host)
        else:
            self._reference, self._reference_ns, self._last_ns = self._events[origin], 0, UNRESOLVED
            self.chain_ns = 0
            marks.device.extend(self._positions(self._events[begin:end]))
            made.anchor_chain_ns = [0, self.chain_ns]
            self._reference = None
        made.clock = self.clock
        return made

    def drop(self, count: int) -> None:
        """Forget the first ``count`` marks; those behind them move to the front, with their events."""
        kept = self._count - count
        if count == 0:
            return
        for column in (self._host, self._code, self._number, self._events):
            column[: self._count] = column[count : self._count] + column[:count]
        self._count = kept

    def close(self, *, in_use: bool = False) -> None:
        """Give the events back. The resolved marks stay, and no more are taken.

        ``in_use`` says that another thread is marking: it may be about to record an event, so these are left alone.
        """
        if self.closed:
            return
        self.closed = True
        # The hot path meets a full tape, and looks no further.
        self._count = len(self._host)
        if self.clock is not None and not in_use:
            self.clock.destroy(self._events)
            self.clock.destroy(self._anchor_events)
        self._events, self._anchor_events = [], []
        self._reference = None

    def position(self, event: Any) -> int:
        """The device time of an event that has been reached, in this tape's ns; :data:`UNRESOLVED` if it never was."""
        (position,) = self._positions([event])
        return position

    def _positions(self, events: Sequence[Any]) -> Iterator[int]:
        clock, done = self.clock, 0
        assert clock is not None
        while done < len(events):
            begin, base, last = self._reference, self._reference_ns, self._last_ns
            for elapsed in clock.elapsed(begin, events[done:]):
                event = events[done]
                done += 1
                if event == begin:
                    yield base
                    continue
                if elapsed is None:
                    yield UNRESOLVED
                    continue
                # One stream reaches its marks in order; float32 may turn two close ones around by a rounding step.
                last = max(last, base + round(elapsed * 1e6))
                if elapsed > _CHAIN_MS:
                    self.chain_ns += max(1, round(rounding_ns(elapsed)))
                    self._reference, self._reference_ns = event, last
                    yield last
                    break
                yield last
            self._last_ns = last
