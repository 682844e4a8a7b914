"""Counters: what was counted or sampled beside the marks, put onto the axis when the recording is composed."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Final

from vlmtrace.capture import memory
from vlmtrace.capture.ended import Ended
from vlmtrace.timeline import names
from vlmtrace.timeline.alignment import AffineMap
from vlmtrace.timeline.recording import Counter, Generation, Json, Recording, Track

__all__ = ["counter", "with_counters"]

_MEMORY: Final = (("allocated", "allocated_bytes"), ("reserved", "reserved_bytes"), ("peak allocated", "peak_bytes"))
_CACHE: Final = "KV cache"


def counter(name: str, unit: str, device: int | None, samples: Iterable[tuple[int, int]]) -> Counter:
    """A counter of ``samples``: time on the axis and value, in any order; at one time, the last is what holds."""
    ordered = sorted(samples, key=itemgetter(0))
    return Counter(name, unit, device, *(array("q", (sample[at] for sample in ordered)) for at in (0, 1)))


def with_counters(recording: Recording, ended: Sequence[Ended], sampled: Iterable[Counter]) -> Recording:
    """``recording`` with the size of the KV cache, the allocator's bytes, and what was ``sampled``.

    ``ended`` are its generations, in order. A counter that nothing is known of is left out.
    """
    return replace(recording, counters=(*_cache(recording, ended), *_memory(recording, ended), *sampled))


def _cache(recording: Recording, ended: Sequence[Ended]) -> Iterator[Counter]:
    """The bytes of each thread's KV cache: as long as a forward has made it when it ends, gone with its generation."""
    spans, known = recording.spans, recording.spans.args.get("kv")
    samples: defaultdict[Track, list[tuple[int, int]]] = defaultdict(list)
    home = [recording.tracks[recording.generate_span(one).track] for one in recording.generations]
    forwards = {at for at, name in enumerate(spans.strings) if name in {names.PREFILL, names.STEP}}
    for row, length in zip(known.rows, known.values, strict=True) if known is not None else ():
        index = spans.generation[row]
        layout = ended[index].cache if index >= 0 and spans.name[row] in forwards else None
        if layout is not None:
            samples[home[index]].append((spans.end[row], layout.bytes_at(length)))
    for one, track in zip(recording.generations, home, strict=True):
        if track in samples and ended[one.index].cache is not None:
            samples[track].append((recording.generate_span(one).end, 0))
    for track, made in samples.items():
        name = _CACHE if len(samples) == 1 else f"{_CACHE} · {track.thread_name}"
        yield counter(name, "bytes", track.device, made)


def _memory(recording: Recording, ended: Sequence[Ended]) -> Iterator[Counter]:
    """The allocator's bytes on each device."""
    for name, key in _MEMORY:
        samples: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for one, kept in zip(recording.generations, ended, strict=True):
            if kept.device is None:
                continue
            for time, told in _told(recording, one, kept):
                value = told.get(key)
                if isinstance(value, int):
                    samples[kept.device].append((time, value))
        for device, made in samples.items():
            yield counter(name, "bytes", device, made)


def _told(recording: Recording, one: Generation, kept: Ended) -> Iterator[tuple[int, Mapping[str, Json]]]:
    """What the allocator held, and when: before and after a generation, and at the borders of its stages if asked."""
    if not kept.readings or one.clock is None:
        span = recording.generate_span(one)
        yield span.begin, kept.memory_before
        yield span.end, kept.device_state
        return
    clock = recording.clocks[one.clock]
    to_axis = AffineMap(clock.offset_ns, clock.pivot_ns, clock.rate_ppb, clock.bound_ns, clock.widened_ns)
    yield from memory.samples(kept.readings, kept.voice.tape.marks, to_axis)
