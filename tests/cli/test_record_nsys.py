"""``vlmtrace record --nsys``, whole, with a stand-in for nsys: both files, what is passed on, and what goes wrong."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.nsight.installation import install
from tests.saved_models import saved
from vlmtrace import api
from vlmtrace.capture import demo
from vlmtrace.nsight import command
from vlmtrace.timeline.recording import TIMED, WARMED

_QUICK = ("--warmup", "1", "--repeats", "2", "--max-new-tokens", "3")
_NEW = ("--demo", *_QUICK)
_PROGRAM = """
import sys
from vlmtrace.capture import demo

model, processor = demo.build()
inputs = processor(text="<image> Hi", images=demo.draw(64, 64), return_tensors="pt")
model.generate(**inputs, max_new_tokens=2)
print("told:", sys.stdin.read(), sys.argv[1:])
sys.exit(7)
"""
_WAITING = """
import time
print("ready", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    raise
"""


@pytest.fixture
def desk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, beside which nsys lies, and a Python that finds this vlmtrace."""
    monkeypatch.setenv("PYTHONPATH", os.fspath(Path(demo.__file__).parents[2]))
    monkeypatch.delenv(command.SESSION_VARIABLE, raising=False)
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    return folder / "here"


def record(nsys: Path, *words: str, given: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "vlmtrace", "record", "--nsys", "--nsys-path", str(nsys)]
    return subprocess.run(
        [*start, *words], input=given, capture_output=True, text=True, timeout=180, check=False, **more
    )


def files(desk: Path) -> list[str]:
    return sorted(path.name for path in desk.iterdir())


def test_trace_and_report_lie_side_by_side_and_stdout_holds_the_summary_alone(desk: Path) -> None:
    (desk / "demo-004.nsys-rep").write_text("of an earlier run")

    done = record(install(desk.parent / "nsys"), *_NEW, "--format", "json", "--nsys-arg=--kill=none")

    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)
    assert files(desk) == ["demo-004.nsys-rep", "demo-005.nsys-rep", "demo-005.pftrace"]
    report = json.loads((desk / "demo-005.nsys-rep").read_text())
    assert report["options"] == {
        "--trace": "cuda,nvtx", "--sample": "none", "--cpuctxsw": "none", "--capture-range": "nvtx",
        "--nvtx-capture": "recording@vlmtrace", "--capture-range-end": "stop", "--cuda-graph-trace": "graph",
        "--output": "demo-005", "--kill": "none",
    }  # fmt: skip
    again = ["record", *_NEW, "--format", "json", "-o", "demo-005.pftrace"]
    assert report["program"] == [sys.executable, "-m", "vlmtrace", *again]
    made = api.load("demo-005.pftrace")
    assert [generation.role for generation in made.generations] == [WARMED, TIMED, TIMED]
    assert made.workload["command"] == ["vlmtrace", *again]
    said = done.stderr.splitlines()
    assert said[0] == "Collecting data..."
    assert said[-3].startswith("Wrote demo-005.pftrace (")
    assert said[-2].startswith("Wrote demo-005.nsys-rep (")
    assert said[-1] == "Next: vlmtrace pair demo-005.pftrace demo-005.nsys-rep"
    assert [done.stderr.count(word) for word in ("Wrote", "Next:", "prefill")] == [2, 1, 0]


def test_a_program_keeps_its_stdin_stdout_arguments_and_exit_code(desk: Path) -> None:
    (desk / "job.py").write_text(_PROGRAM)

    done = record(install(desk.parent / "nsys"), "-oout.json", "--", "job.py", "--nsys", "-o", "x", given="hello")

    assert done.returncode == 7, done.stderr
    assert "told: hello ['--nsys', '-o', 'x']\n" in done.stdout
    assert "prefill" in done.stderr
    assert "error" not in done.stderr
    report = json.loads((desk / "out.nsys-rep").read_text())
    assert report["options"]["--trace-fork-before-exec"] == "true"
    assert report["program"][3:] == ["record", "-o", "out.json", "--", "job.py", "--nsys", "-o", "x"]
    assert api.load("out.json").incomplete == "SystemExit: 7"
    assert done.stderr.splitlines()[-1] == "Next: vlmtrace pair out.json out.nsys-rep"


def test_a_number_that_another_recording_took_meanwhile_costs_no_trace(desk: Path) -> None:
    (desk / "job.py").write_text(_PROGRAM.replace("sys.exit(7)", "open('job-001.pftrace', 'w').write('another')"))

    done = record(install(desk.parent / "nsys"), "--no-summary", "--", "job.py")

    assert done.returncode == 0, done.stderr
    assert (desk / "job-001.pftrace").read_text() == "another"
    assert len(api.load("job-002.pftrace").generations) == 1
    assert done.stderr.splitlines()[-1] == "Next: vlmtrace pair job-002.pftrace job-001.nsys-rep"


