"""Late tokens: gaps between token marks that are far longer than the others, and what the host did meanwhile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from vlmtrace.analysis.causes import Causes
from vlmtrace.analysis.measured import Measured
from vlmtrace.analysis.stats import median
from vlmtrace.analysis.steadiness import OUTLIER_FROM, setting
from vlmtrace.timeline.recording import Recording

__all__ = ["LateToken", "late_tokens"]


@dataclass(frozen=True, slots=True)
class LateToken:
    """A gap of ``ns`` in front of token ``token`` (the first is 0), and for how many ns of it each known cause lasted.

    ``alloc_retries`` is how often the allocator freed its cache and asked again in that generation: when is not known.
    """

    generation: int
    token: int
    ns: int
    causes: tuple[tuple[str, int], ...]
    alloc_retries: int


def late_tokens(recording: Recording, chosen: Sequence[Measured]) -> tuple[LateToken, ...]:
    """The gaps longer than ``OUTLIER_FROM`` times the median gap of generations like their own, the longest first."""
    groups: defaultdict[str, list[Measured]] = defaultdict(list)
    for one in chosen:
        groups[setting(one)].append(one)
    causes: Causes | None = None
    found: list[LateToken] = []
    for group in groups.values():
        limit = OUTLIER_FROM * (median([gap for one in group for gap in one.metrics.itl]) or 0)
        for one in group:
            if max(one.metrics.itl, default=0) <= limit:
                continue
            causes = causes or Causes(recording)
            found += _of_generation(one, limit, causes, recording)
    return tuple(sorted(found, key=lambda late: (-late.ns, late.generation, late.token)))


def _of_generation(one: Measured, limit: float, causes: Causes, recording: Recording) -> list[LateToken]:
    retries = one.generation.device_state.get("alloc_retries")
    made = []
    for token, (earlier, later) in enumerate(pairwise(one.stages.tokens), 1):
        if later.begin - earlier.begin <= limit:
            continue
        rank = recording.tracks[later.track].rank
        begin, end = min(earlier.begin, earlier.host_begin), max(later.begin, later.host_begin)
        made.append(
            LateToken(
                generation=one.generation.index,
                token=token,
                ns=later.begin - earlier.begin,
                causes=causes.during(begin, end, rank),
                alloc_retries=retries if isinstance(retries, int) else 0,
            )
        )
    return made
