"""Programs: running somebody's script, module or code in this process as Python itself would have run it.

``sys.argv``, ``sys.path[0]``, ``__main__``, stdout and the exit code are the program's own; what ended it is
answered as an :class:`Outcome`, never raised, so that what was recorded can be written in any case.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib.machinery
import importlib.util
import io
import os
import re
import sys
import threading
import traceback
import types
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vlmtrace.errors import UsageError, VlmtraceError

__all__ = ["EXIT_INTERRUPTED", "Outcome", "Program", "parse", "run"]

EXIT_INTERRUPTED: Final = 130
"""What a shell says of a program that Ctrl-C ended."""

_PACKAGE: Final = str(Path(__file__).resolve().parent.parent) + os.sep
_PACKAGES: Final = frozenset(("site-packages", "dist-packages"))
_PYTHON: Final = re.compile(r"python(\d+(\.\d+)?)?(\.exe)?")
_ACCEPTED_FLAGS: Final = frozenset(("-u", "-B"))
"""Options of Python that change nothing that matters here; every other one cannot be applied to a running process."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is to be run. ``kind`` is ``script``, ``module`` or ``code``; ``target`` the path, name or source text."""

    kind: str
    target: str
    args: tuple[str, ...]
    unbuffered: bool = False

    @property
    def name(self) -> str:
        """A short name for titles and files: ``train`` for ``jobs/train.py`` and for ``-m jobs.train``."""
        if self.kind == "script":
            return Path(self.target).resolve().stem
        return self.target.rpartition(".")[2] if self.kind == "module" else "python"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended: the exit code Python would have given, and what cut it short (``None``: nothing did)."""

    exit_code: int
    error: str | None = None


def parse(command: Sequence[str]) -> Program:
    """The program that ``command`` names: ``script.py args…``, ``-m module args…`` or ``python …``.

    Raises:
        UsageError: nothing to run, no such file, another Python, or an option of Python that needs a new process.
    """
    words = list(command)
    if not words:
        raise UsageError("there is nothing after '--'", "give script.py, -m MODULE or python …")
    is_python = bool(_PYTHON.fullmatch(Path(words[0]).name)) and not Path(words[0]).is_dir()
    if is_python:
        _check_same_python(words.pop(0))
    elif not words[0].startswith("-"):
        return _script(words)
    return _after_python(words, command[0])


def run(program: Program) -> Outcome:
    """Run ``program`` to its end, its non-daemon threads included, and say how it ended.

    An uncaught exception is shown by ``sys.excepthook`` as Python would show it, without this package's frames.
    ``sys.argv``, ``sys.path`` and ``__main__`` are put back afterwards.

    Raises:
        UsageError: there is no such module, or it cannot be run.
        SystemExit: in a process that the program forked, at that one's end.
    """
    threads = set(threading.enumerate())
    process = os.getpid()
    with _own_process_state(program) as main:
        if program.unbuffered and isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(write_through=True)
        outcome = _outcome(program, main)
        try:
            for thread in threading.enumerate():
                if thread not in threads and not thread.daemon:
                    thread.join()
        except KeyboardInterrupt:
            outcome = Outcome(EXIT_INTERRUPTED, "KeyboardInterrupt")
        _flush()
        if os.getpid() != process:
            # A child that the program forked has come to its end: it is no business of whoever called here.
            raise SystemExit(outcome.exit_code)
        return outcome


def _outcome(program: Program, main: types.ModuleType) -> Outcome:
    code: types.CodeType | None = None
    try:
        code = _load(program, main)
        exec(code, main.__dict__)
    except SystemExit as error:
        return _exited(error.code)
    except BaseException as error:
        if code is None and isinstance(error, UsageError):
            raise
        return _failed(error)
    return Outcome(0)


def _exited(code: object) -> Outcome:
    """The exit code of ``sys.exit(code)``, by Python's own rules."""
    if code is None:
        return Outcome(0)
    if isinstance(code, int):
        return Outcome(code & 0xFF, None if code == 0 else f"SystemExit: {code}")
    _flush()
    sys.stderr.write(f"{code}\n")
    return Outcome(1, f"SystemExit: {code}")


