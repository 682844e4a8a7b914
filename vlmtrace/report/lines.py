"""Lines: the summary in words and cells, before anybody draws it; what the table and the Markdown share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vlmtrace.analysis.findings import Finding
from vlmtrace.analysis.launch import GPU_FROM, HOST_TO, Verdict
from vlmtrace.analysis.measured import Measured
from vlmtrace.analysis.rows import OTHER, StageRow
from vlmtrace.analysis.summary import Counts, Summary
from vlmtrace.report.cells import ABSENT, clean, fixed, percent, range_text, significant, summands
from vlmtrace.report.overhead import added_parts, lowered_text
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import TIMED, UNKNOWN, WARMED, TracedModel
from vlmtrace.units import NS_PER_MS, duration_text, parameters_text

__all__ = [
    "Row",
    "decimals",
    "finding_text",
    "footnotes",
    "headings",
    "model_text",
    "rows",
    "subtitle",
    "title",
    "totals",
]

_SHORT_TYPES: Final = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}
_CHILDREN: Final = {
    names.VISION: names.GENERATE,
    names.ENCODER: names.VISION,
    names.PROJECTOR: names.VISION,
    names.PREFILL: names.GENERATE,
    names.MERGE: names.PREFILL,
    names.DECODE: names.GENERATE,
    names.STEP: names.DECODE,
    names.GAP: names.DECODE,
    OTHER: names.GENERATE,
}
_WITH_PEAKS: Final = (names.GENERATE, names.VISION, names.PREFILL, names.DECODE)
_MB: Final = 1_000_000
_GB: Final = 1_000_000_000
_SHORT_VERDICTS: Final = {Verdict.GPU: "GPU", Verdict.MIXED: "mixed", Verdict.HOST: "host", Verdict.UNKNOWN: "unknown"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the stage table as text; ``tree`` is drawn in front of ``stage``."""

    tree: str
    stage: str
    calls: str
    p50: str
    p95: str
    share: str
    note: str
    verdict: Verdict | None


def title(summary: Summary) -> list[str]:
    """What ran on what: model, type, attention, mode, batch, and the GPU or the host's clock."""
    parts = []
    if summary.models:
        model = summary.models[0]
        parts.append(model_text(model))
        if len(summary.models) > 1:
            parts[0] += f" and {len(summary.models) - 1} more"
        parts += [kind_text(model.dtype), clean(model.attention)]
    parts.append("/".join(clean(mode) for mode in summary.modes))
    parts = [part for part in parts if part != UNKNOWN]
    if summary.counts.batch is not None:
        parts.append(f"batch {range_text(summary.counts.batch)}")
    parts.append(_machine(summary))
    return [part for part in parts if part]


def model_text(model: TracedModel) -> str:
    """``Qwen2.5-VL 8.29 B, random weights``."""
    text = f"{clean(model.name)} {parameters_text(model.parameters)}" if model.parameters else clean(model.name)
    return f"{text}, random weights" if model.random_weights else text


def kind_text(dtype: str) -> str:
    """A number type as people write it: ``torch.bfloat16`` → ``bf16``."""
    bare = dtype.removeprefix("torch.")
    return _SHORT_TYPES.get(bare, clean(bare))


def subtitle(summary: Summary) -> list[str]:
    """What was counted: generations, visual tokens, prompt and new tokens."""
    counts = summary.counts
    parts = [_generations(counts)]
    for counted, what in (
        (counts.visual_tokens, "visual tokens"),
        (counts.prompt_tokens, "prompt"),
        (counts.new_tokens, "new"),
    ):
        if counted is not None:
            parts.append(f"{range_text(counted)} {what}")
    return parts


def decimals(summary: Summary) -> int:
    """Decimals of milliseconds that give the shortest stage three significant digits: 1, 2 or 3 for all alike."""
    shown = (summary.row(stage) for stage in (names.VISION, names.PREFILL, names.STEP))
    shortest = min((row.p50 for row in shown if row is not None and row.p50 is not None), default=10 * NS_PER_MS)
    return 1 if shortest >= 10 * NS_PER_MS else 2 if shortest >= NS_PER_MS else 3


def headings(summary: Summary) -> tuple[str, str, str, str, str, str]:
    """The headings of the stage table; without a device there are no verdicts, only notes."""
    return ("Stage", "calls", "p50 ms", "p95", "share", "bound by" if summary.on_device else "")


