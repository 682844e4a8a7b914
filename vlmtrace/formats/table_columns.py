"""Columns: what each table of an export holds, by type, unit and meaning; docs/tables.md is made from this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = ["COLUMNS", "INTEGER", "MEANINGS", "REAL", "TEXT", "TRUTH", "Cell", "Column"]

Cell: TypeAlias = int | float | str | bool | None

INTEGER: Final = "integer"
REAL: Final = "real"
TEXT: Final = "text"
TRUTH: Final = "boolean"


@dataclass(frozen=True, slots=True)
class Column:
    """One column; ``unit`` is empty where a value has none. ``argument`` is the spans' argument that it shows."""

    name: str
    type: str
    unit: str
    meaning: str
    argument: str | None = None


def _ns(name: str, meaning: str) -> Column:
    return Column(name, INTEGER, "ns", meaning)


def _integer(name: str, meaning: str, unit: str = "", argument: str | None = None) -> Column:
    return Column(name, INTEGER, unit, meaning, argument)


def _text(name: str, meaning: str, argument: str | None = None) -> Column:
    return Column(name, TEXT, "", meaning, argument)


_WHERE: Final = (
    _integer("rank", "of the process in a distributed job"),
    _integer("device", "CUDA device whose clock the times come from; absent on the host's clock"),
    _integer("thread", "operating system's id of the thread that launched it"),
    _text("thread_name", "that thread's name"),
)
_WHEN: Final = (_ns("begin_ns", "begin"), _ns("end_ns", "end"), _ns("duration_ns", "end − begin, idle time included"))
_PROPOSED: Final = _integer("proposed", "assisted: tokens of drafts given to forwards to judge", "tokens")
_ACCEPTED: Final = _integer("accepted", "assisted: how many of these were let pass", "tokens")

MEANINGS: Final[Mapping[str, str]] = {
    "generations": "One row for each generate()",
    "steps": "One row for each decode step",
    "spans": "One row for each stage, step, gap, module, layer, token mark, host span and span of your own",
    "kernels": "One row for each kernel, copy and memset; only of a trace that was paired with a Nsight Systems report",
}
"""What a row of each table is."""

