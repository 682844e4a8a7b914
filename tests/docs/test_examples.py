"""The examples in the documents run, and show what they are said to show."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import pytest

import vlmtrace
from tests import synthetic
from tests.docs.markdown import ROOT, Block, blocks
from tests.kernels import with_kernels
from tests.nsight.installation import install
from tests.saved_models import saved
from vlmtrace.capture import demo, loading
from vlmtrace.cli import boundary
from vlmtrace.cli.main import vlmtrace as command_line
from vlmtrace.viewer import processor
from vlmtrace.viewer.processor import TraceProcessor
from vlmtrace.viewer.views import make_views

NOT_HERE = {
    "pip": "needs the network, and would change this environment",
    "scripts/million_spans.py": "takes minutes; tests/scripts runs it with fewer",
    "scripts/million_kernels.py": "takes minutes; tests/scripts runs it with fewer",
    "scripts/demo": "sets up an environment of its own",
    "scripts/test": "is what runs this test",
}
"""Commands that are shown and not run here, each with its reason; all others must be vlmtrace's, and run."""

SHORT = {"--warmup": "1", "--repeats": "2", "--max-new-tokens": "3"}
"""What an example that leaves these to their defaults is run with: how long it takes is not what it shows."""

MODELS = ("llava-hf/llava-1.5-7b-hf", "Qwen/Qwen2.5-VL-7B-Instruct", "my-model")
"""Models that examples name; a folder of that name with a tiny model in it stands in for each."""

PROGRAM = """
from vlmtrace.capture import demo

model, processor = demo.build()
inputs = processor(text="<image> Hi", images=demo.draw(64, 64), return_tensors="pt")
model.generate(**inputs, max_new_tokens=2)
"""
GPU_TRACE = ROOT / "traces" / "qwen2.5-vl-7b-stage-transformers-5.23.pftrace"

PAGES = {page: list(found) for page, found in groupby(blocks("python"), lambda block: block.document)}
DUCKDB = [block for block in blocks("sql") if "duckdb" in block.words]
PERFETTO = [block for block in blocks("sql") if "duckdb" not in block.words]
CONSOLE = [block for block in blocks("console") if "$ " in block.text]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder: what examples name lies in it. Nsight Systems is played by a stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{install(tmp_path / 'nsight').parent}:{os.environ['PATH']}")
    for name in MODELS:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(saved("llava"))
    (tmp_path / "traces").symlink_to(ROOT / "traces")
    for picture in ("cat.png", "cat.jpg"):
        demo.draw(64, 48).save(tmp_path / picture)
    (samples,) = (block for block in blocks("json") if '"prompt"' in block.text)
    (tmp_path / "samples.jsonl").write_text(samples.text)
    (tmp_path / "my_package").mkdir()
    for script in ("script.py", "my_script.py", "my_package/__init__.py", "my_package/evaluate.py"):
        (tmp_path / script).write_text("" if script.endswith("__init__.py") else PROGRAM)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def ready() -> dict[str, Any]:
    """What an example of a few lines takes for granted."""
    loaded = loading.load(loading.LoadOptions(str(saved("llava")), device="cpu"))
    inputs = loaded.processor(text="<image> What is this?", images=demo.draw(64, 48), return_tensors="pt")
    return {"model": loaded.model, "processor": loaded.processor, "inputs": inputs}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, desk: Path, ready: dict[str, Any]) -> None:
    namespace = dict(ready)
    for block in PAGES[page]:
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec", dont_inherit=True)
        exec(code, namespace)


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_the_commands_of_a_console_block_do_what_is_shown(
    block: Block, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for line, shown in commands(block):
        words = shlex.split(line, comments=True)
        if words[0] in NOT_HERE:
            continue
        assert words[0] == "vlmtrace", f"{line!r} is not vlmtrace's: give a reason in NOT_HERE why it is not run"
        code = boundary.run(command_line, shortened(words[1:]))
        out, err = capsys.readouterr()
        assert code == 0, f"{line}\n{err}"
        if shown:
            assert out == shown


def shortened(words: list[str]) -> list[str]:
    """The words of a command, a recording of a model with less to do; a program's work is its own."""
    if words[0] != "record" or "--" in words:
        return words
    more = [word for option, value in SHORT.items() if option not in words for word in (option, value)]
    return [words[0], *more, *words[1:]]


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console block, and the output shown for it."""
    for part in ("\n" + block.text).split("\n$ ")[1:]:
        line, _, shown = part.partition("\n")
        yield line, shown


def test_commands_are_told_from_what_they_print() -> None:
    block = Block(Path("x.md"), ("console",), "$ a b  # c\nfirst\n\n  second\n$ d\n", 1)
    assert list(commands(block)) == [("a b  # c", "first\n\n  second"), ("d", "")]


def test_only_recordings_of_models_are_made_short() -> None:
    assert shortened(["record", "--demo", "--repeats", "9"]) == [
        "record", "--warmup", "1", "--max-new-tokens", "3", "--demo", "--repeats", "9",
    ]  # fmt: skip
    for words in (["summary", "x.pftrace"], ["record", "--", "script.py"]):
        assert shortened(words) == words


@pytest.fixture(scope="module")
def traces(ready: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, TraceProcessor]:
    """Perfetto's trace processor with a trace made here, with one from a GPU, and with one that has kernels."""
    folder = tmp_path_factory.mktemp("queries")
    with vlmtrace.trace(ready["model"]) as session:
        ready["model"].generate(**ready["inputs"], min_new_tokens=4, max_new_tokens=4)
    session.save(folder / "demo.pftrace")
    vlmtrace.save(with_kernels(synthetic.recording()), folder / "paired.pftrace")
    opened = {
        "here": processor.opened(folder / "demo.pftrace"),
        "gpu": processor.opened(GPU_TRACE),
        "kernels": processor.opened(folder / "paired.pftrace"),
    }
    for one in opened.values():
        make_views(one)
    return opened


@pytest.mark.parametrize("block", PERFETTO, ids=str)
def test_a_query_finds_something_where_it_says_that_there_is_something(
    block: Block, traces: dict[str, TraceProcessor]
) -> None:
    wanted = set(traces)
    if "gpu" in block.words:
        wanted = {"gpu", "kernels"}
    if "kernels" in block.words:
        wanted = {"kernels"}
    assert {name for name, one in traces.items() if list(one.query(block.text))} == wanted


@pytest.mark.parametrize("block", DUCKDB, ids=str)
def test_a_query_of_tables_finds_something(block: Block, desk: Path) -> None:
    vlmtrace.export(with_kernels(synthetic.recording(synthetic.Shape(), synthetic.Shape())), "run-tables", to="parquet")
    with duckdb.connect() as connection:
        assert connection.execute(block.text).fetchall()


def test_there_are_examples_of_every_kind() -> None:
    assert len(PAGES) >= 3
    assert len(CONSOLE) >= 8
    assert len(PERFETTO) >= 9
    assert len(DUCKDB) >= 3
