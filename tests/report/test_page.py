"""The HTML page: what stands on it is the summary's, and nothing on it acts or asks the network."""

from __future__ import annotations

import base64
import csv
import json
import sys
from dataclasses import replace
from io import StringIO

import pytest

from tests.analysis.layered import layered
from tests.kernels import with_kernels
from tests.report.pages import drawn, read
from tests.synthetic import WARMED, Shape, recording
from vlmtrace.analysis.summary import summarise
from vlmtrace.errors import VlmtraceError
from vlmtrace.report import lines
from vlmtrace.report.document import document
from vlmtrace.report.html.embedding import script_json
from vlmtrace.report.stage_csv import HEADINGS, stage_csv
from vlmtrace.timeline.recording import Recording

THREE = (Shape(role=WARMED), Shape(), Shape(vision_inside=True))
HOSTILE = (
    "</script><script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b[0m",
    "a\u202etxt.exe",
    "line\u2028and\u2029paragraph\0",
    "{{ 7 * 7 }}{% for x in y %}",
    "%{x} $ink &lt;b&gt;",
    "x" * 1_000_000,
)


def renamed(made: Recording, text: str) -> Recording:
    """``made`` with ``text`` wherever a recording holds words of others."""
    model = replace(made.models[0], name=text, class_name=text, attention=text, dtype=text, notes=(text,))
    generations = tuple(replace(one, mode=text, tags={text: text}) for one in made.generations)
    return replace(
        made,
        name=text,
        models=(model,),
        generations=generations,
        environment={"gpu": text, text: text},
        workload={"command": ["vlmtrace", text], text: text},
        incomplete=text,
    )


def test_the_page_is_whole_and_asks_nobody() -> None:
    document = drawn(recording(*THREE))
    page = read(document)
    for element in page.elements:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            address = element.attributes.get(name)
            assert address is None or address.startswith(("data:", "#")), (element.tag, address)
    (policy,) = (one for one in page.all("meta") if one.attributes.get("http-equiv") == "Content-Security-Policy")
    assert (policy.attributes["content"] or "").startswith("default-src 'none'; ")
    assert len(document) < 10_000_000


@pytest.mark.parametrize("made", [recording(*THREE), recording(*THREE, device=None), with_kernels(recording(*THREE))])
def test_the_stage_table_is_that_of_the_summary(made: Recording) -> None:
    summary = summarise(made)
    page = read(drawn(made))
    table = "".join(page.all("table", "stages")[0].text.split())
    for row in lines.rows(summary):
        cells = (row.tree, row.stage, row.calls, row.p50, row.p95, row.share, row.note)
        assert "".join("".join(cells).split()) in table
    for parts in (lines.footnotes(summary), *lines.totals(summary), lines.title(summary), lines.subtitle(summary)):
        assert " · ".join(parts) in page.text
    for finding in summary.findings:
        assert all(text in page.text for text in lines.finding_text(finding))


def test_the_csv_on_the_page_holds_the_figures_of_the_json() -> None:
    made = recording(*THREE)
    summary = summarise(made)
    page = read(drawn(made))
    (link,) = (one for one in page.all("a") if "download" in one.attributes)
    data = (link.attributes["href"] or "").partition(";base64,")[2]
    text = base64.b64decode(data).decode()
    assert text == stage_csv(summary)
    assert page.all("pre", "csv")[0].text == text
    rows = list(csv.DictReader(StringIO(text)))
    assert tuple(rows[0]) == HEADINGS
    stages = document(summary)["stages"]
    assert isinstance(stages, list)
    for row, stage in zip(rows, stages, strict=True):
        assert isinstance(stage, dict)
        assert row["stage"] == stage["stage"]
        for key in ("p50_ms", "p95_ms", "share"):
            assert (float(row[key]) if row[key] else None) == stage[key]


def test_an_absent_decode_is_empty_in_the_csv_and_no_zero() -> None:
    row = next(
        row
        for row in csv.DictReader(StringIO(stage_csv(summarise(recording(Shape(steps=0))))))
        if row["stage"] == "decode"
    )
    assert (row["p50_ms"], row["share"], row["calls_max"]) == ("", "", "0")


