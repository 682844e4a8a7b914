"""``vlmtrace summary``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.analysis.altered import with_inputs
from tests.analysis.paired import Op, paired
from tests.synthetic import MS, ORIGIN, Shape, recording
from vlmtrace import api
from vlmtrace.analysis.summary import summarise
from vlmtrace.report import VIEWS, render
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording


def test_a_trace_is_shown_as_the_report_renders_it(type_in, folder: Path) -> None:
    made = recording(Shape(), Shape(step=12_000_000))
    api.save(made, folder / "a.pftrace")

    for form in ("table", "json", "markdown"):
        typed = type_in("summary", "a.pftrace", "--format", form)
        assert (typed.code, typed.out, typed.err) == (0, render(summarise(made), form), "")


def test_each_view_is_shown_when_asked_for(type_in, folder: Path) -> None:
    made = recording(Shape(lead=0))
    api.save(made, folder / "a.pftrace")

    for words, views in (
        (["--clock"], ["clock"]),
        (["--launch"], ["launch"]),
        (["--launch", "--stages", "--clock"], ["stages", "clock", "launch"]),
    ):
        for form in ("table", "markdown"):
            typed = type_in("summary", *words, "a.pftrace", "--format", form)
            assert (typed.code, typed.out, typed.err) == (0, render(summarise(made), form, views=views), "")


def test_json_has_every_view_without_being_asked(type_in, folder: Path) -> None:
    api.save(recording(Shape(lead=0)), folder / "a.json")

    plain, asked = (
        type_in("summary", *words, "a.json", "--format", "json") for words in ([], ["--stages", "--clock", "--launch"])
    )

    assert plain.out == asked.out
    assert json.loads(plain.out)["clock"]["devices"][0]["bound_ns"]["p50"] == 5_000
    assert json.loads(plain.out)["host_bound_stretches"]["count"] == 1


def test_without_a_file_the_newest_trace_here_is_shown_and_named(type_in, folder: Path) -> None:
    api.save(recording(), folder / "only.json")

    typed = type_in("summary")

    assert typed.code == 0
    assert typed.err == "Reading only.json\n"
    assert typed.out == render(summarise(recording()), "table")


def test_several_traces_are_shown_under_their_names_or_as_one_array(type_in, folder: Path) -> None:
    for name in ("a.pftrace", "b.json"):
        api.save(recording(), folder / name)

    table = type_in("summary", "a.pftrace", "b.json")
    array = type_in("summary", "a.pftrace", "b.json", "--format", "json")

    assert table.out.index("a.pftrace:") < table.out.index("b.json:")
    assert json.loads(array.out) == [json.loads(render(summarise(recording()), "json"))] * 2


def test_a_missing_file_another_tools_file_and_an_empty_folder_are_one_line_each(type_in, folder: Path) -> None:
    (folder / "other.json").write_text('{"traceEvents": []}')

    for words, says in (
        (["none.pftrace"], "none.pftrace"),
        (["other.json"], "other.json"),
        ([], "there is no trace in this folder"),
    ):
        typed = type_in("summary", *words)
        assert typed.code == 1
        assert says in typed.err
        assert typed.err.count("\n") == 1
        assert typed.out == ""


PAIRED = paired(recording(Shape(vision=33 * MS)), [Op(ORIGIN + 9 * MS, ORIGIN + 12 * MS, names.VISION)])


@pytest.fixture
def loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let traces of these names hold these recordings."""

    def known(**recordings: Recording) -> None:
        monkeypatch.setattr(api, "load", lambda path: recordings[path.stem])

    return known


def test_the_kernels_of_a_paired_trace_are_shown_when_asked_for(type_in, loads) -> None:
    loads(run=PAIRED, plain=recording(Shape()))

    for form in ("table", "markdown", "json"):
        alone = type_in("summary", "--kernels", "run.pftrace", "--format", form)
        against = type_in("summary", "run.pftrace", "--kernels", "--baseline", "plain.pftrace", "--format", form)
        both = summarise(PAIRED, recording(Shape()))
        assert (alone.code, alone.out, alone.err) == (0, render(summarise(PAIRED), form, views=["kernels"]), "")
        assert (against.code, against.out, against.err) == (0, render(both, form, views=["kernels"]), "")
    assert type_in("summary", "--kernels", "--stages", "--clock", "--launch", "run.pftrace").out == render(
        summarise(PAIRED), views=VIEWS
    )


def test_a_trace_without_kernels_is_one_line_that_says_how_to_get_them(type_in, folder: Path) -> None:
    api.save(recording(), folder / "plain.pftrace")

    typed = type_in("summary", "--kernels", "plain.pftrace")

    assert (typed.code, typed.out) == (1, "")
    assert typed.err == (
        "vlmtrace: error: 'plain.pftrace' holds no kernels: record with --kernels, or pair it with a report, "
        "vlmtrace pair TRACE REPORT\n"
    )


def test_a_baseline_of_other_work_is_one_line_and_inconclusive(type_in, loads) -> None:
    loads(run=PAIRED, other=with_inputs(recording(Shape()), batch=4))

    typed = type_in("summary", "--kernels", "run.pftrace", "--baseline", "other.pftrace")

    assert (typed.code, typed.out) == (4, "")
    assert typed.err == (
        "vlmtrace: error: the baseline is not comparable: another batch size: '4' there, '1' here: record it with the "
        "same command, without Nsight Systems\n"
    )


def test_a_baseline_is_for_kernels(type_in, folder: Path) -> None:
    api.save(recording(), folder / "plain.pftrace")

    typed = type_in("summary", "plain.pftrace", "--baseline", "plain.pftrace")

    assert (typed.code, typed.out) == (2, "")
    assert typed.err.count("\n") == 1
    assert "--baseline compares what --kernels shows: give both" in typed.err


def test_a_baseline_that_is_not_there_is_one_line(type_in, folder: Path) -> None:
    typed = type_in("summary", "--kernels", "none.pftrace", "--baseline", "gone.pftrace")
    assert (typed.code, typed.out) == (1, "")
    assert "'gone.pftrace'" in typed.err
