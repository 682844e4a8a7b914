"""The exports that tests make up: built as the real one is, and holding what they say they hold."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import vlmtrace
from tests.nsight.exports import (
    NEWEST,
    OLD,
    OLDEST,
    REAL,
    US,
    VERSIONS,
    Export,
    Kernel,
    Launches,
    Plan,
    generation,
    matching_recording,
    recorded,
)
from tests.nsight.schemas import columns
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import WARMED

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import nsight_reference

KERNELS, CALLS, GRAPHS = (f"CUPTI_ACTIVITY_KIND_{kind}" for kind in ("KERNEL", "RUNTIME", "GRAPH_TRACE"))


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path)) as db:
        yield db


def tables(path: Path) -> dict[str, str]:
    with opened(path) as db:
        return dict(db.execute("SELECT name, sql FROM sqlite_master"))


def kernels_in(path: Path, name: str) -> tuple[int, int]:
    """How many kernels were launched in the ranges of that name, and for how long they ran, asked of the file alone."""
    with opened(path) as db:
        registered = any(row[1] == "textId" for row in db.execute("PRAGMA table_info(NVTX_EVENTS)"))
        text = "(SELECT value FROM StringIds WHERE id = n.textId)" if registered else "n.text"
        count, ns = db.execute(
            f"""SELECT COUNT(*), COALESCE(SUM(k.end - k.start), 0) FROM {KERNELS} k
            JOIN {CALLS} r ON r.correlationId = k.correlationId AND r.globalTid >> 24 = k.globalPid >> 24
            JOIN NVTX_EVENTS n ON n.globalTid = r.globalTid AND n.start <= r.start AND r.end <= n.end
            WHERE n.eventType = 59 AND {text} = ?""",
            (name,),
        ).fetchone()
        return count, ns


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """An export of the real one's schema with rows in all of its tables of events."""
    path = tmp_path / "everything.sqlite"
    with Export(path) as export:
        generation(export.process().thread(at=16_000 * US), Plan(cccl=True, syncs="token"))
        export.add("PROFILER_OVERHEAD", start=0, end=1, nameId=21, returnValue=0)
    return path


def test_tables_are_those_of_the_real_export_to_the_letter(everything: Path, real_export: Path) -> None:
    real, made = tables(real_export), tables(everything)
    assert len(real.keys() & made.keys()) == 14
    assert {name: made[name] for name in real.keys() & made.keys()} == {
        name: real[name] for name in real if name in made
    }
    # What the real one has no rows for, and made-up ones do.
    assert made.keys() - real.keys() == {"PROCESSES", "ThreadNames"}
    assert {name for name in real.keys() - made.keys() if not name.startswith("ENUM_")} == set()


def test_rows_have_values_where_those_of_the_real_export_do(everything: Path, real_export: Path) -> None:
    """A column that the real file never leaves empty is never empty in a table of events here."""
    with opened(real_export) as real, opened(everything) as made:
        for table in (name for name in tables(everything) if name.startswith(("CUPTI", "NVTX"))):
            for column, *_ in columns(REAL, table):
                query = f'SELECT COUNT(*) - COUNT("{column}"), COUNT(*) FROM {table}'
                if real.execute(query).fetchone()[0] == 0 and column != "eventSyncId":
                    empty, count = made.execute(query).fetchone()
                    assert (empty, count > 0) == (0, True), f"{table}.{column}"


def test_identifiers_calls_and_domains_are_written_as_in_the_real_export(everything: Path, real_export: Path) -> None:
    queries = (
        "SELECT DISTINCT globalTid - (globalTid >> 24 << 24) = (globalTid >> 24 & 0xFFFFFF), globalTid >> 48"
        " FROM NVTX_EVENTS",
        f"SELECT DISTINCT globalPid & 0xFFFFFF, (SELECT MIN(globalTid) FROM {CALLS}) >> 24 = globalPid >> 24"
        f" FROM {KERNELS}",
        "SELECT text, domainId, start < 0, end IS NULL, textId IS NULL FROM NVTX_EVENTS WHERE eventType = 75"
        " ORDER BY domainId",
        "SELECT DISTINCT domainId, text IS NULL, color, eventType FROM NVTX_EVENTS WHERE eventType = 59 ORDER BY 1",
        f"SELECT DISTINCT s.value, r.eventClass FROM {CALLS} r JOIN StringIds s ON s.id = r.nameId"
        f" JOIN {KERNELS} k USING (correlationId) WHERE s.value IN ('cudaLaunchKernel_v7000', 'cuLaunchKernel')"
        " ORDER BY 1",
    )
    with opened(real_export) as real, opened(everything) as made:
        for query in queries:
            assert made.execute(query).fetchall() == real.execute(query).fetchall(), query


