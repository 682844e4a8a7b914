"""``vlmtrace export``: what is written where, and what is refused before any work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import vlmtrace
from tests.cli.conftest import Typed
from tests.kernels import with_kernels
from tests.synthetic import Shape, recording

Type = Callable[..., Typed]


@pytest.fixture
def trace(folder: Path) -> Path:
    return vlmtrace.save(with_kernels(recording(Shape(), Shape())), folder / "run.pftrace")


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a trace fails: what is refused is refused before."""

    def load(path: str | Path) -> None:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("vlmtrace.api.load", load)


@pytest.mark.parametrize("ending", [".json", ".json.gz"])
def test_a_trace_goes_to_another_format_and_back_as_it_was(type_in: Type, trace: Path, ending: str) -> None:
    there = type_in("export", trace, "-o", f"other{ending}")
    assert (there.code, there.out) == (0, "")
    assert f"Wrote other{ending} (" in there.err
    assert f"Next: vlmtrace summary other{ending}" in there.err
    assert type_in("export", f"other{ending}", "-o", "back.pftrace", "-q") == Typed(0, "", "")
    assert vlmtrace.load("back.pftrace") == vlmtrace.load(trace)
    assert Path("back.pftrace").read_bytes() == trace.read_bytes()


@pytest.mark.parametrize(
    ("form", "files"),
    [
        ("csv", ["generations.csv", "kernels.csv", "spans.csv", "steps.csv", "tables.json"]),
        ("parquet", ["generations.parquet", "kernels.parquet", "spans.parquet", "steps.parquet"]),
    ],
)
def test_tables_are_a_folder_of_files(type_in: Type, trace: Path, form: str, files: list[str]) -> None:
    done = type_in("export", "-o", "tables", "--to", form)
    assert (done.code, done.out) == (0, "")
    assert sorted(path.name for path in Path("tables").iterdir()) == files
    assert all(f"Wrote tables/{name} (" in done.err for name in files)
    assert f"Next: duckdb -c \"SELECT name, median(duration_ns) / 1e6 AS ms FROM 'tables/spans.{form}'" in done.err


def test_a_folder_that_a_shell_would_take_apart_is_quoted_in_the_next_command(type_in: Type, trace: Path) -> None:
    done = type_in("export", trace, "-o", "my $HOME", "--to", "csv")
    assert done.code == 0
    assert "Next: duckdb -c 'SELECT" in done.err


def test_tables_that_exist_are_kept_unless_forced_and_then_all_are_of_the_one_trace(type_in: Type, trace: Path) -> None:
    assert type_in("export", trace, "-o", "tables", "--to", "csv").code == 0
    (Path("tables") / "mine.csv").write_text("mine")
    plain = vlmtrace.save(recording(), "plain.pftrace")
    before = {path: path.read_bytes() for path in Path("tables").iterdir()}
    done = type_in("export", plain, "-o", "tables", "--to", "csv")
    assert done.code == 1
    assert "exists: give another name, or --force" in done.err
    assert {path: path.read_bytes() for path in Path("tables").iterdir()} == before
    assert type_in("export", plain, "-o", "tables", "--to", "csv", "--force").code == 0
    names = {path.name for path in Path("tables").iterdir()}
    assert names == {"generations.csv", "steps.csv", "spans.csv", "tables.json", "mine.csv"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("-o", "run.txt"), 2, "'run.txt' does not say what to write: end its name in .pftrace, .json, .json.gz, or"),
        (("-o", "run.json", "--to", "csv"), 2, "'run.json' is no name for a folder of tables"),
        (("-o", "-", "--to", "csv"), 2, "'-' is no name for a folder of tables"),
        (("-o", "tables", "--to", "xlsx"), 2, "'xlsx' is not one of 'csv', 'parquet'"),
        ((), 2, "Missing option '-o'"),
        (("-o", "run.pftrace"), 1, "'run.pftrace' exists"),
        (("-o", "notes", "--to", "csv"), 1, "'notes' is a file: give a folder after -o"),
        (("-o", "none/tables", "--to", "csv"), 1, "'none/tables' cannot be written: No such file or directory"),
        (("-o", "none/run.json"), 1, "'none/run.json' cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_written_is_one_line_before_anything_is_read(
    type_in: Type, trace: Path, unread: None, words: tuple[str, ...], code: int, said: str
) -> None:
    Path("notes").write_text("notes")
    before = sorted(Path().iterdir())
    done = type_in("export", trace, *words)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert sorted(Path().iterdir()) == before


def test_missing_pyarrow_is_one_line_before_anything_is_read(
    type_in: Type, trace: Path, unread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "vlmtrace.formats.tables_parquet", raising=False)
    monkeypatch.delattr("vlmtrace.formats.tables_parquet", raising=False)
    done = type_in("export", trace, "-o", "tables", "--to", "parquet")
    assert done.code == 1
    assert done.err.splitlines() == [
        "vlmtrace: error: Parquet needs pyarrow, which is not installed: "
        "pip install 'vlmtrace[parquet]', or ask for csv"
    ]
    assert not Path("tables").exists()


def test_what_is_no_trace_leaves_no_folder(type_in: Type, folder: Path) -> None:
    Path("notes.pftrace").write_text("notes")
    assert type_in("export", "notes.pftrace", "-o", "tables", "--to", "csv").code == 1
    assert not Path("tables").exists()


def test_python_has_it_too(folder: Path) -> None:
    made = recording()
    assert vlmtrace.export(made, "run.json") == (Path("run.json"),)
    written = vlmtrace.export("run.json", "tables", to="csv")
    assert [path.name for path in written] == ["generations.csv", "steps.csv", "spans.csv", "tables.json"]
    with pytest.raises(vlmtrace.VlmtraceError, match="exists"):
        vlmtrace.export(made, "tables", to="csv")
    with pytest.raises(vlmtrace.VlmtraceError, match="choose one of csv, parquet"):
        vlmtrace.export(made, "more", to="xlsx")
    with pytest.raises(vlmtrace.VlmtraceError, match="does not say which format"):
        vlmtrace.export("absent.pftrace", "run.txt")
