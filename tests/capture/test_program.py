"""Programs run in this process as Python itself would run them: compared with Python itself."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from vlmtrace.capture import program
from vlmtrace.capture.program import Outcome, Program
from vlmtrace.errors import UsageError

_IN_PROCESS = (
    "import sys; from vlmtrace.capture import program; sys.exit(program.run(program.parse(sys.argv[1:])).exit_code)"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _python(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = str(Path(program.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


_SELF_PORTRAIT = """
import os, sys
print(__name__, __file__, __package__, __spec__ and __spec__.name, sys.argv, sys.path[0], os.getcwd())
print(sys.modules["__main__"].__dict__ is globals(), sorted(name for name in globals() if name[:2] != "__"))
"""


@pytest.mark.parametrize(
    "words",
    [
        ["job.py", "--a", "-m", "b"],
        ["sub/job.py"],
        ["-m", "sub.job", "x"],
        ["-m", "package", "-h"],
        ["package", "x"],
        ["archive.zip", "x"],
        ["-c", "import sys; print(__name__, sys.argv, repr(sys.path[0]), '__file__' in globals())", "x", "-c"],
    ],
    ids=" ".join,
)
def test_a_program_sees_of_itself_what_python_shows_it(folder: Path, words: list[str]) -> None:
    for place in ("job.py", "sub/job.py", "package/__main__.py"):
        _write(folder / place, _SELF_PORTRAIT)
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.write(folder / "job.py", "__main__.py")

    expected = _python(*words, cwd=folder)
    prefix = ["python"] if words[0] == "-c" else []
    found = _python("-c", _IN_PROCESS, *prefix, *words, cwd=folder)

    assert expected.returncode == 0, expected.stderr
    assert (found.stdout, found.stderr) == (expected.stdout, expected.stderr)


@pytest.mark.parametrize(
    "code",
    [
        "import sys; print('out'); sys.exit(3)",
        "import sys; sys.exit('said on stderr')",
        "raise SystemExit",
        "def f():\n    raise ValueError('a\\nb')\ntry:\n    f()\nexcept ValueError as e:\n    raise KeyError(1) from e",
        "print(1",
        "import nowhere_at_all",
        "import sys; sys.excepthook = lambda *error: print('hooked', error[0]); 1 / 0",
        "import threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start(); print('early')",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; time.sleep(5)",
    ],
    ids=["exit code", "exit text", "exit none", "cause", "syntax", "import", "hook", "thread", "interrupt"],
)
def test_a_program_ends_as_under_python_with_the_same_words_and_exit_code(folder: Path, code: str) -> None:
    _write(folder / "job.py", code)

    expected = _python("job.py", cwd=folder)
    found = _python("-c", _IN_PROCESS, "job.py", cwd=folder)

    # Python ends itself by the signal; a shell calls that 130.
    assert found.returncode == (130 if expected.returncode == -2 else expected.returncode)
    assert (found.stdout, found.stderr) == (expected.stdout, expected.stderr)


def test_processes_spawned_by_a_program_find_its_functions(folder: Path) -> None:
    _write(
        folder / "job.py",
        "import multiprocessing as mp\n"
        "def double(x): return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    with mp.get_context('spawn').Pool(1) as pool: print(pool.map(double, [21]))\n",
    )

    assert _python("-c", _IN_PROCESS, "job.py", cwd=folder).stdout == "[42]\n"


def test_a_child_that_a_program_forks_ends_where_its_own_code_ends(folder: Path) -> None:
    _write(
        folder / "job.py",
        "import os, sys\n"
        "child = os.fork()\n"
        "if child == 0: sys.exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n",
    )
    in_process = _IN_PROCESS.replace("sys.exit(", "code = (") + "; print('ended once'); sys.exit(code)"

    assert _python("-c", in_process, "job.py", cwd=folder).stdout == "7\nended once\n"


def test_a_recording_inside_a_recorded_program_is_refused_in_one_line(folder: Path, capsys) -> None:
    _write(
        folder / "job.py",
        "from vlmtrace.errors import VlmtraceError\n"
        "\n"
        "raise VlmtraceError('a recording is already running in this process', 'end it')\n",
    )

    outcome = program.run(program.parse(["job.py"]))

    assert capsys.readouterr().err == (
        f"vlmtrace: error: {folder / 'job.py'}, line 3: a recording is already running in this process: end it\n"
    )
    assert outcome.exit_code == 1


def test_an_error_inside_a_package_is_told_at_the_programs_own_line(folder: Path, capsys) -> None:
    (folder / "site-packages").mkdir()
    _write(
        folder / "site-packages" / "called.py",
        "from vlmtrace.errors import VlmtraceError\n\ndef call():\n    raise VlmtraceError('no such stage', 'look')\n",
    )
    _write(folder / "job.py", "import sys\nsys.path.append('site-packages')\nimport called\ncalled.call()\n")

    program.run(program.parse(["job.py"]))

    assert capsys.readouterr().err == f"vlmtrace: error: {folder / 'job.py'}, line 4: no such stage: look\n"


def test_what_ended_a_program_is_told_and_never_raised(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def outcome(code: str) -> Outcome:
        return program.run(Program("code", code, ()))

    assert outcome("x = 1") == Outcome(0)
    assert outcome("raise SystemExit(0)") == Outcome(0)
    assert outcome("raise SystemExit(-1)") == Outcome(255, "SystemExit: -1")
    assert outcome("raise SystemExit('no')") == Outcome(1, "SystemExit: no")
    assert outcome("1 / 0") == Outcome(1, "ZeroDivisionError: division by zero")
    assert outcome("raise KeyboardInterrupt") == Outcome(130, "KeyboardInterrupt")


def test_arguments_path_and_main_module_are_put_back_also_after_an_error(folder: Path, capsys) -> None:
    before = (sys.argv, list(sys.path), sys.modules["__main__"], threading.active_count())

    program.run(
        Program("code", "import sys; sys.argv += ['x']; sys.path[:] = []; sys.modules['__main__'] = 1; 1 / 0", ())
    )

    assert (sys.argv, list(sys.path), sys.modules["__main__"], threading.active_count()) == before


def test_frames_of_the_tracer_are_left_out_of_the_middle_of_a_traceback(folder: Path, capsys) -> None:
    """A wrapper between the program and what it calls is this package's, and no business of the program."""
    wrapper = str(Path(program.__file__).with_name("wrapper.py"))
    source = (
        f"exec(compile('def wrap(f): return f()', {wrapper!r}, 'exec'))\n"
        "def inner():\n    raise ValueError('deep')\nwrap(inner)\n"
    )
    _write(folder / "job.py", source)

    program.run(program.parse(["job.py"]))

    shown = capsys.readouterr().err
    assert "in inner" in shown
    assert "in wrap" not in shown
    assert shown.count("File ") == 2


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (["job.py", "-x", "--"], Program("script", "job.py", ("-x", "--"))),
        (["-m", "a.b", "-m", "c"], Program("module", "a.b", ("-m", "c"))),
        (["python", "job.py", "1"], Program("script", "job.py", ("1",))),
        (["python3.11", "-m", "a"], Program("module", "a", ())),
        (["python", "-ma"], Program("module", "a", ())),
        (["python", "-u", "-B", "-c", "pass", "-u"], Program("code", "pass", ("-u",), unbuffered=True)),
        ([sys.executable, "job.py"], Program("script", "job.py", ())),
    ],
    ids=str,
)
def test_a_command_names_a_script_a_module_or_code(folder: Path, words: list[str], made: Program) -> None:
    _write(folder / "job.py", "")

    assert program.parse(words) == made


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "there is nothing after '--'"),
        (["none.py"], "there is no file 'none.py'"),
        (["torchrun", "job.py"], "'torchrun' is no Python program that can be run in this process"),
        (["python"], "there is nothing to run after 'python'"),
        (["python", "-m"], "there is nothing after '-m'"),
        (["python", "-O", "job.py"], "Python's option '-O' cannot be applied"),
        (["/usr/none/python", "job.py"], "there is no file '/usr/none/python'"),
    ],
    ids=str,
)
def test_a_command_that_names_no_program_is_refused(folder: Path, words: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        program.parse(words)


def test_another_python_than_this_one_is_refused(folder: Path) -> None:
    other = folder / "bin" / "python"
    other.parent.mkdir()
    other.symlink_to(sys.executable)

    with pytest.raises(UsageError, match="is another Python than the one vlmtrace runs in"):
        program.parse([str(other), "job.py"])


@pytest.mark.parametrize("name", ["nowhere_at_all", "json.nowhere", "json", ".", "nowhere_at_all.b"])
def test_a_module_that_is_none_is_refused_before_anything_runs(folder: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"there is no module named|cannot be run"):
        program.run(Program("module", name, ()))


def test_a_package_that_fails_to_import_is_the_programs_own_error(folder: Path, capsys) -> None:
    _write(folder / "broken_package" / "__init__.py", "import nowhere_at_all")
    _write(folder / "broken_package" / "job.py", "")

    outcome = program.run(Program("module", "broken_package.job", ()))

    assert outcome == Outcome(1, "ModuleNotFoundError: No module named 'nowhere_at_all'")


@pytest.mark.parametrize(
    ("words", "name"),
    [(["jobs/train.py"], "train"), (["-m", "jobs.train"], "train"), (["python", "-c", "pass"], "python")],
    ids=str,
)
def test_a_program_has_a_short_name(folder: Path, words: list[str], name: str) -> None:
    _write(folder / "jobs" / "train.py", "")

    assert program.parse(words).name == name
