"""The command line of Nsight Systems: finding ``nsys``, what it is asked to record, and what becomes of its files.

An installation has two halves: the target's, in which ``nsys`` records, and the host's, whose ``QdstrmImporter`` makes
a report (``.nsys-rep``) of what was recorded (``.qdstrm``). Where only the second half fails, nothing is lost.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vlmtrace.errors import VlmtraceError
from vlmtrace.timeline import names

__all__ = [
    "CAPTURE_RANGE",
    "OLDEST",
    "RAW",
    "REPORT",
    "SESSION_VARIABLE",
    "Nsys",
    "ProfileOptions",
    "export_sqlite",
    "find",
    "import_report",
    "profile_command",
]

REPORT: Final = ".nsys-rep"
RAW: Final = ".qdstrm"
"""What nsys has recorded before its importer makes a report of it."""

OLDEST: Final = (2022, 1)
"""The oldest version with all the options used here; ``--cuda-graph-trace`` is the youngest of them."""

CAPTURE_RANGE: Final = f"{names.RECORDING}@{names.DOMAIN}"
"""The NVTX range around all generations that are not warm-ups, as ``--nvtx-capture`` names it."""

SESSION_VARIABLE: Final = "NSYS_PROFILING_SESSION_ID"
"""What nsys sets in the environment of each process that it records."""

USUAL_PLACES: tuple[str, ...] = (
    "/opt/nvidia/nsight-systems/*/bin/nsys",
    "/opt/nvidia/nsight-systems-cli/*/bin/nsys",
    "/usr/local/cuda*/bin/nsys",
    "/opt/nvidia/nsight-compute/*/host/target-linux-*/nsys",
)
"""Where NVIDIA's packages put it, in the order in which they are looked at."""

_INSTALL: Final = "install Nsight Systems from https://developer.nvidia.com/nsight-systems"
_VERSION: Final = re.compile(r"Nsight Systems version (\d+\.\d+(?:\.\d+)?)")
_MISSING_LIBRARY: Final = re.compile(r"(\S+\.so\S*): cannot open shared object file")
_LONG_NAMES: Final = {
    "-c": "--capture-range",
    "-f": "--force-overwrite",
    "-o": "--output",
    "-p": "--nvtx-capture",
    "-s": "--sample",
    "-t": "--trace",
}


@dataclass(frozen=True, slots=True)
class Nsys:
    """One installed ``nsys`` and its version, such as ``(2025, 3, 1)``."""

    path: Path
    version: tuple[int, ...]

    @property
    def importer(self) -> Path | None:
        """The ``QdstrmImporter`` of the same installation, ``None`` where it has none."""
        home = self.path.resolve().parent.parent
        for folder in ("host-linux-*", "linux-desktop-*"):
            for found in sorted(home.glob(f"{folder}/QdstrmImporter")):
                if _can_run(found):
                    return found
        return None


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """What nsys is to record, and where to.

    ``forks``: CUDA calls of processes that the program forks are wanted too. ``extra`` are options of the user's own;
    they come last, and one that is also vlmtrace's takes its place.
    """

    report: Path
    force: bool = False
    forks: bool = False
    extra: tuple[str, ...] = ()


def find(given: Path | None = None) -> Nsys:
    """The ``nsys`` to use: ``given`` (a file, or a folder that holds it), else PATH's, else one in a usual place.

    Too old ones are passed over, unless ``given``. In a usual place the newest comes first.

    Raises:
        VlmtraceError: there is none, none that is new enough, or the one given cannot be asked its version.
    """
    if given is not None:
        return _new_enough(_within(given))
    refused: VlmtraceError | None = None
    for path in _candidates():
        try:
            return _new_enough(path)
        except VlmtraceError as error:
            refused = refused or error
    raise refused or VlmtraceError(
        "there is no nsys on PATH, nor where it is usually installed", f"{_INSTALL}, or name it: --nsys-path FILE"
    )


def find_any(given: Path | None = None) -> Nsys | None:
    """The same, and ``None`` where there is none: a report that is exported already needs no nsys.

    Raises:
        VlmtraceError: the one given cannot be used.
    """
    try:
        return find(given)
    except VlmtraceError:
        if given is not None:
            raise
        return None


def profile_command(nsys: Path | str, options: ProfileOptions, program: Sequence[str]) -> list[str]:
    """The command that records ``program`` under nsys.

    Recording begins and ends with the range :data:`CAPTURE_RANGE`, so that loading and warm-ups stay out; the program
    goes on behind it. Samples and context switches stay out too: they make reports many times larger, and slow.
    """
    own = [
        "--trace=cuda,nvtx",
        "--sample=none",
        "--cpuctxsw=none",
        "--capture-range=nvtx",
        f"--nvtx-capture={CAPTURE_RANGE}",
        "--capture-range-end=stop",
        "--cuda-graph-trace=graph",
    ]
    if options.forks:
        own.append("--trace-fork-before-exec=true")
    if options.force:
        own.append("--force-overwrite=true")
    # nsys puts the ending on itself, and replaces %h, %p and the like in a name.
    own.append(f"--output={str(options.report.with_suffix('')).replace('%', '%%')}")
    # nsys need not take an option twice: what the user says replaces what is said here.
    said = {_long_name(word) for word in options.extra}
    kept = [word for word in own if _long_name(word) not in said]
    return [str(nsys), "profile", *kept, *options.extra, *program]


