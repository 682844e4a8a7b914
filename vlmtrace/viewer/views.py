"""Views: generations, stages, steps and kernels of a trace as SQL tables, for whoever asks without knowing its layout.

Times are ns of the trace's clock (``ts``) and ns long (``dur``); ``ms`` is ``dur`` in milliseconds. What a trace does
not know is NULL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vlmtrace.timeline import names
from vlmtrace.viewer.processor import TraceProcessor

__all__ = ["VIEWS", "View", "make_views"]


@dataclass(frozen=True, slots=True)
class View:
    """A view: its name, what one row of it is, its columns with what each means, and the rows they are taken from.

    ``columns`` maps a column to its SQL and its meaning; ``rows`` is what follows FROM.
    """

    name: str
    row: str
    columns: dict[str, tuple[str, str]]
    rows: str

    def sql(self, root: str, origin: int | None) -> str:
        """The statement that makes it: arguments have the prefix ``root``, host times count from ``origin``."""
        columns = ",\n  ".join(f"{made} AS {column}" for column, (made, _) in self.columns.items())
        text = f"CREATE VIEW {self.name} AS SELECT\n  {columns}\nFROM {self.rows}"
        return text.replace("$ORIGIN", "NULL" if origin is None else str(origin)).replace("$ROOT", root)


def _argument(key: str, of: str = "s") -> str:
    return f"extract_arg({of}.arg_set_id, '$ROOT.{key}')"


def _is_stage(of: str = "s") -> str:
    host = ", ".join(f"'{name}'" for name in (names.PREPROCESS, names.H2D, names.DETOKENIZE))
    return f"({of}.category = 'stage' OR ({of}.category = 'host' AND {of}.name IN ({host})))"


_FULL: Final = " ".join(
    f"WHEN '{names.short(name)}' THEN '{name}'" for name in sorted(names.RESERVED) if names.short(name) != name
)
_STAGE: Final = f"coalesce({_argument('name')}, CASE s.name {_FULL} ELSE s.name END)"
_HOST_END: Final = f"($ORIGIN + {_argument('host_end')})"
_TIMES: Final = {
    "ts": ("s.ts", "when it began, ns"),
    "dur": ("s.dur", "how long it took, ns"),
    "ms": ("s.dur / 1e6", "the same in ms"),
}
_GENERATION: Final = {"generation": (_argument("generation"), "number of the generation")}
_LEAD: Final = {
    "lead": (
        f"CASE WHEN s.category != 'host' THEN s.ts + s.dur - {_HOST_END} END",
        "how long before the GPU ended it the host had launched all of it, ns; NULL on the host's clock",
    )
}

# A generation's counts stand in its title: generate #3 529 img / 551 → 32 (warm-up)
_COUNTS: Final = "substr(s.name, instr(s.name || ' ', ' #') + 2)"
_AFTER_NUMBER: Final = f"substr({_COUNTS}, instr({_COUNTS} || ' ', ' ') + 1)"
_SLASH: Final = f"instr({_AFTER_NUMBER}, ' / ')"
_PROMPT: Final = f"substr({_AFTER_NUMBER}, CASE {_SLASH} WHEN 0 THEN 1 ELSE {_SLASH} + 3 END)"


def _leading_number(text: str) -> str:
    return f"CASE WHEN {text} GLOB '[0-9]*' THEN CAST({text} AS INTEGER) END"


_TOKENS: Final = (
    "CREATE TABLE vlm_tokens (generation INT, number INT, ts INT, PRIMARY KEY (generation, number)) WITHOUT ROWID",
    "INSERT OR IGNORE INTO vlm_tokens SELECT generation, number, ts FROM ("
    f"SELECT {_argument('generation', 't')} AS generation, {_argument('token', 't')} AS number, t.ts "
    "FROM slice AS t WHERE t.category = 'token') WHERE generation IS NOT NULL AND number IS NOT NULL",
)
"""Token marks by their number: a join that had to look for them would take time by the square of the steps."""


def _token(which: str, number: str) -> str:
    """Joins a token mark, as ``which``, to the generation or step ``s``."""
    return (
        f"LEFT JOIN vlm_tokens AS {which} ON {which}.generation = {_argument('generation')} "
        f"AND {which}.number = {number}"
    )


_HOST_BEGIN: Final = f"coalesce($ORIGIN + {_argument('host_begin')}, s.ts)"

_GENERATIONS: Final = View(
    "vlm_generation",
    "one `generate()`",
    {
        **_GENERATION,
        "role": (
            "CASE WHEN s.name GLOB '*(warm-up*' THEN 'warmup' WHEN s.name GLOB '*(cold*' THEN 'cold' ELSE 'timed' END",
            "`timed`, `warmup` or `cold`",
        ),
        "complete": (f"{_argument('incomplete')} IS NULL", "1, or 0 where it was cut short"),
        **_TIMES,
        "visual_tokens": (
            f"CASE WHEN instr(s.name, ' img') THEN {_leading_number(_AFTER_NUMBER)} END",
            "visual tokens of the prompt",
        ),
        "prompt_tokens": (
            f"CASE WHEN {_PROMPT} NOT GLOB '[0-9]* img*' THEN {_leading_number(_PROMPT)} END",
            "tokens of the prompt",
        ),
        "new_tokens": (
            "CASE WHEN instr(s.name, ' → ') THEN CAST(substr(s.name, instr(s.name, ' → ') + 3) AS INTEGER) END",
            "new tokens of all sequences",
        ),
        "ttft": (f"token.ts - {_HOST_BEGIN}", "from the host's entry to the first token mark, ns"),
    },
    f"slice AS s {_token('token', '0')} WHERE s.category = 'stage' AND s.name GLOB 'generate #*'",
)

_STAGES: Final = View(
    "vlm_stage",
    "one stage: `vision`, `prefill`, `decode`, `decode.step`, `decode.gap`, `other.setup`, `preprocess` and so on",
    {
        "stage": (_STAGE, "full name of the stage; steps and gaps are rows of their own and lie inside `decode`"),
        **_GENERATION,
        **_TIMES,
        **_LEAD,
        "input_tokens": (_argument("input_tokens"), "`prefill`: length of the prompt"),
        "kv": (_argument("kv"), "length of the KV cache"),
        "images": (_argument("images"), "`vision`: images"),
        "visual_tokens": (_argument("visual_tokens"), "`vision`: visual tokens"),
    },
    f"slice AS s WHERE {_is_stage()} AND s.name NOT GLOB 'generate #*' AND s.name != '{names.REQUEST}'",
)

_STEPS: Final = View(
    "vlm_step",
    "one step: a decode forward",
    {
        **_GENERATION,
        "step": (_argument("step"), "number of the step in its generation, from 0"),
        **_TIMES,
        **_LEAD,
        "kv": (_argument("kv"), "length of the KV cache, where it is known"),
        "tokens": (_argument("tokens"), "tokens appended before it"),
        "proposed": (_argument("proposed"), "assisted decoding: tokens that it was given to judge"),
        "accepted": (_argument("accepted"), "assisted decoding: tokens that it let pass"),
        "itl": ("after.ts - before.ts", "from the token mark before it to the one after it, ns"),
    },
    f"slice AS s {_token('before', _argument('step'))} {_token('after', _argument('step') + ' + 1')} "
    "WHERE s.category = 'stage' AND s.name = 'step'",
)

_ROW: Final = "coalesce(thread.name, track.name)"
_GROUP: Final = "coalesce(parent.name, thread.name)"

_KERNELS: Final = View(
    "vlm_kernel",
    "one kernel of a paired trace",
    {
        "name": ("s.name", "short name"),
        "kernel": (_argument("kernel"), "full name"),
        "stage": (_argument("stage"), "full name of the stage that launched it"),
        "module": (_argument("module"), "innermost module or layer in the stage, where there is one"),
        **_GENERATION,
        "step": (_argument("step"), "number of the step; of a gap, the step before it"),
        **_TIMES,
        "device": (
            f"CASE WHEN {_GROUP} GLOB 'GPU [0-9]*' THEN CAST(substr({_GROUP}, 5) AS INTEGER) END",
            "number of the GPU",
        ),
        "stream": (
            f"CASE WHEN instr({_ROW}, ', stream ') "
            f"THEN CAST(substr({_ROW}, instr({_ROW}, ', stream ') + 9) AS INTEGER) END",
            "number of the CUDA stream",
        ),
        "grid": (_argument("grid"), "blocks, such as `128×1×1`"),
        "block": (_argument("block"), "threads of a block"),
        "launched_by": (_argument("call"), "the CUDA call that launched it, such as `cudaLaunchKernel`"),
        "launch_ts": (
            f"CASE WHEN {_argument('call')} IS NOT NULL THEN $ORIGIN + {_argument('host_begin')} END",
            "when that call began, ns",
        ),
        "launch_dur": (
            f"CASE WHEN {_argument('call')} IS NOT NULL THEN {_argument('host_end')} - {_argument('host_begin')} END",
            "how long that call took, ns",
        ),
        "unattributed": (_argument("unattributed"), "why it belongs to no stage, where it does not"),
    },
    "slice AS s JOIN track ON track.id = s.track_id LEFT JOIN track AS parent ON parent.id = track.parent_id "
    "LEFT JOIN thread_track ON thread_track.id = s.track_id LEFT JOIN thread USING (utid) WHERE s.category = 'kernel'",
)

VIEWS: Final = (_GENERATIONS, _STAGES, _STEPS, _KERNELS)
"""Every view that :func:`make_views` makes."""


def make_views(processor: TraceProcessor) -> None:
    """Make all views in a loaded trace; in another tool's they are there and empty.

    Raises:
        ProcessorError: this importer is too unlike those that were known.
    """
    root = "debug" if processor.value("SELECT count(*) FROM slice WHERE category = 'vlmtrace.document'") else "args"
    origin = _origin(processor, root)
    for statement in _TOKENS:
        processor.query(statement.replace("$ROOT", root))
    for view in VIEWS:
        processor.query(view.sql(root, origin))


def _origin(processor: TraceProcessor, root: str) -> int | None:
    """Where on the trace's clock host times count from: a launch stands at the host time of what it launched.

    ``None`` where nothing was launched: on the host's own clock there is no lead.
    """
    launched = (
        f"SELECT l.ts - extract_arg(s.arg_set_id, '{root}.host_begin') FROM slice AS s "
        f"JOIN (SELECT ts, extract_arg(arg_set_id, '{root}.span') AS id FROM slice "
        f"WHERE category = 'launch,derived' LIMIT 1) AS l ON extract_arg(s.arg_set_id, '{root}.id') = l.id LIMIT 1"
    )
    for (origin,) in processor.query(launched):
        return int(origin) if isinstance(origin, int) else None
    return None
