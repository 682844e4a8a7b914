"""The lines that make the host wait for the GPU, as a summary shows them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.cells import cell_len

from tests.synthetic import Shape, recording
from vlmtrace.analysis.summary import Summary, summarise
from vlmtrace.report import FORMATS, render
from vlmtrace.report.syncs import SHOWN, sync_footnotes, sync_rows, sync_title
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import SyncSite

TOWER = SyncSite("family/models/qwen/modeling_qwen.py", 412, "Tower.rot_pos_emb", names.ENCODER, 196)
MERGE = SyncSite("family/models/qwen/modeling_qwen.py", 98, "Model.get_placeholder_mask", names.MERGE, 5)


def audited(*sites: SyncSite, generations: int = 2) -> Summary:
    return summarise(replace(recording(Shape()), syncs=sites, audited=generations))


def many(count: int) -> tuple[SyncSite, ...]:
    return tuple(SyncSite("family/x.py", line, "f", names.GAP, line) for line in range(1, count + 1))


def test_nothing_is_said_of_synchronisations_where_none_were_looked_for() -> None:
    summary = summarise(recording(Shape()))
    assert sync_title(summary) is None
    assert json.loads(render(summary, "json"))["syncs"] is None
    assert not any("synchronisation" in render(summary, form) for form in ("table", "markdown"))


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_an_audit_that_saw_nothing_says_so_and_what_it_cannot_see(form: str) -> None:
    text = render(audited(generations=3), form)
    assert "no synchronisation seen in 3 audited generations, apart from the timed ones" in text
    assert "Event.synchronize()" in text


def test_counts_are_per_generation_and_the_most_frequent_line_comes_first() -> None:
    summary = audited(MERGE, TOWER)
    assert sync_title(summary) == (
        "100.5 synchronisations per generation, counted in 2 audited generations, apart from the timed ones"
    )
    assert [(row.count, row.stage, row.place) for row in sync_rows(summary)] == [
        ("98", names.ENCODER, "family/models/qwen/modeling_qwen.py:412"),
        ("2.5", names.MERGE, "family/models/qwen/modeling_qwen.py:98"),
    ]


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_names_line_stage_and_function(form: str) -> None:
    text = render(audited(TOWER, generations=1), form).replace("\\", "")
    assert "modeling_qwen.py" in text
    assert "412" in text
    assert names.ENCODER in text
    assert "Tower.rot_pos_emb" in text


def test_less_frequent_lines_are_summed_up_and_kept_in_the_json() -> None:
    summary = audited(*many(SHOWN + 2), generations=1)
    assert len(sync_rows(summary)) == SHOWN
    assert sync_footnotes(summary)[0] == "2 more lines with 3"
    document = json.loads(render(summary, "json"))["syncs"]
    assert len(document["sites"]) == SHOWN + 2
    assert document["per_generation"] == sum(range(1, SHOWN + 3))
    assert document["audited_generations"] == 1


def test_the_table_keeps_its_width_and_foreign_names_act_on_nothing() -> None:
    hostile = SyncSite("\x1b[2J[bold]x[/]" + "y" * 500, 1, "\u202e|<b>" + "z" * 500, "\x07", 1)
    text = render(audited(hostile, generations=1))
    assert max(cell_len(line) for line in text.splitlines()) <= 80
    assert "[bold]x[/]" in text
    assert not {"\x1b", "\u202e", "\x07"} & set(text)
    row = next(line for line in render(audited(hostile, generations=1), "markdown").splitlines() if "bold" in line)
    assert "\\|\\<b\\>" in row