@pytest.mark.parametrize(
    ("version", "has", "lacks"),
    [
        (NEWEST, {(KERNELS, "clusterX"), ("TARGET_INFO_SESSION_START_TIME", "systemClockNs")}, set()),
        (REAL, {(KERNELS, "greenContextId"), ("NVTX_EVENTS", "binaryData")}, {(KERNELS, "clusterX")}),
        (OLD, {("NVTX_EVENTS", "int64Value")}, {(KERNELS, "greenContextId"), ("NVTX_EVENTS", "binaryData")}),
        (OLDEST, {("NVTX_EVENTS", "text")}, {("NVTX_EVENTS", "textId"), ("NVTX_EVENTS", "int64Value")}),
    ],
)
def test_each_version_has_its_columns_and_tells_which_it_is(
    tmp_path: Path, version: str, has: set[tuple[str, str]], lacks: set[tuple[str, str]]
) -> None:
    path = tmp_path / "made.sqlite"
    with Export(path, version) as export:
        generation(export.process().thread())
    with opened(path) as db:
        found = {(t, row[1]) for t in tables(path) for row in db.execute(f"PRAGMA table_info({t})")}
        assert has <= found
        assert not lacks & found
        if version == OLDEST:
            assert "META_DATA_EXPORT" not in tables(path)
        else:
            told = dict(db.execute("SELECT name, value FROM META_DATA_EXPORT"))
            assert told["EXPORT_SCHEMA_VERSION"] == version


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "plan",
    [Plan(), Plan(layers=4, cccl=True, syncs="token"), Plan(vision_inside=True, steps=1), Plan(graphs="node")],
    ids=["eager", "layers", "vision inside", "graph nodes"],
)
def test_what_a_generation_says_it_launched_is_in_the_file(tmp_path: Path, version: str, plan: Plan) -> None:
    path = tmp_path / "made.sqlite"
    with Export(path, version) as export:
        laid = generation(export.process().thread(), plan)
    for name in (names.GENERATE, names.VISION, names.ENCODER, names.PROJECTOR, names.PREFILL, names.STEP):
        work = laid.work(name)
        assert (work.kernels, work.kernel_ns) == kernels_in(path, name), name
    steps, gaps = plan.steps * plan.step.count, (plan.steps - 1) * plan.gap.count
    assert laid.work(names.STEP).kernels == steps
    assert laid.own(names.GENERATE).kernels == gaps + 2 + 1 + (not plan.vision_inside)
    assert laid.work(names.VISION).kernels == 24
    assert laid.work(names.GENERATE).kernels == export.rows[KERNELS]


def test_ranges_carry_their_numbers_and_lie_between_the_calls_of_their_marks(tmp_path: Path) -> None:
    path = tmp_path / "made.sqlite"
    with Export(path) as export:
        laid = generation(export.process().thread(), Plan(steps=3, tokens=77))
    step = (
        "SELECT n.start, n.end, n.int64Value FROM NVTX_EVENTS n JOIN StringIds s ON s.id = n.textId WHERE s.value = ?"
    )
    with opened(path) as db:
        assert [row[2] for row in db.execute(step + " ORDER BY 1", (names.STEP,))] == [0, 1, 2]
        assert [row[2] for row in db.execute(step, (names.PREFILL,))] == [77]
        records = db.execute(
            f"SELECT r.start, r.end FROM {CALLS} r JOIN StringIds s ON s.id = r.nameId"
            " WHERE s.value LIKE 'cudaEventRecord%' ORDER BY 1"
        ).fetchall()
    for one in laid.ranges(names.STEP):
        assert one.end is not None
        (begin, _), (end, _) = one.marks
        assert (begin, end) == (one.start - 5 * US, one.end + 5 * US)
        assert max(record for record in records if record[1] <= one.start) == (begin + 500, begin + 4_000)
        assert min(record for record in records if record[0] >= one.end) == (end + 500, end + 4_000)


