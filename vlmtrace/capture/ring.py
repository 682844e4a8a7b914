"""The ring: how generations end in a server. Nothing waits for the device; the slowest few are kept, whole.

Behind each generation lies one event more. Before a later one begins, or when the ring is read, the device is asked
whether it has passed that event: if so, the generation's elapsed times are there to be read. Until then nobody waits.
A generation is resolved against its own first event and laid on the host's clock by its own marks: from below by the
host times at which they were recorded, from above by the host time at which the latest of them that the device had
passed by then was found to be so.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from vlmtrace.capture import outcome
from vlmtrace.capture.clocks import monotonic_ns
from vlmtrace.capture.disturbances import Disturbance
from vlmtrace.capture.ended import Ended
from vlmtrace.capture.lanes import Lane, Voice
from vlmtrace.capture.observed import Observed
from vlmtrace.capture.tape import Tape
from vlmtrace.timeline import names

__all__ = ["Kept", "Ring"]

_LOOK_BACK: Final = 16
"""How many of a generation's last marks the device is asked about: the last token's, and those behind it."""
_MOST_OPEN: Final = 64
"""More generations than these that a device has not passed are more than a server queues: the oldest is let go."""
_MOST_SEEN: Final = 256
"""Of all threads together; a generation in which more is collected and compiled than this keeps the latest."""
_DETOKENIZED: Final = ~names.KIND_OF[names.DETOKENIZE]


@dataclass(slots=True, eq=False)
class Kept:
    """One generation with all that was marked for it; ``duration`` is that of its ``generate``, ``begin`` its host
    time, in ns. The lane is a copy, its tapes are closed and resolved.
    """

    lane: Lane
    ended: Ended
    begin: int
    duration: int
    disturbances: list[Disturbance]


@dataclass(slots=True, eq=False)
class _Open:
    """A generation that has ended on the host, and perhaps not on the device.

    ``begin`` and ``end`` are positions on the lane's tapes, by device: everything that was marked for it. ``passed``
    is (host time, position) of a mark that the device had passed by then.
    """

    ended: Ended
    end_tokens: frozenset[int]
    host_ids: list[tuple[int, torch.Tensor]]
    fence: Any
    passed: tuple[int, int] | None
    begin: dict[int | None, int]
    end: dict[int | None, int]


@dataclass(slots=True, eq=False)
class _Queue:
    """One thread's generations that have not been resolved, and where on each tape those for the next one begin."""

    lane: Lane
    open: list[_Open] = field(default_factory=list)
    begin: dict[int | None, int] = field(default_factory=dict)
    generating: bool = False