def rows(summary: Summary) -> list[Row]:
    """The stage table, top to bottom."""
    places = decimals(summary)
    shown = [row.stage for row in summary.rows]
    return [
        Row(
            tree=_tree(row.stage, shown[at + 1 :]),
            stage=names.short(row.stage).rpartition(".")[2],
            calls=range_text(row.calls),
            p50=fixed(row.p50, NS_PER_MS, places),
            p95=fixed(row.p95, NS_PER_MS, places),
            share=percent(row.share),
            note=_note(row, places, summary.on_device),
            verdict=None if row.judgement is None else row.judgement.verdict,
        )
        for at, row in enumerate(summary.rows)
    ]


def footnotes(summary: Summary) -> list[str]:
    """How to read the table."""
    clock = (
        "elapsed on the GPU clock, idle included"
        if summary.on_device
        else f"{_host_clock(summary)}: times are the host's"
    )
    shown = {row.stage for row in summary.rows}
    notes = [clock]
    if names.GAP in shown:
        notes.append("step: each; gap: their sum")
    elif names.STEP in shown:
        notes.append("step: each")
    notes.append("medians need not add")
    if any(row.judgement is not None for row in summary.rows):
        notes.append(f"bound by: lead at end ÷ duration, GPU ≥ {GPU_FROM:.0%}, host ≤ {HOST_TO:.0%}".replace("%", " %"))
    return notes


def totals(summary: Summary) -> list[list[str]]:
    """The lines below the table: latency, throughput, drafts, peak memory, one real sum, and what tracing cost."""
    places = decimals(summary)
    lines = [_latency(summary, places), _throughput(summary), _drafts(summary), _memory(summary)]
    if summary.nearest is not None:
        lines.append(_sum(summary.nearest, places))
    lines += [_tracing(summary), added_parts(summary.tracing.added)]
    if summary.tracing.lowered is not None:
        lines.append([lowered_text(summary.tracing.lowered, summary.detail)])
    return [line for line in lines if line]


def finding_text(finding: Finding) -> tuple[str, str, str]:
    """A finding's slug, evidence and remedy, fit to be printed."""
    return finding.slug.value, clean(finding.evidence, 400), clean(finding.remedy, 200)


def _machine(summary: Summary) -> str:
    if not summary.on_device:
        return _host_clock(summary)
    gpu, clock = summary.environment.get("gpu"), summary.environment.get("gpu_clock_mhz")
    name = clean(gpu) if isinstance(gpu, str) else clean(summary.models[0].device) if summary.models else "GPU"
    return f"{name} ({clock:.0f} MHz)" if isinstance(clock, int | float) else name


def _host_clock(summary: Summary) -> str:
    return "host clock (no GPU)" if summary.environment.get("gpu") is None else "host clock (GPU not used)"


def _generations(counts: Counts) -> str:
    words = {WARMED: "warm-up"}
    text = f"{counts.generations:,} generation{'' if counts.generations == 1 else 's'}"
    asides = []
    if counts.generations and TIMED not in counts.roles:
        asides.append(" and ".join(words.get(role, role) for role in sorted(counts.roles)) + "; none timed")
    if counts.left_out:
        asides.append(", ".join(f"{n} {words.get(role, role)}" for role, n in counts.left_out.items()) + " left out")
    return f"{text} ({'; '.join(asides)})" if asides else text


def _tree(stage: str, below: list[str]) -> str:
    """The branches in front of a row, given the rows below it."""
    parent = _CHILDREN.get(stage)
    if parent is None:
        return ""
    branch = "├ " if any(_CHILDREN.get(other) == parent for other in below) else "└ "
    if parent not in _CHILDREN:
        return branch
    trunk = "│ " if any(_CHILDREN.get(other) == _CHILDREN[parent] for other in below) else "  "
    return trunk + branch


def _note(row: StageRow, places: int, on_device: bool) -> str:
    if row.p50 is None:
        return "no decode forward ran" if row.stage == names.DECODE else "none ran"
    if row.judgement is not None:
        return _SHORT_VERDICTS[row.judgement.verdict]
    if row.stage == names.GAP:
        return "sampling, stopping check"
    if row.largest is not None:
        name, ns = row.largest
        return f"largest: {names.short(name)} {fixed(ns, NS_PER_MS, places)}"
    return "CPU" if on_device and row.stage in {names.PREPROCESS, names.DETOKENIZE} else ""


