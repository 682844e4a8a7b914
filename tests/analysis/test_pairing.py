"""Pairing: every operation in the stage that launched it, none lost, none twice, on a clock whose bound holds."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nsight.exports import (
    NEWEST,
    US,
    VERSIONS,
    Export,
    Generated,
    Kernel,
    Launches,
    Plan,
    generation,
    matching_recording,
    recorded,
)
from vlmtrace.analysis.attribution import places
from vlmtrace.analysis.pairing import UNATTRIBUTED, pair
from vlmtrace.errors import VlmtraceError
from vlmtrace.nsight.report import read
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import COPIES, KERNELS, WARMED, Recording

OFFSET = 5_000_000_000
STAGES = ("vision", "prefill", "decode.step")
OTHER = {"setup": names.OTHER_SETUP, "between": names.OTHER_BETWEEN, "first_token": names.OTHER_FIRST_TOKEN}


def laid(path: Path, plans: Sequence[Plan], version: str = NEWEST) -> tuple[Recording, list[Generated]]:
    with Export(path, version) as export:
        thread = export.process(470).thread(at=1_000_000)
        with recorded(thread):
            made = [generation(thread, plan) for plan in plans]
    return matching_recording(export, offset_ns=OFFSET), made


def paired(path: Path, plans: Sequence[Plan], version: str = NEWEST) -> tuple[Recording, list[Generated]]:
    recording, made = laid(path, plans, version)
    return pair(recording, read(path), path.name), made


def operations(recording: Recording, kind: str = KERNELS) -> Counter[tuple[int | None, object]]:
    """How many of them each generation has in each stage (or for what reason in none)."""
    return Counter(
        (span.generation, span.args.get("stage", span.args.get("unattributed")))
        for span in recording.spans
        if recording.tracks[span.track].kind == kind
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_each_kernel_is_in_the_stage_that_launched_it(tmp_path: Path, version: str) -> None:
    plans = [Plan(), Plan(steps=1), Plan(steps=9, delay_ns=900 * US), Plan(vision=False), Plan(vision_inside=True)]
    recording, made = paired(tmp_path / "r.sqlite", plans, version)
    found = operations(recording)
    for index, (one, plan) in enumerate(zip(made, plans, strict=True)):
        for stage in ("vision", "decode.step"):
            assert found[index, stage] == one.work(stage).kernels, (index, stage)
        inside = one.work("vision").kernels if plan.vision_inside else 0
        assert found[index, "prefill"] == one.work("prefill").kernels - inside
        assert found[index, names.GAP] == plan.gap.count * max(0, plan.steps - 1)
    assert recording.pairing is not None
    assert sum(found.values()) == recording.pairing.kernels == sum(one.work("generate").kernels for one in made)
    assert not recording.pairing.unattributed


def test_plain_sql_on_the_report_gives_the_same(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    recording, _ = paired(path, [Plan(layers=4), Plan(steps=7, cccl=True)])
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute(
            "SELECT COALESCE(n.text, s.value), COUNT(DISTINCT k.rowid) FROM CUPTI_ACTIVITY_KIND_KERNEL k "
            "JOIN CUPTI_ACTIVITY_KIND_RUNTIME c ON c.correlationId = k.correlationId "
            "JOIN NVTX_EVENTS n ON n.globalTid = c.globalTid AND n.start <= c.start AND c.start < n.end "
            "LEFT JOIN StringIds s ON s.id = n.textId WHERE n.eventType = 59 GROUP BY 1"
        ).fetchall()
    found: Counter[object] = Counter()
    for (_, stage), count in operations(recording).items():
        found[stage] += count
    assert {stage: found[stage] for stage in STAGES} == {stage: dict(rows)[stage] for stage in STAGES}


launches = st.builds(Launches, st.integers(0, 6), st.integers(1, 60 * US))
plans = st.builds(
    Plan,
    steps=st.integers(0, 5),
    setup=launches,
    encoder=launches,
    between=launches,
    prefill=launches,
    step=launches,
    gap=launches,
    tail=launches,
    copies=st.integers(0, 2),
    memsets=st.integers(0, 2),
    layers=st.integers(0, 3),
    graphs=st.sampled_from((None, "node", "graph")),
    cccl=st.booleans(),
    vision=st.booleans(),
    vision_inside=st.booleans(),
    delay_ns=st.integers(1 * US, 3_000 * US),
    syncs=st.sampled_from(("end", "token", None)),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(plans, min_size=1, max_size=4))
def test_none_is_lost_none_is_twice(tmp_path_factory: pytest.TempPathFactory, given: list[Plan]) -> None:
    path = tmp_path_factory.mktemp("r") / "r.sqlite"
    recording, made = laid(path, given)
    report = read(path)
    if not len(report.work):
        return
    got = pair(recording, report, path.name)
    assert got.pairing is not None
    kernels, moves = operations(got), operations(got, COPIES)
    work = [one.work("generate") for one in made]
    assert (
        sum(kernels.values())
        == got.pairing.kernels
        == sum(one.kernels + (one.graphs if g.graphs == "graph" else 0) for one, g in zip(work, given, strict=True))
    )
    assert sum(moves.values()) == sum(one.copies + one.memsets for one in work)
    # The stages themselves are as they were.
    ours = [span for span in got.spans if got.tracks[span.track].kind not in {KERNELS, COPIES}]
    assert [(span.name, span.begin, span.end, span.args) for span in ours] == [
        (span.name, span.begin, span.end, span.args) for span in recording.spans
    ]


@pytest.mark.parametrize("drift_ppb", [0, 800, -3_000])
def test_the_clocks_bound_holds_the_truth(tmp_path: Path, drift_ppb: int) -> None:
    path = tmp_path / "r.sqlite"
    with Export(path, NEWEST) as export:
        thread = export.process(470).thread(at=1_000_000)
        made = [generation(thread, Plan(steps=30)) for _ in range(6)]
    recording = matching_recording(export, offset_ns=OFFSET, drift_ppb=drift_ppb)
    got = pair(recording, read(path), path.name)
    assert got.pairing is not None
    assert got.pairing.bound_ns < 10 * US
    work = sorted(span.begin for span in got.spans if got.tracks[span.track].kind in {KERNELS, COPIES})
    for at, here in (
        (min(one.work("generate").first for one in made), work[0]),
        (max(one.ranges("decode.step")[-1].work.first for one in made), None),
    ):
        truth = at + OFFSET + at * drift_ppb // 10**9
        nearest = min(work, key=lambda begin: abs(begin - truth)) if here is None else here
        assert abs(nearest - truth) <= got.pairing.bound_ns


def test_a_report_of_some_generations_finds_which_they_are(tmp_path: Path) -> None:
    whole, some = tmp_path / "whole.sqlite", tmp_path / "some.sqlite"
    given = [Plan(steps=3, delay_ns=(100 + 70 * n) * US, tail=Launches(n)) for n in range(6)]
    recording, made = laid(whole, given)
    report = read(whole)
    # What the capture would hold that began behind the second generation.
    begin = made[2].ranges("generate")[0].start - 50 * US
    some.write_bytes(whole.read_bytes())
    with closing(sqlite3.connect(some)) as db:
        for table in ("NVTX_EVENTS", "CUPTI_ACTIVITY_KIND_RUNTIME", "CUPTI_ACTIVITY_KIND_KERNEL"):
            db.execute(f"DELETE FROM {table} WHERE start < ? AND start > 0", (begin,))
        db.commit()
    got = pair(recording, read(some), some.name)
    found = operations(got)
    for index, one in enumerate(made):
        assert found[index, "prefill"] == (one.work("prefill").kernels if index >= 2 else 0)
    assert len(report.ranges) > len(read(some).ranges)


def test_warm_ups_in_the_report_are_the_recordings_warm_ups(tmp_path: Path) -> None:
    recording, made = paired(tmp_path / "r.sqlite", [Plan(role=WARMED), Plan(), Plan(steps=2)])
    found = operations(recording)
    assert [found[index, "prefill"] for index in range(3)] == [one.work("prefill").kernels for one in made]


def test_a_recording_of_fewer_generations_leaves_the_others_kernels_out(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Export(path, NEWEST) as export:
        thread = export.process(470).thread(at=1_000_000)
        generation(thread, Plan(steps=2))
        other = export.process(480).thread(at=1_000_000)
        elsewhere = generation(other, Plan(steps=5))
        generation(thread, Plan(steps=3))
    recording = matching_recording(export, offset_ns=OFFSET, process=thread.process)
    got = pair(recording, read(path), path.name)
    assert got.pairing is not None
    assert got.pairing.unattributed == {"of another process": elsewhere.work("generate").kernels}
    assert {stage for _, stage in operations(got)}.isdisjoint(UNATTRIBUTED)


def test_why_a_kernel_is_in_no_stage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Export(path, NEWEST) as export:
        process = export.process(470)
        thread, worker = process.thread(at=1_000_000), process.thread(480, "worker", at=1_000_000)
        process.orphan(Kernel(3 * US), 1_200_000)
        generation(thread, Plan())
        worker.launch(Kernel(2 * US))
        thread.launch(Kernel(4 * US))
        generation(thread, Plan(steps=2))
    got = pair(matching_recording(export, offset_ns=OFFSET), read(path), path.name)
    assert got.pairing is not None
    assert got.pairing.unattributed == {UNATTRIBUTED[0]: 1, UNATTRIBUTED[2]: 1, UNATTRIBUTED[3]: 1}
    assert sum(operations(got).values()) == got.pairing.kernels


def test_streams_and_devices_have_rows_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    wanted = {(0, 7): 2, (0, 13): 1, (1, 7): 3}
    with Export(path, NEWEST) as export:
        thread = export.process(470).thread(at=1_000_000)
        for (thread.device, thread.stream), steps in wanted.items():
            generation(thread, Plan(steps=steps))
    got = pair(matching_recording(export, offset_ns=OFFSET), read(path), path.name)
    rows = {(track.device, track.stream) for track in got.tracks if track.kind == KERNELS}
    assert rows == wanted.keys()
    for index, where in enumerate(wanted):
        own = {got.tracks[span.track] for span in got.spans if span.generation == index}
        assert {(track.device, track.stream) for track in own if track.kind == KERNELS} == {where}


def test_what_a_kernel_carries(tmp_path: Path) -> None:
    recording, _ = paired(tmp_path / "r.sqlite", [Plan(layers=2, copies=1)])
    kernels = [span for span in recording.spans if recording.tracks[span.track].kind == KERNELS]
    step = next(span for span in kernels if span.args["stage"] == "decode.step" and span.number == 2)
    assert step.args["module"] == "layer"
    assert step.args["call"] == "cudaLaunchKernel"
    assert step.host_begin < step.host_end <= step.begin
    assert str(step.args["kernel"]).startswith("void ")
    copy = next(span for span in recording.spans if recording.tracks[span.track].kind == COPIES)
    assert isinstance(copy.args["bytes"], int)
    assert copy.name.startswith("Mem")


def test_a_kernel_that_is_called_as_a_stage_is_not_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    with Export(path, NEWEST) as export:
        thread = export.process(470).thread(at=1_000_000)
        generation(thread)
        with thread.range("generate"), thread.range("prefill"):
            thread.launch(Kernel(2 * US, "prefill"))
    recording = matching_recording(export, offset_ns=OFFSET)
    got = pair(recording, read(path), path.name)
    assert len(list(got.spans.named("prefill"))) == len(list(recording.spans.named("prefill")))


def test_the_real_exports_kernels_are_in_the_parts_of_its_generation(real_export: Path) -> None:
    report = read(real_export)
    (there,) = places(report.ranges).values()
    found: Counter[tuple[str, int]] = Counter()
    for at in report.work.call_start:
        place = there.at(at)
        assert place is not None
        found[place.stage, place.step] += 1
    assert sum(found.values()) == len(report.work)
    assert [found["decode.step", step] for step in range(7)] == [188] * 7
    assert [found["decode.gap", step] for step in range(6)] == [48] * 6
    assert found["vision", -1] == 280


@pytest.mark.parametrize(
    ("left_out", "said"), [("CUPTI_", "holds no kernels"), ("NVTX_", "holds no ranges of vlmtrace")]
)
def test_a_report_without_a_part_is_refused(tmp_path: Path, left_out: str, said: str) -> None:
    path = tmp_path / "r.sqlite"
    with Export(path, NEWEST, leave_out=(left_out,)) as export:
        generation(export.process(470).thread(at=1_000_000))
    recording = matching_recording(export, offset_ns=OFFSET)
    with pytest.raises(VlmtraceError, match=said):
        pair(recording, read(path), path.name)


def test_a_report_of_another_run_is_refused(tmp_path: Path) -> None:
    recording, _ = laid(tmp_path / "a.sqlite", [Plan(steps=3)])
    laid(tmp_path / "b.sqlite", [Plan(steps=4)])
    with pytest.raises(VlmtraceError, match=r"holds no generate\(\) of recording"):
        pair(recording, read(tmp_path / "b.sqlite"), "b.sqlite")


def test_a_paired_recording_is_not_paired_again(tmp_path: Path) -> None:
    recording, _ = paired(tmp_path / "r.sqlite", [Plan()])
    with pytest.raises(VlmtraceError, match=r"is paired with .* already"):
        pair(recording, read(tmp_path / "r.sqlite"), "r.sqlite")
