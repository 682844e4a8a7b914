"""``vlmtrace summary``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.synthetic import Shape, recording
from vlmtrace import api
from vlmtrace.analysis.summary import summarise
from vlmtrace.report import VIEWS, render


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
        (["--launch", "--stages", "--clock"], VIEWS),
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