def _latency(summary: Summary, places: int) -> list[str]:
    def text(key: str) -> str:
        return fixed(summary.metrics[key].value, NS_PER_MS, places)

    parts = []
    if summary.metrics["ttft"].value is not None:
        whole = summary.metrics["ttft_e2e"].value is not None
        parts.append(f"TTFT {text('ttft')} ms" + (f" ({text('ttft_e2e')} with preprocessing)" if whole else ""))
    tpot = summary.metrics["tpot"].value is not None
    if summary.metrics["itl_p50"].value is not None:
        parts.append(f"ITL p50 {text('itl_p50')} p99 {text('itl_p99')}" + ("" if tpot else " ms"))
    if tpot:
        parts.append(f"TPOT {text('tpot')} ms")
    elif summary.counts.new_tokens is not None:
        parts.append(f"ITL and TPOT {ABSENT}" if summary.metrics["itl_p50"].value is None else f"TPOT {ABSENT}")
    return parts


def _throughput(summary: Summary) -> list[str]:
    parts = []
    for key, what in (("decode_throughput", "decode"), ("output_throughput", "output")):
        value = summary.metrics[key].value
        if value is not None:
            parts.append(f"{what} {significant(value)} tok/s")
        elif summary.counts.new_tokens is not None:
            parts.append(f"{what} {ABSENT} tok/s")
    per_1000 = summary.metrics["vision_per_1000"].value
    if per_1000 is not None:
        parts.append(f"{significant(per_1000 / NS_PER_MS)} ms per 1,000 visual tokens")
    return parts


def _drafts(summary: Summary) -> list[str]:
    """What assisted decoding proposed, and how much of it was worth it."""
    proposed, accepted = (summary.metrics[key].value for key in ("proposed", "accepted"))
    if proposed is None or accepted is None:
        return []
    rate = percent(summary.metrics["acceptance_rate"].value)
    return [f"drafts: {proposed:,} tokens proposed", f"{accepted:,} accepted" + (f" ({rate})" if rate else "")]


def _memory(summary: Summary) -> list[str]:
    """The most that the allocator held, in which stage that was, and the peaks of the others."""
    rows = [row for stage in _WITH_PEAKS if (row := summary.row(stage)) is not None]
    peaks = {row.stage: row.peak for row in rows if row.peak is not None}
    whole = peaks.pop(names.GENERATE, None)
    if whole is None:
        return []
    scale, unit = (_GB, "GB") if whole >= _GB else (_MB, "MB")
    highest = next((stage for stage, peak in peaks.items() if peak == whole), None)
    others = ", ".join(f"{stage} {significant(peak / scale)}" for stage, peak in peaks.items() if stage != highest)
    where = "outside of these stages" if highest is None else f"in {highest}"
    return [f"peak memory {significant(whole / scale)} {unit} {where}" + (f" ({others})" if others else "")]


def _sum(nearest: Measured, places: int) -> list[str]:
    """One real generation's parts in the order of the table, vision + prefill + decode + other, and their sum."""
    account = nearest.account
    parts = (account.vision, account.prefill, account.decode, account.other_total)
    texts, total = summands([0 if part is None else part for part in parts], NS_PER_MS, places)
    terms = " + ".join(ABSENT if part is None else text for part, text in zip(parts, texts, strict=True))
    line = [f"generation #{nearest.generation.index}: {terms} = {total}"]
    if nearest.clock_bound is not None:
        apart = f"{account.host_minus_device / NS_PER_MS:z.2f}".replace("-", "−")
        line.append(f"host wall − device {apart} ms")
    return line


def _tracing(summary: Summary) -> list[str]:
    tracing, parts = summary.tracing, []
    if tracing.cost_share is not None:
        cost = tracing.cost_share * 100
        parts.append(f"cost of tracing {'< 0.01' if 0 < cost < 0.005 else f'{cost:.2f}'} %")
    if tracing.waits is not None:
        parts.append(f"{tracing.waits:.3g} added wait{'' if tracing.waits == 1 else 's'} per generation")
    if tracing.clock_bound is not None:
        parts.append(f"clock ± {duration_text(tracing.clock_bound)}")
    if tracing.sample_ns is not None:
        parts.append(f"GPU sampled {tracing.samples:,} times, {duration_text(tracing.sample_ns)} of the host each")
    return parts
