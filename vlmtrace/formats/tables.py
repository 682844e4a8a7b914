"""Tables: a recording as rows and columns, for SQL and data frames; pure, and the same whatever file they go to.

Every table is described by its columns in :mod:`vlmtrace.formats.table_columns` and filled here. Times count from the
recording's origin, in integer ns. What is absent is ``None``, never 0.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeAlias, TypeVar

from vlmtrace.analysis.measured import Measured, counted, measure
from vlmtrace.analysis.metrics import visual_tokens
from vlmtrace.formats.document import quoted
from vlmtrace.formats.launches import OPERATIONS
from vlmtrace.formats.table_columns import COLUMNS, TEXT, Cell, Column
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import KERNELS, Json, Recording, Track
from vlmtrace.timeline.spans import NONE, ArgColumn, Span
from vlmtrace.units import NS_PER_S

__all__ = ["SCHEMA_VERSION", "Table", "about", "table_names", "tables"]

SCHEMA_VERSION: Final = 1
"""Grows when a column is taken away, renamed or told otherwise; new columns and tables come without it."""

_Cells: TypeAlias = Sequence[Cell]
_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Table:
    """A filled table: ``cells[i]`` are those of ``columns[i]``, all equally long."""

    name: str
    columns: tuple[Column, ...]
    cells: tuple[_Cells, ...]

    def __len__(self) -> int:
        return len(self.cells[0])

    def __getitem__(self, column: str) -> _Cells:
        """The cells of the column of that name."""
        return self.cells[[one.name for one in self.columns].index(column)]

    def rows(self) -> Iterator[tuple[Cell, ...]]:
        return zip(*self.cells, strict=True)


def about(recording: Recording) -> dict[str, Json]:
    """What holds for all tables of a recording: their version, and what and when it was.

    ``origin_unix_ns`` and ``origin_utc`` are the wall clock where the tables' times are 0.
    """
    seconds, ns = divmod(recording.origin_unix_ns, NS_PER_S)
    return {
        "schema_version": SCHEMA_VERSION,
        "recording": _valid(recording.name),
        "detail": recording.detail,
        "clock": "device" if recording.on_device else "host",
        "origin_unix_ns": recording.origin_unix_ns,
        "origin_utc": f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ns:09}Z",
    }


def table_names(recording: Recording) -> tuple[str, ...]:
    """The tables that a recording has: ``kernels`` only where kernels or copies are known."""
    known = any(track.kind in OPERATIONS for track in recording.tracks)
    return tuple(name for name in COLUMNS if known or name != "kernels")


def tables(recording: Recording) -> Iterator[Table]:
    """The tables of a recording, one after the other: a million rows need not be held twice."""
    measured = measure(recording)
    made: dict[str, Callable[[], dict[str, _Cells]]] = {
        "generations": lambda: _generations(recording, measured),
        "steps": lambda: _steps(recording, measured),
        "spans": lambda: _spans(recording),
        "kernels": lambda: _kernels(recording),
    }
    for name in table_names(recording):
        cells, columns = made[name](), COLUMNS[name]
        yield Table(name, columns, tuple(cells[column.name] for column in columns))


def _generations(recording: Recording, measured: Sequence[Measured]) -> dict[str, _Cells]:
    in_statistics = {one.generation.index for one in counted(measured)}

    def row(one: Measured) -> dict[str, Cell]:
        generation, generate, account, metrics = one.generation, one.stages.generate, one.account, one.metrics
        model = recording.models[generation.model]
        return {
            "generation": generation.index,
            "id": generation.span,
            "role": generation.role,
            "counted": generation.index in in_statistics,
            "model": _valid(model.name),
            "model_class": _valid(model.class_name),
            "mode": _valid(generation.mode),
            **{key: _integer(generation.inputs.get(key)) for key in ("batch", "images", "prompt_tokens")},
            "visual_tokens": visual_tokens(one.stages),
            "new_tokens": sum(generation.new_tokens) if generation.new_tokens else None,
            "begin_ns": generate.begin - recording.origin_ns,
            "end_ns": generate.end - recording.origin_ns,
            "duration_ns": account.generate,
            "host_begin_ns": generate.host_begin - recording.origin_ns,
            "host_duration_ns": account.host_wall,
            "vision_ns": account.vision,
            "prefill_ns": account.prefill,
            "decode_ns": account.decode,
            "other_ns": account.other_total if account.other else None,
            "steps": len(account.steps),
            "ttft_ns": metrics.ttft,
            "ttft_e2e_ns": metrics.ttft_e2e,
            "tpot_ns": metrics.tpot,
            "decode_tokens_per_s": metrics.decode_throughput,
            "output_tokens_per_s": metrics.output_throughput,
            "proposed": metrics.proposed,
            "accepted": metrics.accepted,
            "clock_bound_ns": one.clock_bound,
            "compiled_ns": one.compiled_ns or None,
            "complete": one.complete,
            "error": None if generation.error is None else _valid(generation.error),
            "tags": _json(generation.tags),
        }

    return _by_column("generations", [row(one) for one in measured])


def _steps(recording: Recording, measured: Sequence[Measured]) -> dict[str, _Cells]:
    def row(one: Measured, step: Span, marks: Sequence[int], until: int, gap: Span | None) -> dict[str, Cell]:
        on_device = recording.tracks[step.track].device is not None
        return {
            "generation": one.generation.index,
            "step": step.number,
            "id": step.row,
            "role": one.generation.role,
            "begin_ns": step.begin - recording.origin_ns,
            "end_ns": step.end - recording.origin_ns,
            "duration_ns": step.duration,
            "lead_begin_ns": step.lead_begin if on_device else None,
            "lead_end_ns": step.lead_end if on_device else None,
            "gap_after_ns": None if gap is None else gap.duration,
            "itl_ns": _itl(marks, step.end, until),
            "tokens_before": _integer(step.spans.arg(step.row, "tokens")),
            "kv_length": _integer(step.spans.arg(step.row, "kv")),
            "proposed": _integer(step.spans.arg(step.row, "proposed")),
            "accepted": _integer(step.spans.arg(step.row, "accepted")),
        }

    rows = []
    for one in measured:
        gaps = {gap.begin: gap for gap in one.stages.gaps}
        marks = [mark.begin for mark in one.stages.tokens]
        untils = [step.begin for step in one.stages.steps[1:]] + [one.stages.generate.end + 1]
        for step, until in zip(one.stages.steps, untils, strict=False):
            rows.append(row(one, step, marks, until, gaps.get(step.end)))
    return _by_column("steps", rows)


def _itl(marks: Sequence[int], begin: int, until: int) -> int | None:
    """The time to the one mark in ``begin`` to ``until`` from the mark before it; ``None`` where it is not one."""
    at = bisect_left(marks, begin)
    return marks[at] - marks[at - 1] if at and bisect_left(marks, until) - at == 1 else None


def _spans(recording: Recording) -> dict[str, _Cells]:
    """Every span but kernels and copies, which have a table of their own."""
    spans, tracks = recording.spans, recording.tracks
    rows = array("q", (row for row, track in enumerate(spans.track) if tracks[track].kind not in OPERATIONS))
    step = _steps_around(recording)
    told = _arguments(recording)
    on_device = [track.device is not None for track in tracks]
    return {
        **_common(recording, rows),
        **_shown_arguments(recording, "spans", rows),
        "parent": _nullable(spans.parent, rows),
        "name": _texts(spans.strings, spans.name, rows),
        "short_name": _texts([names.short(name) for name in spans.strings], spans.name, rows),
        "track": _of_track(recording, rows, lambda track: track.kind),
        "number": _nullable(spans.number, rows),
        "step": _nullable(step, rows),
        "lead_begin_ns": [
            spans.begin[row] - spans.host_begin[row] if on_device[spans.track[row]] else None for row in rows
        ],
        "lead_end_ns": [spans.end[row] - spans.host_end[row] if on_device[spans.track[row]] else None for row in rows],
        "incomplete": [spans[row].incomplete for row in rows],
        "args": [_json(told.get(row, {})) for row in rows],
    }


def _kernels(recording: Recording) -> dict[str, _Cells]:
    spans, tracks = recording.spans, recording.tracks
    rows = array("q", (row for row, track in enumerate(spans.track) if tracks[track].kind in OPERATIONS))
    made = _common(recording, rows) | _shown_arguments(recording, "kernels", rows)
    for name in ("host_begin_ns", "host_end_ns"):
        # Without a known call the host times are the kernel's own, and tell nothing of the host.
        made[name] = [None if call is None else at for call, at in zip(made["call"], made[name], strict=True)]
    return made | {
        "name": _texts(spans.strings, spans.name, rows),
        "kind": _of_track(recording, rows, lambda track: "kernel" if track.kind == KERNELS else "copy"),
        "step": _nullable(spans.number, rows),
        "stream": _of_track(recording, rows, lambda track: track.stream),
    }


def _common(recording: Recording, rows: array[int]) -> dict[str, _Cells]:
    """The columns that spans and kernels share."""
    spans, origin = recording.spans, recording.origin_ns
    return {
        "id": rows,
        "generation": _nullable(spans.generation, rows),
        "rank": _of_track(recording, rows, lambda track: track.rank),
        "device": _of_track(recording, rows, lambda track: track.device),
        "thread": _of_track(recording, rows, lambda track: track.thread),
        "thread_name": _of_track(recording, rows, lambda track: _valid(track.thread_name)),
        "begin_ns": array("q", (spans.begin[row] - origin for row in rows)),
        "end_ns": array("q", (spans.end[row] - origin for row in rows)),
        "duration_ns": array("q", (spans.end[row] - spans.begin[row] for row in rows)),
        "host_begin_ns": array("q", (spans.host_begin[row] - origin for row in rows)),
        "host_end_ns": array("q", (spans.host_end[row] - origin for row in rows)),
    }


def _steps_around(recording: Recording) -> array[int]:
    """By row the step that a span is or lies in, of a gap the one before it; a parent comes before its children."""
    spans, made = recording.spans, array("q")
    numbered = [name in {names.STEP, names.GAP} for name in spans.strings]
    for row, (name, parent) in enumerate(zip(spans.name, spans.parent, strict=True)):
        made.append(spans.number[row] if numbered[name] else NONE if parent == NONE else made[parent])
    return made


def _arguments(recording: Recording) -> dict[int, dict[str, Json]]:
    """By row the arguments that no column of ``spans`` shows."""
    spans = recording.spans
    shown = {id(_shown(recording, column)) for column in COLUMNS["spans"]}
    made: dict[int, dict[str, Json]] = {}
    for key, argument in spans.args.items():
        if id(argument) not in shown:
            for row, value in zip(argument.rows, argument.values, strict=True):
                made.setdefault(row, {})[key] = spans.strings[value] if argument.text else value
    return made


def _shown(recording: Recording, column: Column) -> ArgColumn | None:
    """The argument that a column shows: of its own type, since a span of a user's may have one of the same name."""
    argument = None if column.argument is None else recording.spans.args.get(column.argument)
    return argument if argument is not None and argument.text is (column.type == TEXT) else None


