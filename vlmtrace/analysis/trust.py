"""Trust: findings about how far the times of a device can be believed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from vlmtrace.analysis.case import Case, Finding, Slug, counted_text
from vlmtrace.analysis.launch import UNKNOWN_FROM
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Track
from vlmtrace.units import NS_PER_MS, NS_PER_US, duration_text

__all__ = ["WALL_SLACK_NS", "clock_widened", "shared_stream", "wall_mismatch", "wide_clock"]

WALL_SLACK_NS: Final = 50 * NS_PER_US
"""How much more than the clock's bound the host's wall time and the device's length may differ without a word."""

_SHOWN: Final = 3
_JUDGED: Final = {names.VISION: names.VISION, names.PREFILL: names.PREFILL, names.DECODE: names.STEP}


def wall_mismatch(case: Case) -> Finding | None:
    """The independent check fails: |host wall − device length| > clock bound + :data:`WALL_SLACK_NS`.

    The difference is the lead at the entry of ``generate()`` minus the lead at its return, so its sign says at which
    of the two the device still had work in front of the mark.
    """
    timed = [one for one in case.counted if one.clock_bound is not None]
    off = [one for one in timed if abs(one.account.host_minus_device) > (one.clock_bound or 0) + WALL_SLACK_NS]
    if not off:
        return None
    off.sort(key=lambda one: -abs(one.account.host_minus_device))
    worst = off[0].account.host_minus_device
    told = ", ".join(
        f"#{one.generation.index} {one.account.host_minus_device / NS_PER_MS:+.2f} ms".replace("-", "−")
        for one in off[:_SHOWN]
    )
    more = f" and {len(off) - _SHOWN:,} more" if len(off) > _SHOWN else ""
    return Finding(
        Slug.WALL_MISMATCH,
        f"host wall − device is beyond the clock's bound + {duration_text(WALL_SLACK_NS)} in {len(off):,} of "
        f"{counted_text(len(timed), 'generation')}: {told}{more}",
        "earlier work delayed the mark at the entry: wait for the GPU before generate()"
        if worst > 0
        else "the GPU still had work when generate() returned: read the host's time of it with care",
    )


def wide_clock(case: Case) -> Finding | None:
    """The clock's bound is more than a quarter of a judged stage, so that no verdict is given there."""
    wide = [
        f"{share * 100:.0f} % of {_JUDGED[stage]}"
        for stage, judgement in case.judgements.items()
        if (share := judgement.bound_share) > UNKNOWN_FROM
    ]
    if not wide:
        return None
    bounds = [one.clock_bound for one in case.counted if one.clock_bound is not None]
    return Finding(
        Slug.WIDE_CLOCK,
        f"the clock's bound (up to ± {duration_text(max(bounds, default=0))}) is {', '.join(wide)}: "
        "durations hold, leads and launch verdicts there do not",
        "see summary --clock; record on a machine that does nothing else",
    )


def clock_widened(case: Case) -> Finding | None:
    """A generation's marks and anchors contradict each other, so that its offset's interval had to be widened."""
    clocks = [case.recording.clocks[at] for one in case.counted if (at := one.generation.clock) is not None]
    widened = [clock for clock in clocks if clock.widened_ns > 0]
    if not widened:
        return None
    most = max(widened, key=lambda clock: clock.widened_ns)
    return Finding(
        Slug.CLOCK_WIDENED,
        f"marks and anchors contradict each other in {len(widened):,} of {counted_text(len(clocks), 'generation')}, by "
        f"{duration_text(most.widened_ns)} in #{most.generation}: the bound was widened to hold them all",
        "record again; a clock that was set or a machine that slept does this",
    )


def shared_stream(case: Case) -> Finding | None:
    """Generations of different threads ran on one device at the same time: each one's times hold the other's work."""
    counted = {one.generation.index for one in case.counted}
    pairs = [pair for pair in _together(case) if not counted.isdisjoint((pair[0][0], pair[1][0]))]
    if not pairs:
        return None
    (first, here), (second, there) = pairs[0]
    involved = counted & {index for pair in pairs for index, _ in pair}
    return Finding(
        Slug.SHARED_STREAM,
        f"{counted_text(len(involved), 'counted generation')} shared a GPU with another thread's: #{first} "
        f"({here.thread_name}) and #{second} ({there.thread_name}) overlap on GPU {here.device}, and each includes the "
        "other's work",
        "record one thread at a time",
    )


def _together(case: Case) -> Iterator[tuple[tuple[int, Track], tuple[int, Track]]]:
    """Each generation that begins while another thread's on its device lasts, behind that one."""
    recording = case.recording
    spans = sorted((one.stages.generate for one in case.measured), key=lambda span: span.row)
    running: dict[tuple[int | None, int], dict[int, tuple[int, int, Track]]] = {}
    for span in spans:
        track, index = recording.tracks[span.track], span.generation
        if track.device is None or index is None:
            continue
        threads = running.setdefault((track.rank, track.device), {})
        for thread, (end, other, its_track) in threads.items():
            if thread != track.thread and end > span.begin:
                yield (other, its_track), (index, track)
        threads[track.thread] = (span.end, index, track)