def test_a_program_that_generates_nothing_says_so_once(desk: Path) -> None:
    (desk / "job.py").write_text("print('hello')")

    done = record(install(desk.parent / "nsys", leaves="nothing"), "--", "job.py")

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("called no generate() of a transformers model: nothing was recorded")
    assert files(desk) == ["job.py"]


def test_quiet_leaves_the_summary_alone(desk: Path) -> None:
    done = record(install(desk.parent / "nsys"), *_NEW, "--quiet")

    assert (done.returncode, done.stderr) == (0, "")
    assert "prefill" in done.stdout
    assert "Collecting" not in done.stdout


def test_a_report_is_made_where_nsys_itself_could_not_and_its_exit_code_is_not_the_recordings(desk: Path) -> None:
    (desk / "demo-001.nsys-rep").write_text("of an earlier run")
    nsys = install(desk.parent / "nsys", leaves="raw")

    done = record(nsys, *_NEW, "-o", "demo-001.pftrace", "--force")

    assert done.returncode == 0, done.stderr
    assert files(desk) == ["demo-001.nsys-rep", "demo-001.pftrace"]
    report = json.loads((desk / "demo-001.nsys-rep").read_text())
    assert report["options"]["--force-overwrite"] == "true"
    assert "--force" in report["program"]


def test_an_importer_that_cannot_run_costs_neither_trace_nor_what_was_recorded(desk: Path) -> None:
    lacks = "error while loading shared libraries: libdw.so.1: cannot open shared object file: No such file"
    done = record(install(desk.parent / "nsys", leaves="raw", importer=lacks), *_NEW)

    assert done.returncode == 1
    assert files(desk) == ["demo-001.pftrace", "demo-001.qdstrm"]
    assert "prefill" in done.stdout
    *_, wrote, next_command, error = done.stderr.splitlines()
    assert wrote.startswith("Wrote demo-001.pftrace (")
    assert next_command == "Next: vlmtrace summary demo-001.pftrace"
    assert error.startswith("vlmtrace: error: nsys made 'demo-001.qdstrm' but no report, for its QdstrmImporter failed")
    assert "install libdw.so.1 (Debian, Ubuntu: libdw1 and libelf1), then run: " in error


def test_a_range_that_never_opened_is_one_line(desk: Path) -> None:
    done = record(install(desk.parent / "nsys", leaves="nothing"), *_NEW)

    assert done.returncode == 1
    assert files(desk) == ["demo-001.pftrace"]
    assert done.stderr.splitlines()[-1] == (
        "vlmtrace: error: nsys made no report 'demo-001.nsys-rep': the range recording@vlmtrace never opened: "
        "see what it says itself above"
    )


def test_an_nsys_that_fails_at_once_is_one_line_behind_its_own(desk: Path) -> None:
    done = record(install(desk.parent / "nsys", leaves="failure"), *_NEW)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "nsys cannot do that",
        "vlmtrace: error: nsys ended with exit code 1, the recording without a word: see what it says itself above",
    ]
    assert files(desk) == []


def test_a_recording_that_fails_says_why_itself_and_its_exit_code_is_passed_on(desk: Path) -> None:
    done = record(install(desk.parent / "nsys", leaves="nothing"), "--demo", "--image-size", "big")

    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "error" in line] == [
        "vlmtrace: error: 'big' is no image size: give WIDTHxHEIGHT, such as 640x480, up to 16384"
    ]


def test_a_shown_command_is_the_one_that_would_run(desk: Path, type_in: Any) -> None:
    nsys = install(desk.parent / "nsys")
    words = ("--nsys", "--dry-run", "--nsys-path", nsys, "--nsys-arg", "--cuda-graph-trace=node", "--demo")

    typed = type_in("--debug", "record", *words, "--prompt", "--nsys", "--label=a=b c", "--no-summary")

    assert (typed.code, typed.err) == (0, "")
    assert typed.out.count("\n") == 1
    assert shlex.split(typed.out) == [
        str(nsys), "profile", "--trace=cuda,nvtx", "--sample=none", "--cpuctxsw=none", "--capture-range=nvtx",
        "--nvtx-capture=recording@vlmtrace", "--capture-range-end=stop", "--output=demo-001",
        "--cuda-graph-trace=node", sys.executable, "-m", "vlmtrace", "--debug", "record", "--demo",
        "--prompt", "--nsys", "--label=a=b c", "--no-summary", "-o", "demo-001.pftrace",
    ]  # fmt: skip
    assert files(desk) == []