class Ring:
    """The ``size`` slowest generations, by the length of ``generate``.

    ``before`` and ``after`` are called by the generating thread around each generation, the rest by any thread.
    ``seen`` are the disturbances of the recording; the ring keeps what fell into its generations.
    """

    def __init__(self, size: int, seen: list[Disturbance]) -> None:
        self.size = size
        self.generations = 0
        self.given_up = 0
        self._seen = seen
        self._heap: list[tuple[int, int, Kept]] = []
        self._order = itertools.count()
        self._queues: dict[int, _Queue] = {}
        self._lock = threading.RLock()

    def before(self, lane: Lane) -> None:
        """A generation is about to begin: read what the device has passed, and make room on the tapes."""
        with self._lock:
            queue = self._queues.setdefault(id(lane), _Queue(lane))
            self._part(queue)
            self._harvest(queue)
            if not queue.open:
                for device, voice in lane.voices.items():
                    voice.tape.drop(queue.begin.pop(device, 0))
            del self._seen[:-_MOST_SEEN]
            for other in [one for one in self._queues.values() if one.lane.has_ended]:
                self._retire(other)
            queue.generating = True

    def after(self, ended: Ended, observed: Observed) -> None:
        """A generation has returned: note how far the device has come, and let it be."""
        voice, tape = ended.voice, ended.voice.tape
        with self._lock:
            queue = next((one for one in self._queues.values() if voice in one.lane.voices.values()), None)
            if queue is None:  # the ring has been closed meanwhile
                return
            queue.generating = False
            self.generations += 1
            host_ids, fence, passed = [], None, None
            try:
                host_ids = [(prompt, outcome.on_host(ids)) for prompt, ids in observed.answers]
                if tape.clock is not None:
                    passed = _passed(tape, range(max(ended.first, ended.last - _LOOK_BACK), ended.last))
                    fence = tape.lend()
            except RuntimeError:  # the device is lost, and with it what it knows of this generation
                self.given_up += 1
                return
            ends = outcome.end_tokens(observed.generation_config)
            here = {device: len(one.tape) for device, one in queue.lane.voices.items()}
            queue.open.append(_Open(ended, ends, host_ids, fence, passed, queue.begin, here))
            queue.begin = dict(here)
            if len(queue.open) > _MOST_OPEN:
                self.given_up += 1
                del queue.open[0]

    def kept(self) -> list[Kept]:
        """The slowest of the generations that the device has passed, those first that began first."""
        with self._lock:
            for queue in self._queues.values():
                self._harvest(queue)
            return sorted((kept for _, _, kept in self._heap), key=lambda kept: kept.begin)

    def close(self) -> None:
        """Give back the events of all threads; what is kept stays."""
        with self._lock:
            for queue in list(self._queues.values()):
                self._retire(queue)

    def _part(self, queue: _Queue) -> None:
        """What was marked since a generation is its own up to the last detokenizing, and the next one's from there."""
        for device, voice in queue.lane.voices.items():
            queue.begin[device] = voice.tape.behind(_DETOKENIZED, queue.begin.get(device, 0))
            if queue.open:
                queue.open[-1].end[device] = queue.begin[device]

    def _harvest(self, queue: _Queue) -> None:
        while queue.open:
            one = queue.open[0]
            tape = one.ended.voice.tape
            if one.fence is not None:
                if not tape.clock_has_passed(one.fence):
                    return
                if one.passed is None:
                    one.passed = (monotonic_ns(), one.ended.last - 1)
                tape.take_back(one.fence)
            del queue.open[0]
            self._offer(queue.lane, one)

    def _offer(self, lane: Lane, one: _Open) -> None:
        """Keep a generation if it is among the slowest; of the others nothing is resolved but how long they took."""
        ended = one.ended
        duration = ended.voice.tape.length(ended.first, ended.last - 1)
        if duration is None:
            self.given_up += 1
            return
        if len(self._heap) == self.size and duration <= self._heap[0][0]:
            return
        voices = {device: _taken(device, voice, one) for device, voice in lane.voices.items()}
        voice = next(voices[device] for device, own in lane.voices.items() if own is ended.voice)
        shift = next(one.begin.get(device, 0) for device, own in lane.voices.items() if own is ended.voice)
        first, last = ended.first - shift, ended.last - shift
        marks = voice.tape.marks
        if one.passed is not None:
            at, position = one.passed
            ended.wait = (at, marks.device[position - shift])
        ended.count(one.host_ids, one.end_tokens)
        ended.voice, ended.first, ended.last, ended.anchors = voice, first, last, 2
        begin, end = marks.host[first], marks.host[last - 1]
        fallen = [seen for seen in self._seen if seen.thread == lane.thread and begin <= seen.begin <= end]
        kept = Kept(Lane(lane.thread, lane.name, lane.owner, voices), ended, begin, duration, fallen)
        push = heapq.heappush if len(self._heap) < self.size else heapq.heappushpop
        push(self._heap, (duration, next(self._order), kept))

    def _retire(self, queue: _Queue) -> None:
        self._harvest(queue)
        self._queues.pop(id(queue.lane), None)
        for voice in queue.lane.voices.values():
            voice.tape.close(in_use=queue.generating and not queue.lane.has_ended)


def _taken(device: int | None, voice: Voice, one: _Open) -> Voice:
    """A voice with what was marked for one generation, resolved and closed."""
    begin, end = one.begin.get(device, 0), one.end.get(device, 0)
    tape = voice.tape.taken(begin, end, origin=one.ended.first if voice is one.ended.voice else begin)
    return Voice(tape, None, tape, voice.prices)


def _passed(tape: Tape, positions: Sequence[int]) -> tuple[int, int] | None:
    """Host time and position of the latest of these marks that the device has passed by now."""
    for position in reversed(positions):
        if tape.has_passed(position):
            return monotonic_ns(), position
    return None