COLUMNS: Final[Mapping[str, tuple[Column, ...]]] = {
    "generations": (
        _integer("generation", "number of the generation; `generation` of the other tables"),
        _integer("id", "its generate span, `id` in `spans`"),
        _text("role", "`timed`, `warmup`, or `cold`: the first of its input shape"),
        Column("counted", TRUTH, "", "whether the statistics of `vlmtrace summary` count it"),
        _text("model", "name of the model"),
        _text("model_class", "its class"),
        _text("mode", "how it decoded, such as `eager`"),
        _integer("batch", "sequences in the input"),
        _integer("images", "pictures in the input"),
        _integer("prompt_tokens", "length of the prompt, visual tokens included", "tokens"),
        _integer("visual_tokens", "visual tokens in the prompt", "tokens"),
        _integer("new_tokens", "new tokens up to end-of-sequence, over all sequences, padding never", "tokens"),
        _ns("begin_ns", "the device reached the entry of generate()"),
        _ns("end_ns", "the device reached its return"),
        _ns("duration_ns", "end − begin; vision + prefill + decode + other exactly"),
        _ns("host_begin_ns", "the host entered generate()"),
        _ns("host_duration_ns", "from entry to return as the host saw it"),
        _ns("vision_ns", "vision outside of decode"),
        _ns("prefill_ns", "prefill's own time, a vision inside it taken off"),
        _ns("decode_ns", "decode; absent where no decode forward ran"),
        _ns("other_ns", "the located rest: setup, between, first token, tail"),
        _integer("steps", "number of decode steps"),
        _ns("ttft_ns", "TTFT: first token mark − the host's entry of generate()"),
        _ns("ttft_e2e_ns", "TTFT counted from the beginning of preprocessing"),
        Column("tpot_ns", REAL, "ns/token", "TPOT: from the first token mark to the last, per token after the first"),
        Column("decode_tokens_per_s", REAL, "tokens/s", "tokens after the first mark per second of decode"),
        Column("output_tokens_per_s", REAL, "tokens/s", "all new tokens per second of generate"),
        _PROPOSED,
        _ACCEPTED,
        _ns("clock_bound_ns", "every device time of it is within ± this of the truth; absent on the host's clock"),
        _ns("compiled_ns", "how long the compiler was at work in it; absent where it was not"),
        Column("complete", TRUTH, "", "whether it ended as it should"),
        _text("error", "the exception that ended it"),
        _text("tags", "its labels (`vlmtrace.tag`), a JSON object"),
    ),
    "steps": (
        _integer("generation", "its generation"),
        _integer("step", "number of the step; 0 is the first after prefill"),
        _integer("id", "`id` in `spans`"),
        _text("role", "the generation's"),
        *_WHEN,
        _ns("lead_begin_ns", "how long before the device began it the host had recorded its begin; absent on the host"),
        _ns("lead_end_ns", "how long before the device ended it the host had launched all of it; absent on the host"),
        _ns("gap_after_ns", "the gap to the next step; absent after the last"),
        _ns("itl_ns", "from the token mark before to its own; absent where it has none, or several"),
        _integer("tokens_before", "tokens appended before it", "tokens"),
        _integer("kv_length", "length of the KV cache, where known without asking the GPU", "tokens"),
        _PROPOSED,
        _ACCEPTED,
    ),
    "spans": (
        _integer("id", "row of the span in the recording, as in the trace; `parent` names it"),
        _integer("parent", "`id` of the span that it is a part of"),
        _integer("generation", "its generation; absent outside of generate()"),
        _text("name", "full name of the stage, such as `decode.step`"),
        _text("short_name", "its name on the timeline, such as `step`"),
        _text("track", "kind of row it is on: `generations`, `stages`, `steps`, `modules`, `layers`, `tokens`, …"),
        *_WHERE,
        _integer("number", "number of the span among its like: of a step, layer, chunk or token"),
        _integer("step", "the step that it is or lies in; of a gap, the step before it"),
        *_WHEN,
        _ns("host_begin_ns", "the host recorded the begin"),
        _ns("host_end_ns", "the host recorded the end"),
        _ns("lead_begin_ns", "begin − host begin; absent on the host's clock"),
        _ns("lead_end_ns", "end − host end; absent on the host's clock"),
        Column("incomplete", TRUTH, "", "whether it was cut short"),
        _text("path", "of a module or layer: where it is in the model", "path"),
        _integer("kv_length", "of a prefill or step: length of the KV cache", "tokens", "kv"),
        _integer("visual_tokens", "of a vision: what came out", "tokens", "visual_tokens"),
        _text("args", "all its other arguments, a JSON object"),
    ),
    "kernels": (
        _integer("id", "row in the recording, as in the trace; in no other table"),
        _text("name", "short name of the kernel; `Memcpy HtoD`, `Memset`, `CUDA graph 3` where it is none"),
        _text("full_name", "full name of the kernel", "kernel"),
        _text("kind", "`kernel`, or `copy` for copies and memsets"),
        _text("stage", "`name` of the stage that launched it, or of what ran outside of a generation", "stage"),
        _text("module", "innermost module or layer inside the stage", "module"),
        _integer("generation", "its stage's generation"),
        _integer("step", "its stage's step; of a gap, the step before it"),
        *_WHERE,
        _integer("stream", "CUDA stream, as the profiler numbers it"),
        *_WHEN,
        _text("call", "the CUDA call that launched it; one call may launch many", "call"),
        _ns("host_begin_ns", "begin of that call"),
        _ns("host_end_ns", "end of that call"),
        _text("grid", "launch dimensions, such as `128×1×1`", "grid"),
        _text("block", "launch dimensions, such as `128×1×1`", "block"),
        _integer("bytes", "of a copy or memset: how much", "bytes", "bytes"),
        _text("unattributed", "in place of `stage`: why it belongs to none", "unattributed"),
    ),
}
"""Every table with its columns, in order."""