def test_the_verdict_says_where_the_time_goes() -> None:
    made = recording(Shape(steps=2), Shape(steps=2))
    told = read(drawn(made)).all("h2")[0].text
    row = summarise(made).row("vision")
    assert row is not None
    assert row.share is not None
    assert told.startswith(f"Vision takes {100 * row.share:.1f} % of generate() (medians: 30.0 and ")
    assert told.endswith("host-bound: the GPU waits for the host to launch its work.")


def test_a_page_of_the_hosts_clock_says_so_in_its_title() -> None:
    (title,) = read(drawn(recording(*THREE, device=None))).all("title")
    assert title.text == "vlmtrace: tiny-1.pftrace · times are the host’s"
    (title,) = read(drawn(recording(*THREE))).all("title")
    assert title.text == "vlmtrace: tiny-1.pftrace"


def test_several_traces_have_a_section_each_and_one_table_of_all() -> None:
    page = read(drawn(recording(*THREE), recording(*THREE, device=None)))
    assert [one.attributes["id"] for one in page.all("article")] == ["t1", "t2"]
    (table,) = page.all("table", "compared")
    assert "tiny-1.pftrace" in table.text
    assert "host-bound" in table.text
    assert page.all("title")[0].text.endswith("some times are the host’s")
    assert not read(drawn(recording(*THREE))).all("table", "compared")


def test_every_chart_has_its_place_and_words_that_stand_for_it() -> None:
    page = read(drawn(with_kernels(layered(*THREE))))
    plots = page.all("div", "plot")
    assert [one.attributes["id"] for one in plots] == list(page.charts)
    names = [str(one.attributes["id"]).removeprefix("t1-") for one in plots]
    assert names == ["timeline", "ttft", "itl", "layers-0", "layers-1", "layers-2", "lead", "busy", "longest"]
    assert all(one.attributes["aria-label"] for one in plots)


def test_what_a_trace_lacks_is_said_with_the_way_to_get_it() -> None:
    text = read(drawn(recording(*THREE))).text
    assert "record with --detail layer" in text
    assert "vlmtrace pair TRACE REPORT adds those" in text


def test_a_recording_without_a_generation_to_count_is_a_page_too() -> None:
    made = recording()
    broken = replace(made, generations=tuple(replace(one, error="RuntimeError: boom") for one in made.generations))
    page = read(drawn(broken))
    assert "There is no complete generation to judge." in page.text
    assert "RuntimeError: boom" in page.text
    assert page.charts == {}


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_are_shown_and_do_nothing(text: str) -> None:
    harmless, document = (drawn(renamed(with_kernels(layered(*THREE)), name)) for name in ("harmless", text))
    plain, page = read(harmless), read(document)
    assert [one.tag for one in page.elements] == [one.tag for one in plain.elements]
    assert not any(char in page.text for char in "\x1b\u202e\u2028\u2029\0")
    (script,) = (one for one in page.all("script") if one.attributes.get("id") == "charts")
    assert not any(char in script.text for char in "<>&\u2028\u2029")
    assert len(document) < len(harmless) + 20_000


def test_json_in_a_script_reads_back_as_it_was() -> None:
    value = {"name": "".join(HOSTILE[:-1]), "list": [1, None, 0.5]}
    assert json.loads(script_json(value)) == value


@pytest.mark.parametrize("missing", ["jinja2", "plotly"])
def test_a_missing_library_is_one_line_with_the_remedy(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(VlmtraceError, match=rf"^a report needs {missing}, .*: pip install 'vlmtrace\[report\]'$"):
        drawn(recording())


def test_a_long_recording_stays_a_page_that_opens() -> None:
    made = layered(Shape(steps=6_000), Shape(steps=6_000))
    document = drawn(made)
    assert len(document) < 10_000_000
    text = read(document).text
    for told in ("neighbours are drawn", "12,000 gaps", "6,000 steps are drawn in 800 bins"):
        assert told in text
