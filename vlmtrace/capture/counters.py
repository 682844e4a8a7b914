"""Counters: what was counted or sampled beside the marks, put onto the axis when the recording is composed."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from vlmtrace.capture.ended import Ended
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Counter, Recording, Track

__all__ = ["counter", "with_counters"]

_MEMORY: Final = (("allocated", "allocated_bytes"), ("reserved", "reserved_bytes"), ("peak allocated", "peak_bytes"))
_CACHE: Final = "KV cache"


def counter(name: str, unit: str, device: int | None, samples: Iterable[tuple[int, int]]) -> Counter:
    """A counter of ``samples``: time on the axis and value, in any order."""
    ordered = sorted(samples)
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
    """The allocator's bytes on each device, as they were before and after each generation."""
    for name, key in _MEMORY:
        samples: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for one, kept in zip(recording.generations, ended, strict=True):
            if kept.device is None:
                continue
            span = recording.generate_span(one)
            for time, told in ((span.begin, kept.memory_before), (span.end, kept.device_state)):
                value = told.get(key)
                if isinstance(value, int):
                    samples[kept.device].append((time, value))
        for device, made in samples.items():
            yield counter(name, "bytes", device, made)
