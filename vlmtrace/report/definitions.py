"""Definitions: what every metric, stage and column means and its unit; the one place that documents are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vlmtrace.analysis.rows import OTHER
from vlmtrace.timeline import names
from vlmtrace.units import NS_PER_MS

__all__ = ["CLOCK", "COLUMNS", "KERNELS", "METRICS", "OVERHEAD", "STAGES", "STRETCHES", "Metric"]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: its key in a summary, its name for people, its unit, and its definition in one sentence.

    ``per_unit`` is what a summary's value is divided by to be in ``unit`` (nanoseconds in a millisecond, or 1).
    """

    key: str
    title: str
    unit: str
    per_unit: int
    definition: str

    def in_unit(self, value: float | None) -> float | None:
        """A summary's value in this metric's unit; absent stays absent."""
        return None if value is None else value / self.per_unit


_ITL: Final = "of the gaps between consecutive token marks, pooled over the counted generations (batch and beams: "
_STEPS: Final = "per step; assisted: per accepted group)"
_DRAFTS: Final = "; sum over the counted generations, absent without assisted decoding"
_MEDIAN: Final = "; median over the counted generations"

METRICS: Final = (
    Metric(
        "ttft",
        "TTFT",
        "ms",
        NS_PER_MS,
        "first token mark minus the host's entry of generate(); no queue, no network" + _MEDIAN,
    ),
    Metric(
        "ttft_e2e",
        "TTFT with preprocessing",
        "ms",
        NS_PER_MS,
        "first token mark minus the beginning of preprocess in the same request" + _MEDIAN,
    ),
    Metric("itl_p50", "ITL p50", "ms", NS_PER_MS, "median " + _ITL + _STEPS),
    Metric("itl_p90", "ITL p90", "ms", NS_PER_MS, "90th percentile " + _ITL + _STEPS),
    Metric("itl_p99", "ITL p99", "ms", NS_PER_MS, "99th percentile " + _ITL + _STEPS),
    Metric("itl_max", "ITL max", "ms", NS_PER_MS, "largest " + _ITL + _STEPS),
    Metric(
        "tpot",
        "TPOT",
        "ms",
        NS_PER_MS,
        "(last token mark minus first) / tokens appended per sequence after the first mark (beams: steps); "
        "absent where no decode forward ran" + _MEDIAN,
    ),
    Metric(
        "decode_throughput",
        "decode throughput",
        "tokens/s",
        1,
        "tokens until end-of-sequence after the first token mark, summed over sequences, / decode; padding is never "
        "counted; absent where no decode forward ran" + _MEDIAN,
    ),
    Metric(
        "output_throughput",
        "output throughput",
        "tokens/s",
        1,
        "tokens until end-of-sequence, summed over sequences, / generate; padding is never counted" + _MEDIAN,
    ),
    Metric(
        "vision_per_1000",
        "vision per 1,000 visual tokens",
        "ms",
        NS_PER_MS,
        "vision outside decode / visual tokens that it made, x 1,000" + _MEDIAN,
    ),
    Metric(
        "proposed",
        "proposed",
        "tokens",
        1,
        "tokens of drafts that forwards were given to judge" + _DRAFTS,
    ),
    Metric("accepted", "accepted", "tokens", 1, "proposed tokens that these forwards let pass" + _DRAFTS),
    Metric(
        "acceptance_rate",
        "acceptance rate",
        "fraction",
        1,
        "accepted / proposed; the samples are the proposed tokens; absent where none was proposed",
    ),
)
"""Every metric of a summary, in the order in which they are shown."""

STAGES: Final = {
    names.PREPROCESS: "calls of the model's processor in the request, on the host's clock",
    names.H2D: "moving the processor's output to the device",
    names.GENERATE: "the whole call of generate(), from its entry to its return",
    names.VISION: "vision encoder and projector as a whole, outside decode",
    names.ENCODER: "the vision encoder, measured directly in the same pass",
    names.PROJECTOR: "the projector, measured directly in the same pass",
    names.PREFILL: "the first forward of the generating model up to its logits, without a vision inside it",
    names.MERGE: "merging the visual tokens into the text embeddings, inside prefill",
    names.DECODE: "from the entry of the first decode forward to the logits of the last one; absent where none ran",
    names.STEP: "one decode forward",
    names.GAP: "what lies between two steps: sampling, stopping check, preparing inputs",
    OTHER: "the rest of generate, located: setup, between, first_token, tail",
    names.DETOKENIZE: "calls of batch_decode in the request, on the host's clock",
}
"""What each row of a summary measures."""