def _failed(error: BaseException) -> Outcome:
    _without_own_frames(error, set())
    _flush()
    if isinstance(error, VlmtraceError):  # what the program asked of this package, which says what to do instead
        sys.stderr.write(f"vlmtrace: error: {_place(error)}{error}\n")
        return Outcome(1, f"{type(error).__name__}: {error}")
    # The program may have set a hook of its own, and it would be called here too.
    sys.excepthook(type(error), error, error.__traceback__)
    text = " ".join(str(error).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return Outcome(EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1, line)


def _place(error: BaseException) -> str:
    """Where the program was when the error was raised: ``job.py, line 7: ``; its tracer's frames are gone already.

    A line of its own, and not of a package that it called, where there is one.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _PACKAGES.isdisjoint(Path(frame.filename).parts)] or frames
    return f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""


def _without_own_frames(error: BaseException, seen: set[int]) -> None:
    """Take this package's frames, and the import machinery in front of the program's, out of the tracebacks."""
    if id(error) in seen:
        return
    seen.add(id(error))
    first: types.TracebackType | None = None
    last: types.TracebackType | None = None
    frames = error.__traceback__
    while frames is not None:
        after = frames.tb_next
        file = frames.tb_frame.f_code.co_filename
        if not file.startswith(_PACKAGE) and not (first is None and file.startswith("<frozen ")):
            if last is None:
                first = frames
            else:
                last.tb_next = frames
            last = frames
        frames = after
    if last is not None:
        last.tb_next = None
    error.__traceback__ = first
    for other in (error.__cause__, error.__context__):
        if other is not None:
            _without_own_frames(other, seen)


def _load(program: Program, main: types.ModuleType) -> types.CodeType:
    """The program's code; ``main`` gets the attributes that Python gives a ``__main__`` of its kind."""
    if program.kind == "code":
        return compile(program.target, "<string>", "exec", dont_inherit=True)
    if program.kind == "module":
        return _load_found(main, *_find_module(program.target))
    if _is_container(program.target):
        spec = importlib.machinery.PathFinder.find_spec("__main__", [str(Path(program.target).absolute())])
        if spec is None:
            raise UsageError(f"there is no __main__.py in '{program.target}'", "give a script.py")
        return _load_found(main, spec, program.target)
    file = str(Path(program.target).absolute())
    with io.open_code(file) as stream:
        source = stream.read()
    main.__dict__.update(__file__=file, __cached__=None)
    main.__loader__ = importlib.machinery.SourceFileLoader("__main__", file)
    return compile(source, file, "exec", dont_inherit=True)


def _find_module(name: str) -> tuple[importlib.machinery.ModuleSpec, str]:
    """The spec of what ``-m name`` runs. Parent packages are imported, and what they raise is the program's."""
    top = name.partition(".")[0]
    if not name or name.startswith(".") or importlib.util.find_spec(top) is None:
        raise UsageError(f"there is no module named '{name}'", "give -m MODULE as python -m would find it from here")
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            name += ".__main__"
            spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise
        spec = None
    if spec is None:
        raise UsageError(f"module '{name.removesuffix('.__main__')}' cannot be run", "it needs a __main__")
    return spec, spec.origin or name


def _load_found(main: types.ModuleType, spec: importlib.machinery.ModuleSpec, shown: str) -> types.CodeType:
    loader = spec.loader
    code = getattr(loader, "get_code", lambda _: None)(spec.name)
    if not isinstance(code, types.CodeType):
        raise UsageError(f"'{shown}' holds no code that can be run", "give a script.py")
    main.__dict__.update(__file__=spec.origin, __cached__=spec.cached)
    main.__spec__, main.__loader__, main.__package__ = spec, loader, spec.parent
    sys.argv[0] = shown
    return code


@contextlib.contextmanager
def _own_process_state(program: Program) -> Iterator[types.ModuleType]:
    """``sys.argv``, ``sys.path[0]`` and a fresh ``__main__`` for the program, put back at the end."""
    argv, path, main_before = sys.argv, list(sys.path), sys.modules["__main__"]
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    first = {"script": program.target, "module": "-m", "code": "-c"}[program.kind]
    sys.argv = [first, *program.args]
    if not sys.flags.safe_path and sys.path:
        sys.path[0] = _first_path(program)
    sys.modules["__main__"] = main
    try:
        yield main
    finally:
        sys.argv = argv
        sys.path[:] = path
        sys.modules["__main__"] = main_before


def _first_path(program: Program) -> str:
    if program.kind == "code":
        return ""
    if program.kind == "module":
        return str(Path.cwd())
    script = Path(program.target).resolve()
    return str(script if _is_container(program.target) else script.parent)


def _is_container(target: str) -> bool:
    """Whether ``target`` is a folder or an archive, which Python runs by the ``__main__.py`` inside it."""
    return Path(target).is_dir() or zipfile.is_zipfile(target)


def _script(words: Sequence[str]) -> Program:
    path = Path(words[0])
    if not path.exists():
        remedy = "give script.py, -m MODULE or python …"
        if path.suffix == ".py" or os.sep in words[0]:
            raise UsageError(f"there is no file '{words[0]}'", remedy)
        raise UsageError(f"'{words[0]}' is no Python program that can be run in this process", remedy)
    return Program("script", words[0], tuple(words[1:]))


def _after_python(words: list[str], shown: str) -> Program:
    """The program that the words after ``python`` name; flags that Python takes come first."""
    unbuffered = False
    while words and words[0] in _ACCEPTED_FLAGS:
        unbuffered = unbuffered or words[0] == "-u"
        words.pop(0)
    if not words:
        raise UsageError(f"there is nothing to run after '{shown}'", "give script.py, -m MODULE or -c CODE")
    word = words.pop(0)
    for flag, kind in (("-m", "module"), ("-c", "code")):
        if word.startswith(flag):
            target = word[2:] or (words.pop(0) if words else "")
            if not target:
                raise UsageError(f"there is nothing after '{flag}'", f"give {flag} {kind.upper()}")
            return Program(kind, target, tuple(words), unbuffered)
    if word.startswith("-"):
        raise UsageError(
            f"Python's option '{word}' cannot be applied to a process that runs already",
            f"start vlmtrace with it: python {word} -m vlmtrace record … -- …",
        )
    script = _script([word, *words])
    return Program(script.kind, script.target, script.args, unbuffered)


def _check_same_python(given: str) -> None:
    """A path to another Python is refused: the program runs in this one. A bare ``python`` means this one."""
    if os.sep not in given:
        return
    path = Path(given)
    if not path.exists():
        raise UsageError(f"there is no file '{given}'", "write python")
    if not path.parent.samefile(Path(sys.executable).parent):
        raise UsageError(
            f"'{given}' is another Python than the one vlmtrace runs in ({sys.executable})",
            "install vlmtrace there and start it from there",
        )


def _flush() -> None:
    """What the program has printed comes before whatever is printed next."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