def _shown_arguments(recording: Recording, table: str, rows: Sequence[int]) -> dict[str, _Cells]:
    """The columns of ``table`` that each show an argument."""
    made: dict[str, _Cells] = {}
    for column in COLUMNS[table]:
        if column.argument is None:
            continue
        argument = _shown(recording, column)
        if argument is None:
            made[column.name] = [None] * len(rows)
            continue
        values: Mapping[int, int | str] = dict(zip(argument.rows, argument.values, strict=True))
        if argument.text:
            values = {
                row: _valid(recording.spans.strings[at]) for row, at in zip(argument.rows, argument.values, strict=True)
            }
        made[column.name] = [values.get(row) for row in rows]
    return made


def _by_column(table: str, rows: Sequence[Mapping[str, Cell]]) -> dict[str, _Cells]:
    return {column.name: [row[column.name] for row in rows] for column in COLUMNS[table]}


def _of_track(recording: Recording, rows: Sequence[int], read: Callable[[Track], Cell]) -> list[Cell]:
    by_track, track = [read(one) for one in recording.tracks], recording.spans.track
    return [by_track[track[row]] for row in rows]


def _texts(strings: Sequence[str], column: array[int], rows: Sequence[int]) -> list[str]:
    valid = [_valid(text) for text in strings]
    return [valid[column[row]] for row in rows]


def _nullable(column: array[int], rows: Sequence[int]) -> list[int | None]:
    return [None if column[row] == NONE else column[row] for row in rows]


def _integer(value: Json) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if abs(value) < 2**63 else None


def _json(value: Mapping[str, Json]) -> str | None:
    return quoted(_finite(dict(value))) if value else None


def _finite(value: Json) -> Json:
    """JSON knows no infinity and no NaN: they become text."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _valid(text: str) -> str:
    """Text that can be written as UTF-8: half of a surrogate pair becomes a question mark."""
    return text.encode(errors="replace").decode()