COLUMNS: Final = {
    "calls": "spans per generation, fewest and most over the counted generations",
    "p50_ms": "median over the counted generations in which the stage ran, of its sum per generation "
    "(decode.step: of each step); linear interpolation between closest ranks",
    "p95_ms": "95th percentile, likewise",
    "share": "sum of the stage / sum of generate, over the counted generations",
    "verdict": "who waits for whom: lead_share = how long before the device ended the stage the host had finished "
    "launching it / duration (decode: summed over steps)",
    "peak_bytes": "the most that torch's allocator held on the generation's device in the stage, over the counted "
    "generations (prefill: without a vision inside it; decode: up to the next stage or the end of generate); null "
    "where it was not read (record --memory)",
}
"""What each column of a stage row means."""

CLOCK: Final = {
    "drift_ppb": "fitted rate of the device's clock against the host's, in parts per 1e9, over all anchors of a "
    "thread; null where the anchors lie too close together to tell it",
    "bound_ns": "half the width of the interval that holds the generation's offset: no time of it is further from the "
    "truth on the host's clock",
    "offset_ns": "what was added to device times at the generation's first mark",
    "residual_ns": "how far the worst anchor lies outside the fitted line, part of the bound",
    "chain_ns": "what chained elapsed times may have added up to, part of the bound",
    "widened_ns": "how much the interval had to grow because marks and anchors contradict each other; 0 where they do "
    "not",
    "anchors": "readings of both clocks together, each counted once",
    "anchor_width_ns": "time between the two readings of the host's clock around that of the device's",
    "wall_minus_device_ns": "the host's wall time of the call minus its length on the device's clock, which is the "
    "lead at its entry minus the lead at its return; null where it broke off",
}
"""What each key of a summary's clock means."""

STRETCHES: Final = {
    "stretch": "consecutive vision, prefill and step spans, each host-bound by its own verdict and begun within the "
    "same tolerance of being launched, with what lies between them: at both ends of each the device had caught up with "
    "the host, but for that tolerance",
    "length_ms": "from the begin of the first to the end of the last; the most that the device can have waited there, "
    "not its idle time, which marks alone do not tell",
    "begin_ms": "from the begin of generate",
    "share": "length / generate of that generation (of all: / sum of generate over the counted generations)",
    "count": "all stretches of the counted generations; the longest of them are listed",
}
"""What each key of a summary's host-bound stretches means."""

OVERHEAD: Final = {
    "median_share": "median over the pairs of (traced - untraced) / untraced, the host's wall time of generate(); on a "
    "GPU from idle to idle",
    "low_share": "lower end of the 95 % percentile interval of that median, by a seeded bootstrap over the pairs",
    "high_share": "upper end, likewise",
    "pairs": "requests made twice, once traced and once not, in the order untraced, traced, traced, untraced",
    "resolved": "whether the interval leaves out 0, or reaches at most 0.01 to both sides of its middle",
    "pairs_to_resolve": "pairs that would narrow the interval to that; it shrinks with the square root of their number",
}
"""What each key of a summary's added time means; shares are fractions of the untraced time."""

KERNELS: Final = {
    "kernels": "median over the counted generations in which the stage ran of the kernels that it launched, a CUDA "
    "graph that the report tells as a whole being one; of the whole document: all in the report, which is in_stages + "
    "the sum of unattributed; null outside of generate()",
    "kernels_in_all": "the same over the whole recording, generations that are not counted included; in_stages is the "
    "sum over the stages",
    "generations": "how many generations all this is of: the profiled ones, where there are such, else the counted "
    "ones of the summary; where the text says counted, these are meant",
    "unattributed": "kernels that belong to no stage, by reason",
    "outside": "kernels launched outside of generate() by what launched them; together the stage called outside",
    "kernel_ms": "sum of the kernels' times over the counted generations (stage outside: over the recording); kernels "
    "that overlap count each",
    "busy_ms": "median per generation of the time within the stage's spans in which anything ran on the device, "
    "launched by whichever stage: kernels and copies that overlap count once",
    "idle_share": "1 - busy / length of the stage's spans, both summed over the counted generations; prefill without a "
    "vision inside it",
    "launches": "median per generation of the calls that launched kernels; one that launches many (a graph) is one "
    "call, and copies are not counted",
    "launch_ms": "median per generation of the host's time inside these calls",
    "top": "the kernels with the largest sums of time, over the counted generations (stage outside: over the "
    "recording); share is of kernel_ms; names longer than 4096 characters are cut",
    "copies": "copies and memsets by kind, sums over the counted generations (stage outside: over the recording)",
    "agreement": "of each vision, prefill and step: before_ms from the begin of its span to that of its first kernel, "
    "after_ms from the end of its last kernel to that of its span; to be read with both clock bounds",
    "inflation": "median of the paired recording - median of the baseline, share of the baseline's: sums per "
    "generation, of decode.step each step; null without a baseline",
}
"""What each key of a summary's kernels means."""