def test_device_work_begins_as_late_as_it_is_told_and_each_stream_does_it_in_order(tmp_path: Path) -> None:
    path = tmp_path / "made.sqlite"
    with Export(path) as export:
        generation(export.process().thread(), Plan(delay_ns=700 * US, copies=3))
    work = " UNION ALL ".join(
        f"SELECT start, end, correlationId FROM CUPTI_ACTIVITY_KIND_{kind}" for kind in ("KERNEL", "MEMCPY", "MEMSET")
    )
    with opened(path) as db:
        found = db.execute(
            f"SELECT r.start, w.start, w.end FROM ({work}) w JOIN {CALLS} r USING (correlationId) ORDER BY r.start"
        ).fetchall()
    free = 0
    for called, start, end in found:
        assert start >= max(free, called + 700 * US)
        free = end
    assert found[0][1] == found[0][0] + 700 * US


def test_a_graph_is_told_as_one_or_by_its_nodes(tmp_path: Path) -> None:
    plans = {level: Plan(graphs=level, steps=3, step=Launches(5, 2 * US)) for level in ("graph", "node")}
    works, rows = {}, {}
    for level, plan in plans.items():
        with Export(tmp_path / level) as export:
            works[level] = generation(export.process().thread(), plan).work(names.STEP)
        rows[level] = export.rows
    assert (works["graph"].graphs, works["graph"].kernels, rows["graph"][GRAPHS]) == (3, 0, 3)
    assert (works["node"].graphs, works["node"].kernels, rows["node"][GRAPHS]) == (3, 15, 0)
    assert works["graph"].ns == works["node"].ns
    with opened(tmp_path / "node") as db:
        nodes = f"SELECT COUNT(*), COUNT(DISTINCT graphNodeId), COUNT(DISTINCT correlationId) FROM {KERNELS}"
        assert db.execute(nodes + " WHERE graphNodeId IS NOT NULL").fetchone() == (15, 5, 3)


def test_processes_devices_and_threads_are_apart_though_correlations_are_not(tmp_path: Path) -> None:
    path = tmp_path / "made.sqlite"
    with Export(path) as export:
        laid = []
        for device, pid in enumerate((470, 471)):
            thread = export.process(pid).thread()
            thread.device = device
            laid.append(generation(thread, Plan(steps=1 + device)))
        other = export.processes[0].thread(480, "worker")
        other.stream = 13
        other.launch(Kernel(US))
    with opened(path) as db:
        found = db.execute(
            f"SELECT globalPid >> 24 & 0xFFFFFF, deviceId, streamId, COUNT(*) FROM {KERNELS} GROUP BY 1, 2, 3"
        ).fetchall()
        shared = db.execute(f"SELECT COUNT(*) - COUNT(DISTINCT correlationId) FROM {KERNELS}").fetchone()[0]
    counts = [one.work(names.GENERATE).kernels for one in laid]
    assert found == [(470, 0, 7, counts[0]), (470, 0, 13, 1), (471, 1, 7, counts[1])]
    assert shared > 0
    assert export.outside.kernels == 1
    assert matching_recording(export, 0, process=export.processes[1]).generations[0].new_tokens == (3,)


def test_what_began_before_the_capture_or_never_ended_is_told_as_far_as_it_was_seen(tmp_path: Path) -> None:
    path = tmp_path / "made.sqlite"
    with Export(path) as export:
        process = export.process()
        process.orphan(Kernel(3 * US, "left_over"), 1_000)
        thread = process.thread(at=10 * US)
        with recorded(thread), thread.range(names.GENERATE, marks=True, closed=False):
            thread.launch(Kernel(US))
            thread.point("somebody's mark")
    with opened(path) as db:
        lost = f"SELECT COUNT(*) FROM {KERNELS} WHERE correlationId NOT IN (SELECT correlationId FROM {CALLS})"
        assert db.execute(lost).fetchone() == (1,)
        named = "FROM NVTX_EVENTS n JOIN StringIds s ON s.id = n.textId WHERE s.value = ?"
        assert db.execute(f"SELECT n.end {named}", (names.GENERATE,)).fetchall() == [(None,)]
        assert db.execute(f"SELECT n.eventType, n.rangeId {named}", (names.RECORDING,)).fetchall() == [(60, 1)]
        assert db.execute(f"SELECT COUNT(*) {named}", (names.CALIBRATE,)).fetchone() == (3,)
        point = f"SELECT n.eventType, n.end, n.domainId {named}"
        assert db.execute(point, ("somebody's mark",)).fetchall() == [(34, None, 0)]
    assert (export.orphans.kernels, export.orphans.ns) == (1, 3 * US)


