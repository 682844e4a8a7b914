"""Reading exports: each schema, what is missing, and what is no export at all."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.nsight.exports import NEWEST, VERSIONS, Export, Kernel, Plan, generation
from vlmtrace.errors import VlmtraceError
from vlmtrace.nsight.report import COPY, GRAPH, KERNEL, SET, Report, process_of, read, tid_of
from vlmtrace.timeline.spans import NONE


def made(path: Path, version: str = NEWEST, plan: Plan | None = None, *, leave_out: tuple[str, ...] = ()) -> Report:
    with Export(path, version, leave_out=leave_out) as export:
        generation(export.process(470).thread(), plan or Plan())
    return read(path)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_schema_tells_the_same_of_ranges_and_work(tmp_path: Path, version: str) -> None:
    report, newest = made(tmp_path / "a.sqlite", version), made(tmp_path / "b.sqlite", NEWEST)
    assert report.ranges.name == newest.ranges.name
    assert report.ranges.start == newest.ranges.start
    for column in ("kind", "start", "end", "device", "stream", "call_start", "call_end", "thread"):
        assert getattr(report.work, column) == getattr(newest.work, column), column


def test_what_was_laid_is_read(tmp_path: Path) -> None:
    with Export(tmp_path / "a.sqlite", NEWEST) as export:
        laid = generation(export.process(470).thread(), Plan(copies=2, memsets=1)).work("generate")
    work = read(tmp_path / "a.sqlite").work
    kinds = Counter(work.kind)
    assert kinds == {KERNEL: laid.kernels, COPY: laid.copies, SET: laid.memsets}
    assert sum(
        end - start for start, end, kind in zip(work.start, work.end, work.kind, strict=True) if kind == KERNEL
    ) == (laid.kernel_ns)
    assert sum(size for size, kind in zip(work.size, work.kind, strict=True) if kind == COPY) == laid.copied_bytes


def test_names_are_told_short_and_full_and_shapes_as_texts(tmp_path: Path) -> None:
    report = made(tmp_path / "a.sqlite")
    row = list(report.work.kind).index(KERNEL)
    texts = {key: report.strings[getattr(report.work, key)[row]] for key in ("name", "full", "grid", "block", "call")}
    assert texts["name"] in texts["full"]
    assert texts["full"].startswith("void ")
    assert texts["grid"] == "132×1×1"
    assert texts["call"].startswith("cudaLaunchKernel")
    copy = list(report.work.kind).index(COPY)
    assert report.strings[report.work.name[copy]] == "Memcpy HtoD"


def test_the_real_export_is_read_whole(real_export: Path) -> None:
    report = read(real_export)
    with closing(sqlite3.connect(real_export)) as db:
        counts = [
            db.execute(f"SELECT COUNT(*) FROM CUPTI_ACTIVITY_KIND_{table}").fetchone()[0]
            for table in ("KERNEL", "MEMCPY", "MEMSET")
        ]
        ranges = db.execute("SELECT COUNT(*) FROM NVTX_EVENTS WHERE domainId = 1 AND eventType = 59").fetchone()[0]
    assert [Counter(report.work.kind)[kind] for kind in (KERNEL, COPY, SET)] == counts
    assert len(report.ranges) == ranges
    assert (report.product, report.schema) == ("2025.3.2.0", "3.20.3")
    assert report.gpus == {0: "NVIDIA H100 80GB HBM3"}
    assert NONE not in report.work.call_start


def test_ranges_of_other_libraries_are_left_out(tmp_path: Path) -> None:
    report = made(tmp_path / "a.sqlite", plan=Plan(cccl=True))
    assert not [name for name in report.ranges.name if "cub" in name or "Reduce" in name]
    assert report.ranges.name == made(tmp_path / "b.sqlite").ranges.name


def test_a_graph_is_told_by_its_nodes_or_as_one(tmp_path: Path) -> None:
    nodes = made(tmp_path / "a.sqlite", plan=Plan(graphs="node", steps=4))
    whole = made(tmp_path / "b.sqlite", plan=Plan(graphs="graph", steps=4))
    assert GRAPH not in Counter(nodes.work.kind)
    assert Counter(whole.work.kind)[GRAPH] == 4
    assert Counter(nodes.work.kind)[KERNEL] == Counter(whole.work.kind)[KERNEL] + 4 * Plan().step.count


def test_work_that_was_launched_before_the_capture_has_no_call(tmp_path: Path) -> None:
    with Export(tmp_path / "a.sqlite", NEWEST) as export:
        process = export.process(470)
        process.orphan(Kernel(5_000), 1_000)
        generation(process.thread(at=100_000))
    work = read(tmp_path / "a.sqlite").work
    (row,) = (row for row, call in enumerate(work.call_start) if call == NONE)
    assert (work.start[row], work.thread[row], work.call[row]) == (1_000, NONE, NONE)


def test_two_processes_with_the_same_call_numbers_are_told_apart(tmp_path: Path) -> None:
    with Export(tmp_path / "a.sqlite", NEWEST) as export:
        laid = [generation(export.process(pid).thread(), Plan(steps=2)) for pid in (470, 480)]
    work = read(tmp_path / "a.sqlite").work
    assert Counter(work.kind)[KERNEL] == sum(one.work("generate").kernels for one in laid)
    assert all(process_of(thread) == process for thread, process in zip(work.thread, work.process, strict=True))


def test_an_operation_with_two_calls_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    whole = made(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME "
            "(start, end, eventClass, globalTid, correlationId, nameId, returnValue) "
            "SELECT start + 10, end + 10, eventClass, globalTid, correlationId, nameId, returnValue "
            "FROM CUPTI_ACTIVITY_KIND_RUNTIME LIMIT 20"
        )
        db.commit()
    again = read(path)
    assert sorted(again.work.start) == sorted(whole.work.start)
    assert sorted(again.work.call_start) == sorted(whole.work.call_start)


def test_without_cuda_or_nvtx_a_part_is_empty(tmp_path: Path) -> None:
    assert not len(made(tmp_path / "a.sqlite", leave_out=("CUPTI_",)).work)
    assert not len(made(tmp_path / "b.sqlite", leave_out=("NVTX_",)).ranges)


def test_a_range_without_end_is_counted_and_left_out(tmp_path: Path) -> None:
    with Export(tmp_path / "a.sqlite", NEWEST) as export:
        thread = export.process(470).thread()
        generation(thread)
        with thread.range("generate", closed=False):
            thread.launch(Kernel(1_000))
    report = read(tmp_path / "a.sqlite")
    assert report.pending == 1
    assert list(report.ranges.name).count("generate") == 1


def test_a_thread_is_its_process_and_the_systems_number(tmp_path: Path) -> None:
    report = made(tmp_path / "a.sqlite")
    (thread,) = set(report.ranges.thread)
    assert process_of(thread) + tid_of(thread) == thread
    assert set(report.work.process) == {process_of(thread)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no SQLite database: export the report"),
        (b"hello", "is no SQLite database"),
        (b"SQLite format 3\0" + b"x" * 5_000, "is damaged"),
    ],
    ids=["empty", "text", "half"],
)
def test_what_is_no_database_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "r.sqlite"
    path.write_bytes(content)
    with pytest.raises(VlmtraceError, match=said):
        read(path)


def test_a_truncated_export_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    made(path, plan=Plan(steps=40))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VlmtraceError, match="is damaged"):
        read(path)


def test_another_database_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "r.sqlite")) as db:
        db.execute("CREATE TABLE songs (title)")
        db.commit()
    with pytest.raises(VlmtraceError, match="is no export of Nsight Systems"):
        read(tmp_path / "r.sqlite")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VlmtraceError, match="cannot be read"):
        read(tmp_path / "none.sqlite")