def test_a_command_for_another_machine_can_be_shown_without_nsys(
    desk: Path, type_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/none")
    monkeypatch.setattr(command, "USUAL_PLACES", ())
    (desk / "job.py").touch()

    typed = type_in("record", "--nsys", "--dry-run", "--", "job.py", "-x")

    assert typed.code == 0
    assert typed.out.startswith("nsys profile --trace=cuda,nvtx ")
    assert typed.out.endswith("-m vlmtrace record -o job-001.pftrace -- job.py -x\n")
    assert typed.err.startswith("there is no nsys on PATH")


def test_the_options_of_python_are_given_to_the_recordings_python_too(desk: Path) -> None:
    words = [sys.executable, "-B", "-X", "dev", "-m", "vlmtrace", "record", "--demo", "--nsys", "--dry-run"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120).stdout
    assert f" {sys.executable} -B -X dev -m vlmtrace record --demo -o " in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--nsys", "-o", "-"], "'-o -' and --nsys: the report needs a file beside the trace: give -o FILE"),
        (["--nsys", "--measure-overhead"], "'--measure-overhead' and --nsys: what tracing adds cannot be told from"),
        (["--nsys", "--nsys-arg=-ox"], "'--nsys-arg -ox': the report is named after the trace: name both with -o FILE"),
        (["--nsys-path", "x"], "'--nsys-path' does nothing without --nsys"),
        (["--nsys-arg", "x"], "'--nsys-arg' does nothing without --nsys"),
        (["--nsys", "-o", "x.txt"], "x.txt"),
    ],
)
def test_what_does_not_go_together_is_refused(desk: Path, type_in: Any, words: list[str], says: str) -> None:
    typed = type_in("record", "--demo", *words)

    assert (typed.code, typed.out, typed.err.count("\n")) == (2, "", 1)
    assert says in typed.err


def test_nothing_is_run_where_a_file_is_in_the_way_or_nsys_is_missing(
    desk: Path, type_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.nsys-rep", "b.qdstrm"):
        (desk / name).write_text("mine")
    (desk / "c.nsys-rep").mkdir()
    nsys = install(desk.parent / "nsys")

    for name, in_the_way in (("a.json.gz", "'a.nsys-rep' exists"), ("b.json", "'b.qdstrm' exists"), ("c.json", "'c.n")):
        typed = type_in("record", "--demo", "--nsys", "--nsys-path", nsys, "-o", name)
        assert (typed.code, typed.err.count("\n")) == (1, 1)
        assert in_the_way in typed.err
    monkeypatch.setenv("PATH", "/none")
    monkeypatch.setattr(command, "USUAL_PLACES", ())
    typed = type_in("record", "--demo", "--nsys")
    assert (typed.code, typed.err.count("\n")) == (1, 1)
    assert "there is no nsys on PATH" in typed.err
    assert files(desk) == ["a.nsys-rep", "b.qdstrm", "c.nsys-rep"]


@pytest.mark.parametrize("variable", [command.SESSION_VARIABLE, "VLMTRACE_HANDOVER"])
def test_nsys_is_not_started_inside_of_nsys(
    desk: Path, type_in: Any, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(desk.parent / "told"))

    typed = type_in("record", "--demo", "--nsys", "--nsys-path", install(desk.parent / "nsys"))

    assert (typed.code, typed.err.count("\n")) == (2, 1)
    assert "in a process that nsys records already: leave out --nsys" in typed.err
    assert files(desk) == []


def test_what_a_program_starts_is_not_taken_for_the_recording(desk: Path) -> None:
    (desk / "job.py").write_text(
        "import os, subprocess, sys\n"
        f"words = [sys.executable, '-m', 'vlmtrace', 'record', '--model', {str(saved('llava'))!r},\n"
        "         '--prompt', 'Hi', '--warmup', '0', '--repeats', '1', '--max-new-tokens', '2', '-o', 'own.json']\n"
        "print('own:', 'Wrote own.json' in subprocess.run(words, capture_output=True, text=True).stderr)\n"
        "os._exit(5)\n"
    )
    done = record(install(desk.parent / "nsys", leaves="nothing"), "--", "job.py")

    assert "own: True\n" in done.stdout
    assert done.returncode == 5
    assert done.stderr.splitlines()[-1].startswith(
        "vlmtrace: error: nsys ended with exit code 5, the recording without"
    )


def test_an_interrupt_sent_to_this_process_alone_is_handed_on(desk: Path) -> None:
    (desk / "wait.py").write_text(_WAITING)
    nsys = install(desk.parent / "nsys", passes_interrupt_on=True)
    words = [sys.executable, "-m", "vlmtrace", "record", "--nsys", "--nsys-path", str(nsys), "--", "wait.py"]

    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "ready\n" in iter(process.stdout.readline, "")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert json.loads((desk / "wait-001.nsys-rep").read_text())["interrupts"] == 1


def test_ctrl_c_at_a_terminal_reaches_nsys_once(desk: Path) -> None:
    (desk / "wait.py").write_text(_WAITING)
    nsys = install(desk.parent / "nsys")
    words = [sys.executable, "-m", "vlmtrace", "record", "--nsys", "--nsys-path", str(nsys), "--", "wait.py"]
    keyboard, terminal = pty.openpty()
    session = ["setsid", "--ctty", *words]
    process = subprocess.Popen(session, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while b"ready" not in shown:
            shown += os.read(keyboard, 4096)
        os.write(keyboard, b"\x03")
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
        os.close(keyboard)

    assert process.returncode == 130, shown
    assert json.loads((desk / "wait-001.nsys-rep").read_text())["interrupts"] == 1