@pytest.mark.parametrize("version", [NEWEST, REAL, OLD])
def test_the_reference_script_finds_in_it_what_was_laid_and_lays_its_clock_on_the_recording(
    tmp_path: Path, version: str
) -> None:
    """A reader that was written for real reports, and knows nothing of these."""
    path, offset = tmp_path / "made.sqlite", 9_000_000_000_000
    with Export(path, version) as export:
        thread = export.process().thread(at=US)
        laid = [generation(thread, Plan(steps=30, cccl=True, copies=2, asides=1)) for _ in range(2)]
    with opened(path) as db:
        ranges = nsight_reference.read_ranges(db)
        unattributed, total = nsight_reference.attribute(db, ranges)
    assert total == sum(one.work(names.GENERATE).kernels for one in laid)
    assert unattributed == sum(one.own(names.GENERATE).kernels for one in laid)
    for stage in nsight_reference.STAGES:
        found = [(r.operations, r.first, r.last) for r in ranges if r.name == stage]
        works = [one.work for generated in laid for one in generated.ranges(stage)]
        assert found == [(work.kernels + work.copies + work.memsets, work.first, work.last) for work in works]
    matched = nsight_reference.match({"made": matching_recording(export, offset)}, ranges)
    points = [(r.record_begin, span.host_begin) for _, span, r in matched]
    fit = nsight_reference.fit(sorted(points + [(r.record_end, span.host_end) for _, span, r in matched]))
    assert fit(0) == pytest.approx(offset - 500)  # a call begins 500 ns after its mark, each of them here
    assert fit.slope == pytest.approx(0)


def test_tables_can_be_left_out(tmp_path: Path) -> None:
    for left_out in ("CUPTI_", "NVTX_EVENTS"):
        with Export(tmp_path / left_out, leave_out=(left_out,)) as export:
            generation(export.process().thread())
        assert not [name for name in tables(tmp_path / left_out) if name.startswith(left_out)]
    assert KERNELS in tables(tmp_path / "NVTX_EVENTS")


@pytest.mark.parametrize("drift", [0, 20_000])
@pytest.mark.parametrize("inside", [False, True])
def test_the_matching_recording_lies_beside_the_ranges_by_the_offset(tmp_path: Path, drift: int, inside: bool) -> None:
    """Every stage of the recording begins and ends ``beside_ns`` around its range, and it is one vlmtrace can write."""
    offset = 9_000_000_000_000
    with Export(tmp_path / "made.sqlite") as export:
        thread = export.process().thread(at=US)
        laid = [generation(thread, Plan(steps=0 if role == WARMED else 3, vision_inside=inside, role=role, layers=2))
                for role in (WARMED, "timed")]  # fmt: skip
    made = matching_recording(export, offset, drift_ppb=drift)
    assert [one.role for one in made.generations] == [WARMED, "timed"]
    for name in (names.VISION, names.ENCODER, names.PROJECTOR, names.PREFILL, names.STEP, names.LAYER):
        spans = list(made.spans.named(name))
        ranges = [one for generated in laid for one in generated.ranges(name)]
        assert len(spans) == len(ranges) > 0
        for span, one in zip(spans, ranges, strict=True):
            for at, mark in ((span.host_begin, one.start - 5 * US), (span.host_end, (one.end or 0) + 5 * US)):
                assert at == mark + offset + mark * drift // 10**9
    trace = tmp_path / "made.pftrace"
    vlmtrace.save(made, trace)
    assert vlmtrace.load(trace) == made


def test_with_no_room_beside_ranges_host_times_are_those_of_the_ranges(tmp_path: Path) -> None:
    with Export(tmp_path / "made.sqlite", beside_ns=0) as export:
        laid = generation(export.process().thread())
    spans = matching_recording(export, 17).spans
    for span, one in zip(spans.named(names.STEP), laid.ranges(names.STEP), strict=True):
        assert (span.host_begin - 17, span.host_end - 17) == (one.start, one.end)
