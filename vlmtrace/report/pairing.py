"""What pairing found, in lines for a person."""

from __future__ import annotations

from collections import Counter

from vlmtrace.report.cells import clean
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import KERNELS, Pairing, Recording
from vlmtrace.units import duration_text

__all__ = ["pairing_text"]

_GROUPS = {names.STEP: "steps", names.GAP: "gaps"}


def pairing_text(recording: Recording, pairing: Pairing) -> str:
    """How many kernels lie in which stage, why the others lie in none, and how well the report's clock is known."""
    spans = recording.spans
    is_kernel = [track.kind == KERNELS for track in recording.tracks]
    stages = spans.args.get("stage")
    found: Counter[str] = Counter()
    for row, value in zip(stages.rows, stages.values, strict=True) if stages is not None else ():
        if is_kernel[spans.track[row]]:
            stage = spans.strings[value]
            found["other" if stage.startswith("other.") else _GROUPS.get(stage, stage)] += 1
    parts = " · ".join(f"{clean(stage)} {count:,}" for stage, count in found.most_common())
    lines = [f"{found.total():,} of {pairing.kernels:,} kernels lie in a stage{': ' * bool(parts)}{parts}"]
    if pairing.unattributed:
        lines.append("in none: " + " · ".join(f"{count:,} {reason}" for reason, count in pairing.unattributed.items()))
    lines.append(
        f"report of {clean(pairing.tool)} {clean(pairing.product)}, export schema {clean(pairing.schema)}, "
        f"its clock ± {duration_text(pairing.bound_ns)}"
    )
    return "\n".join(lines)
