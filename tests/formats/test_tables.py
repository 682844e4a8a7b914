"""Tables say what the recording says, in every file they are written to, whatever the names in it."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from pyarrow import parquet

import vlmtrace
from tests import synthetic
from tests.docs.markdown import ROOT
from tests.kernels import HOSTILE, Kernels, with_kernels
from tests.strategies import recordings
from tests.synthetic import COLD, MS, ORIGIN, US, Shape
from vlmtrace import formats
from vlmtrace.analysis.measured import measure
from vlmtrace.analysis.summary import summarise
from vlmtrace.formats.table_columns import COLUMNS, INTEGER, MEANINGS, REAL, TEXT, TRUTH, Cell
from vlmtrace.formats.tables import SCHEMA_VERSION, Table, about, tables
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import COPIES, KERNELS, Recording
from vlmtrace.timeline.spans import NewSpan, SpansBuilder

PYTHON = {INTEGER: int, REAL: float, TEXT: str, TRUTH: bool}
TRICKY = (HOSTILE, "=cmd|'/c calc'!A1", "a,b;c\td", "line\r\nend\n", 'say "so"', "nul\0here", "", "NULL", "1.0", " é ")


def by_name(recording: Recording) -> dict[str, Table]:
    return {table.name: table for table in tables(recording)}


def files(recording: Recording, form: str) -> dict[str, bytes]:
    return {name: b"".join(chunks) for name, chunks in formats.table_writer(form)(recording)}


def from_parquet(data: bytes) -> list[tuple[Cell, ...]]:
    read = parquet.read_table(pa.BufferReader(data))
    return list(zip(*(column.to_pylist() for column in read.columns), strict=True))


def called(*spans: str) -> Recording:
    """A recording with a span of each of these names, as a user may have called them."""
    base = synthetic.recording()
    builder = SpansBuilder()
    for at, name in enumerate(spans):
        builder.add(NewSpan(name, 0, (ORIGIN + at, ORIGIN + at + 1), args={"path": name}))
    return replace(base, generations=(), spans=builder.freeze()[0])


def paired() -> Recording:
    return with_kernels(synthetic.recording(Shape(role=COLD), Shape(vision_inside=True), Shape(steps=0)))


def test_each_duration_adds_up_to_that_of_the_recording_and_each_span_is_in_one_table() -> None:
    recording = paired()
    made = by_name(recording)
    assert list(made) == ["generations", "steps", "spans", "kernels"]
    assert sorted([*made["spans"]["id"], *made["kernels"]["id"]]) == list(range(len(recording.spans)))
    for name in ("spans", "kernels"):
        of_recording = [recording.spans[row] for row in made[name]["id"]]
        assert list(made[name]["duration_ns"]) == [span.duration for span in of_recording]
        assert list(made[name]["name"]) == [span.name for span in of_recording]
    on = [recording.tracks[recording.spans.track[row]].kind for row in made["kernels"]["id"]]
    assert [{"kernel": KERNELS, "copy": COPIES}[kind] for kind in made["kernels"]["kind"]] == on


def test_the_parts_of_each_generation_add_up_in_its_row() -> None:
    made = by_name(paired())["generations"]
    parts = zip(*(made[f"{part}_ns"] for part in ("vision", "prefill", "decode", "other")), strict=True)
    assert [sum(part or 0 for part in row) for row in parts] == made["duration_ns"]


def test_what_did_not_happen_is_absent_and_not_zero() -> None:
    made = by_name(synthetic.recording(Shape(steps=0), device=None))
    row = dict(zip([column.name for column in COLUMNS["generations"]], next(made["generations"].rows()), strict=True))
    assert {key for key, value in row.items() if value is None} == {
        "decode_ns", "tpot_ns", "decode_tokens_per_s", "proposed", "accepted", "clock_bound_ns", "compiled_ns",
        "error", "tags",
    }  # fmt: skip
    assert len(made["steps"]) == 0
    assert set(made["spans"]["lead_end_ns"]) == {None}
    assert set(made["spans"]["device"]) == {None}


def test_a_step_has_its_gap_its_token_and_its_lead() -> None:
    made = by_name(synthetic.recording(Shape(steps=3, step=10 * MS, gap=1 * MS, lead=200 * US)))["steps"]
    assert made["step"] == [0, 1, 2]
    assert made["gap_after_ns"] == [1 * MS, 1 * MS, None]
    assert made["kv_length"] == [101, 102, 103]
    assert made["lead_begin_ns"] == [100 * US] * 3
    assert made["lead_end_ns"] == [200 * US] * 3
    # The first token mark lies 250 µs in front of the first step, every other one 100 µs behind its own.
    assert made["itl_ns"] == [10 * MS + 350 * US, 11 * MS, 11 * MS]


def test_a_step_without_a_token_mark_of_its_own_has_no_itl() -> None:
    base = synthetic.recording(Shape(steps=3))
    builder = SpansBuilder()
    kept = [span for span in base.spans if not (span.name == names.TOKEN and span.number == 2)]
    handle = {span.row: at for at, span in enumerate(kept)}
    for span in kept:
        builder.add(
            NewSpan(
                span.name, span.track, (span.begin, span.end), (span.host_begin, span.host_end),
                None if span.parent is None else handle[span.parent], span.generation, span.number,
            )
        )  # fmt: skip
    spans, row_of = builder.freeze()
    (generation,) = base.generations
    changed = replace(base, spans=spans, generations=(replace(generation, span=row_of[handle[generation.span]]),))
    itl = by_name(changed)["steps"]["itl_ns"]
    assert [one is None for one in itl] == [False, True, False]


def test_times_count_from_the_origin_whose_wall_clock_is_told() -> None:
    recording = paired()
    made = by_name(recording)["spans"]
    assert [at + ORIGIN for at in made["begin_ns"]] == [recording.spans.begin[row] for row in made["id"]]
    assert [at + ORIGIN for at in made["host_end_ns"]] == [recording.spans.host_end[row] for row in made["id"]]
    told = about(replace(recording, origin_unix_ns=1_795_000_000_000_000_007))
    assert told["origin_unix_ns"] == 1_795_000_000_000_000_007
    assert told["origin_utc"] == "2026-11-18T11:06:40.000000007Z"


def test_whatever_lies_in_a_step_tells_which() -> None:
    recording = formats.read(ROOT / "traces" / "llava-1.5-7b-layer-transformers-5.23.pftrace")
    made = by_name(recording)["spans"]
    steps = {span.row: span.number for span in recording.spans.named(names.STEP)}
    inside = [
        (step, steps[parent])
        for name, step, parent in zip(made["name"], made["step"], made["parent"], strict=True)
        if name == names.LAYER and parent in steps
    ]
    assert len(inside) == 32 * len(steps)
    assert all(step == of_parent for step, of_parent in inside)
    outside = [step for step, parent in zip(made["step"], made["parent"], strict=True) if parent is None]
    assert set(outside) == {None}


def test_the_median_of_a_stage_is_that_of_the_summary(tmp_path: Path) -> None:
    recording = formats.read(ROOT / "traces" / "qwen2.5-vl-7b-stage-transformers-5.23.pftrace")
    vlmtrace.export(recording, tmp_path / "run", to="parquet")
    query = (
        f"SELECT median(vision_ns), median(prefill_ns), median(decode_ns), median(other_ns), median(ttft_ns) "
        f"FROM '{tmp_path}/run/generations.parquet' WHERE counted"
    )
    with duckdb.connect() as connection:
        found = connection.execute(query).fetchone()
    summary = summarise(recording)
    p50 = {row.stage: row.p50 for row in summary.rows}
    assert found is not None
    assert found[:4] == tuple(p50[stage] for stage in ("vision", "prefill", "decode", "other"))
    assert len(by_name(recording)["steps"]) == sum(len(one.account.steps) for one in measure(recording))


def test_a_recording_without_kernels_has_no_table_of_them() -> None:
    assert list(by_name(synthetic.recording())) == ["generations", "steps", "spans"]
    assert "kernels.csv" not in files(synthetic.recording(), "csv")


def test_a_kernel_tells_its_stage_its_call_and_its_size_where_it_has_them() -> None:
    made = by_name(paired())["kernels"]
    rows = [dict(zip([column.name for column in made.columns], row, strict=True)) for row in made.rows()]
    copies = [row for row in rows if row["kind"] == "copy"]
    assert {row["bytes"] for row in copies} == {1_204_224, 4_408, 65_536}
    assert {row["grid"] for row in copies} == {None}
    kernels = [row for row in rows if row["kind"] == "kernel"]
    assert {row["bytes"] for row in kernels} == {None}
    assert {row["stage"] is None for row in kernels if row["unattributed"] is None} == {False}
    without_call = [row for row in kernels if row["call"] is None]
    assert [(row["host_begin_ns"], row["host_end_ns"]) for row in without_call] == [(None, None)]
    assert {row["step"] for row in kernels if row["stage"] == names.STEP} == {0, 1, 2, 3}


@pytest.mark.parametrize("form", formats.TABLE_FORMATS)
def test_no_name_is_changed_or_breaks_a_row(form: str) -> None:
    recording = called(*TRICKY)
    data = files(recording, form)[f"spans.{form}"]
    if form == "parquet":
        read = parquet.read_table(pa.BufferReader(data)).to_pydict()
    else:
        header, *rows = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
        read = dict(zip(header, zip(*rows, strict=True), strict=True))
    assert list(read["name"]) == list(TRICKY)
    assert list(read["path"]) == list(TRICKY)


def test_duckdb_reads_both_alike(tmp_path: Path) -> None:
    recording = with_kernels(synthetic.recording(), Kernels(name="=cmd(\"a\", 'b'),\n<é>"))
    for form in formats.TABLE_FORMATS:
        vlmtrace.export(recording, tmp_path / form, to=form)
    with duckdb.connect() as connection:
        for name in COLUMNS:
            columns = ", ".join(column.name for column in COLUMNS[name] if column.type != TRUTH)
            csv_rows, parquet_rows = (
                connection.execute(f"SELECT {columns} FROM '{tmp_path}/{form}/{name}.{form}'").fetchall()
                for form in formats.TABLE_FORMATS
            )
            assert csv_rows == parquet_rows


@settings(max_examples=60, deadline=None)
@given(recording=recordings())
def test_whatever_was_recorded_is_read_from_parquet_as_it_is_in_the_tables(recording: Recording) -> None:
    written = files(recording, "parquet")
    made = by_name(recording)
    assert list(written) == [f"{name}.parquet" for name in made]
    for name, table in made.items():
        assert from_parquet(written[f"{name}.parquet"]) == list(table.rows())


@settings(max_examples=60, deadline=None)
@given(recording=recordings())
def test_whatever_was_recorded_is_told_in_csv_with_the_types_of_its_columns(recording: Recording) -> None:
    written = files(recording, "csv")
    for name, table in by_name(recording).items():
        rows = list(csv.reader(io.StringIO(written[f"{name}.csv"].decode(), newline=""), strict=True))
        assert rows[0] == [column.name for column in COLUMNS[name]]
        assert rows[1:] == [[_told(cell) for cell in row] for row in table.rows()]
        for column, cells in zip(table.columns, table.cells, strict=True):
            assert {type(cell) for cell in cells if cell is not None} <= {PYTHON[column.type]}


def _told(cell: Cell) -> str:
    return "" if cell is None else str(cell).lower() if isinstance(cell, bool) else str(cell)


def test_every_table_says_its_version_and_every_column_what_it_means() -> None:
    recording = paired()
    document = json.loads(files(recording, "csv")["tables.json"])
    assert document["schema_version"] == SCHEMA_VERSION
    assert list(document["tables"]) == list(COLUMNS) == list(MEANINGS)
    for name, data in files(recording, "parquet").items():
        schema = parquet.read_schema(pa.BufferReader(data))
        told = document["tables"][name.removesuffix(".parquet")]
        assert schema.metadata[b"schema_version"] == str(SCHEMA_VERSION).encode()
        assert schema.metadata[b"origin_unix_ns"] == str(document["origin_unix_ns"]).encode()
        assert told["rows"] == parquet.read_metadata(pa.BufferReader(data)).num_rows
        assert [field.name for field in schema] == [column["name"] for column in told["columns"]]
        units = [field.metadata[b"unit"].decode() for field in schema]
        assert units == [column["unit"] for column in told["columns"]]
        assert all(field.metadata[b"meaning"] for field in schema)


def test_an_argument_of_another_type_than_its_column_is_told_with_the_others() -> None:
    base = synthetic.recording()
    builder = SpansBuilder()
    builder.add(NewSpan("mine", 0, (ORIGIN, ORIGIN + 1), args={"kv": "text", "path": "here", "é": 3}))
    made = by_name(replace(base, generations=(), spans=builder.freeze()[0]))["spans"]
    assert (made["kv_length"], made["path"]) == ([None], ["here"])
    assert [json.loads(str(cell)) for cell in made["args"]] == [{"kv": "text", "é": 3}]


def test_the_document_tells_the_schema_as_it_is() -> None:
    text = (ROOT / "docs" / "tables.md").read_text()
    for name, columns in COLUMNS.items():
        section = text.partition(f"### {name}\n")[2].partition("\n### ")[0].partition("<!-- end")[0]
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        assert rows == [f"| `{one.name}` | {one.type} | {one.unit} | {one.meaning} |" for one in columns]
    assert f"`schema_version`** is {SCHEMA_VERSION}." in text