def import_report(raw: Path, report: Path, nsys: Nsys) -> None:
    """Make ``report``, in place of an older one, of what nsys left in ``raw``, which is removed then.

    Raises:
        VlmtraceError: the importer is missing or fails; ``raw`` is kept.
    """
    importer = nsys.importer
    if importer is None:
        raise VlmtraceError(
            f"'{nsys.path}' made '{raw}' but no report, and beside it lies no QdstrmImporter",
            f"where Nsight Systems {_text(nsys.version)} is whole, run: QdstrmImporter -i {shlex.quote(str(raw))}",
        )
    report.unlink(missing_ok=True)  # it overwrites none
    words = [str(importer), "-i", str(raw), "-o", str(report)]
    # Its own libraries lie beside it, and not every package has told it so.
    libraries = os.pathsep.join(filter(None, (str(importer.parent), os.environ.get("LD_LIBRARY_PATH"))))
    done = _run(words, os.environ | {"LD_LIBRARY_PATH": libraries})
    if isinstance(done, str) or done.returncode or not report.is_file():
        told = done if isinstance(done, str) else _last_line(done)
        missing = _MISSING_LIBRARY.search(told)
        first = f"install {missing[1]} (Debian, Ubuntu: libdw1 and libelf1), then run" if missing else "run it yourself"
        raise VlmtraceError(
            f"nsys made '{raw}' but no report, for its QdstrmImporter failed ({told})",
            f"{first}: {shlex.join(words)}",
        )
    raw.unlink()


def export_sqlite(report: Path, nsys: Nsys | None) -> Path:
    """The SQLite export of a report, beside it: ``X.sqlite`` of ``X.nsys-rep``, made by ``nsys export``.

    One that is there and no older than the report is taken as it is, as nsys itself does; then no nsys is needed.

    Raises:
        VlmtraceError: it has to be made and there is no nsys, nsys fails, or one older than the report is in the way.
    """
    made = report.with_suffix(".sqlite")
    by_hand = f"export it yourself: nsys export --type=sqlite {shlex.quote(str(report))}"
    if made.exists() and report.exists():
        if made.stat().st_mtime_ns >= report.stat().st_mtime_ns:
            return made
        raise VlmtraceError(f"'{made}' is older than '{report}'", f"remove '{made}'")
    if nsys is None:
        raise VlmtraceError(f"'{report}' can be read by nsys only, and there is none here", by_hand)
    try:
        with tempfile.TemporaryDirectory(prefix=".vlmtrace-", dir=report.parent) as folder:
            # Half an export would be taken for a whole one next time: it is moved into place when it is done.
            half = Path(folder) / made.name
            words = [str(nsys.path), "export", "--type=sqlite", f"--output={half}", str(report)]
            done = _run(words)
            if isinstance(done, str) or done.returncode or not half.is_file():
                told = done if isinstance(done, str) else _last_line(done)
                raise VlmtraceError(f"nsys cannot export '{report}' ({told})", by_hand)
            half.replace(made)
    except OSError as error:
        raise VlmtraceError(f"'{made}' cannot be written: {error.strerror}", by_hand) from error
    return made


def _candidates() -> Iterator[Path]:
    on_path = shutil.which("nsys")
    if on_path is not None:
        yield Path(on_path).absolute()
    for place in USUAL_PLACES:
        found = (Path(path) for path in glob.glob(place))
        yield from sorted(filter(_can_run, found), key=_numbers, reverse=True)


def _within(given: Path) -> Path:
    """The file that ``given`` names or, as a folder of an installation, holds."""
    if not given.is_dir():
        if not given.exists():
            raise VlmtraceError(f"there is no '{given}'", "give --nsys-path the file nsys, or the folder that holds it")
        if not _can_run(given):
            raise VlmtraceError(f"'{given}' is no program", "give --nsys-path the file nsys")
        return given.absolute()
    for inside in ("nsys", "bin/nsys", "target-linux-*/nsys"):
        for found in sorted(given.glob(inside)):
            if _can_run(found):
                return found.absolute()
    raise VlmtraceError(f"there is no nsys in '{given}'", "give --nsys-path the file nsys, or the folder that holds it")


def _new_enough(path: Path) -> Nsys:
    done = _run([str(path), "--version"])
    told = done if isinstance(done, str) else done.stdout
    found = _VERSION.search(told)
    if found is None:
        why = next((line.strip() for line in told.splitlines() if line.strip()), "it says nothing")
        raise VlmtraceError(f"'{path} --version' tells no version of Nsight Systems ({why})", _INSTALL)
    version = tuple(int(part) for part in found[1].split("."))
    if version < OLDEST:
        raise VlmtraceError(
            f"'{path}' is Nsight Systems {_text(version)}, and --nsys needs {_text(OLDEST)} or newer",
            f"{_INSTALL}, or name a newer one: --nsys-path FILE",
        )
    return Nsys(path, version)


def _run(words: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str] | str:
    """The command, done; or why it could not even begin."""
    try:
        return subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            check=False,
        )  # fmt: skip
    except OSError as error:
        return error.strerror or type(error).__name__


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"


def _can_run(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _numbers(path: Path) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", str(path))]


def _long_name(word: str) -> str:
    name = word.partition("=")[0]
    return name if word.startswith("--") else _LONG_NAMES.get(word[:2], name)


def _text(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
