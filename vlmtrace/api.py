"""The Python interface: recording, in a block or in a server that goes on, and reading and writing recordings."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from vlmtrace import formats, report
from vlmtrace.analysis.summary import Summary, summarise
from vlmtrace.errors import UsageError, VlmtraceError
from vlmtrace.timeline.recording import DETAILS, Json, Recording

if TYPE_CHECKING:
    from torch import nn

    from vlmtrace.capture.kernel_profile import KernelProfile
    from vlmtrace.capture.recorder import Recorder
    from vlmtrace.capture.ring import Kept
    from vlmtrace.capture.sync_audit import SyncAudit

__all__ = [
    "Installed",
    "Session",
    "audit_syncs",
    "export",
    "install",
    "load",
    "pair",
    "profile_kernels",
    "render",
    "report_page",
    "save",
    "span",
    "tag",
    "trace",
    "with_kernels",
]

P = ParamSpec("P")
R = TypeVar("R")


class Session:
    """A recording in progress, and what came of it. Made by :func:`trace`; a context manager."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._recording: Recording | None = None

    def __enter__(self) -> Session:
        self._recorder.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        incomplete = None if error is None else f"{type(error).__name__}: {error}".rstrip(": ")
        self._recording = self._recorder.finish(incomplete)

    @property
    def recording(self) -> Recording:
        """The frozen recording.

        Raises:
            VlmtraceError: while the ``with`` block is still open: device times are resolved at its end.
        """
        if self._recording is None:
            raise VlmtraceError("the recording is not finished", "read it after the with block of vlmtrace.trace()")
        return self._recording

    def summary(self) -> Summary:
        """Stage times, metrics and findings of the recording, as numbers; :meth:`render` makes text of them."""
        return summarise(self.recording)

    def render(self, form: str = "table") -> str:
        """The summary as text: see :func:`render`."""
        return render(self.recording, form)

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the trace: ``.pftrace``, ``.json`` or ``.json.gz``. See :func:`save`."""
        return save(self.recording, path, force=force)


def trace(  # noqa: PLR0913  (what may be said of a recording, each by its name)
    model: nn.Module | None = None,
    *,
    detail: str = "stage",
    stages: Mapping[str, str | tuple[str, ...]] | None = None,
    name: str = "recording",
    keep_text: bool = False,
    random_weights: bool = False,
    memory: bool = False,
) -> Session:
    """Record every ``generate()`` of ``model`` (of any model, without one) inside a ``with`` block.

    ``detail`` is ``stage``, ``module`` or ``layer``. ``stages`` names modules that discovery does not find:
    ``{"vision": "model.vision_backbone"}``. ``keep_text`` stores decoded text; else outputs are kept as hashes.
    ``random_weights`` says that the weights are random, and so do the summary and the trace. ``memory`` reads torch's
    allocator where stages begin and end, for the peak of each; that resets the peak statistics of the process.

    Raises:
        UsageError: for an unknown detail, a stage path that the model does not have, ``memory`` without a CUDA device.
        VlmtraceError: if torch or transformers is missing, or another recording is running.
    """
    with _needing_record_extra():
        from vlmtrace.capture.memory import check
        from vlmtrace.capture.recorder import Recorder, RecorderOptions
    if memory:
        check()
    options = RecorderOptions(name, _detail(detail), _paths(stages), keep_text, memory=memory)
    recorder = Recorder(options, None if model is None else [model])
    recorder.random_weights = random_weights
    return Session(recorder)


class Installed:
    """The slowest generations of a process that goes on, and where they are written. Made by :func:`install`."""

    def __init__(self, recorder: Recorder, folder: Path) -> None:
        self._recorder = recorder
        self._folder = folder
        self._written: dict[int, tuple[object, Path]] = {}

    def recordings(self) -> list[Recording]:
        """The slowest generations so far, each a recording of its own, those first that began first."""
        return [self._recorder.recording_of(kept) for kept in self._kept()]

    def write(self) -> list[Path]:
        """Write each of them as ``NAME-BEGIN-LENGTH.pftrace``, and take away those that slower ones have replaced.

        ``BEGIN`` is the time in UTC. May be called at any time and from any thread, by a signal handler or a route of
        the server, say; only what is new is written.

        Raises:
            VlmtraceError: if a file cannot be written.
        """
        kept = {id(one): one for one in self._kept()}
        for key in self._written.keys() - kept.keys():
            self._written.pop(key)[1].unlink(missing_ok=True)
        for key, one in kept.items():
            if key not in self._written:
                recording = self._recorder.recording_of(one)
                begin = recording.origin_unix_ns + one.begin - recording.origin_ns
                when = datetime.fromtimestamp(begin / 1e9, UTC).strftime("%Y%m%dT%H%M%S.%f")[:-3]
                path = self._folder / f"{recording.name}-{when}-{one.duration // 1_000_000}ms.pftrace"
                self._written[key] = (one, save(recording, path, force=True))
        return sorted(path for _, path in self._written.values())

    def remove(self) -> list[Path]:
        """Take everything off again, and :meth:`write`. Once is enough; the end of the process does it too."""
        if not self._recorder.is_here:  # a child that was forked has nothing of its own
            return []
        atexit.unregister(self.remove)
        self._recorder.stop()
        return self.write()

    def _kept(self) -> list[Kept]:
        assert self._recorder.ring is not None
        return self._recorder.ring.kept()


def install(
    keep: str = "slowest:20",
    out: str | Path = ".",
    *,
    detail: str = "stage",
    stages: Mapping[str, str | tuple[str, ...]] | None = None,
    name: str = "slow",
) -> Installed:
    """Record every ``generate()`` of this process from now on, and keep the slowest: for a server.

    Nothing waits for the device, at no time: elapsed times are read once it is found to have passed. Memory stays
    flat: all but the slowest ``N`` of ``keep="slowest:N"`` generations are forgotten. They are written to the folder
    ``out`` at the end of the process, or when :meth:`Installed.write` is called.

    Raises:
        UsageError: for a ``keep`` of another form, an unknown detail, or an ``out`` that is no folder.
        VlmtraceError: if torch or transformers is missing, or a recording is running.
    """
    with _needing_record_extra():
        from vlmtrace.capture.recorder import Recorder, RecorderOptions
    what, _, number = keep.partition(":")
    if what != "slowest" or not number.isdecimal() or int(number) == 0:
        raise UsageError(f"keep {keep!r} is none", 'say how many to keep: keep="slowest:20"')
    folder = Path(out)
    if not folder.is_dir():
        raise UsageError(f"out {str(out)!r} is no folder", "make it first, or name another")
    options = RecorderOptions(name, _detail(detail), _paths(stages), slowest=int(number))
    installed = Installed(Recorder(options).start(), folder)
    atexit.register(installed.remove)
    return installed


def audit_syncs(
    model: nn.Module | None = None, *, stages: Mapping[str, str | tuple[str, ...]] | None = None
) -> SyncAudit:
    """Find the lines that make the host wait for the GPU in every ``generate()`` of ``model`` inside a ``with`` block.

    They run under torch's sync debug mode, slower than they otherwise would, so time them in a :func:`trace` of their
    own; ``audit.onto(session.recording)`` then puts both together. ``audit.sites`` are the lines, counted over
    ``audit.generations`` generations. The mode does not see ``Event.synchronize()``, ``torch.cuda.synchronize()``, nor
    waits inside other libraries and custom kernels.

    Raises:
        UsageError: without a CUDA device, or for a stage path that the model does not have.
        VlmtraceError: if torch or transformers is missing; on entry, if a recording is running.
    """
    with _needing_record_extra():
        from vlmtrace.capture import sync_audit
    sync_audit.check_device(sync_audit.device_of(model))
    return sync_audit.SyncAudit(None if model is None else [model], _paths(stages))


class Profiled:
    """Generations that a profiler watches, and what becomes of them. Made by :func:`profile_kernels`."""

    def __init__(self, profile: KernelProfile) -> None:
        self._profile = profile

    def __enter__(self) -> Profiled:
        self._profile.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._profile.__exit__(*raised)

    def onto(self, recording: Recording) -> Recording:
        """``recording`` with these generations behind its own, their kernels and copies each in its stage.

        Raises:
            VlmtraceError: while the ``with`` block is open; or the profiler saw no kernels, or no generation.
        """
        return with_kernels(recording, self._profile)


def profile_kernels(
    model: nn.Module | None = None, *, detail: str = "stage", stages: Mapping[str, str | tuple[str, ...]] | None = None
) -> Profiled:
    """See the kernels of every ``generate()`` of ``model`` inside a ``with`` block, with torch.profiler.

    They run slower than they otherwise would, and so does what comes after them in this process: time them in a
    :func:`trace` of their own, before; ``profile.onto(session.recording)`` then puts both together. The generations
    inside have the role ``profiled``, and no statistic counts their times. Call ``generate()`` on the thread that
    enters the block.

    Raises:
        UsageError: without a CUDA device, for an unknown detail, or for a stage path that the model does not have.
        VlmtraceError: if torch or transformers is missing; on entry, if a recording is running.
    """
    with _needing_record_extra():
        from vlmtrace.capture import kernel_profile
        from vlmtrace.capture.recorder import RecorderOptions
        from vlmtrace.capture.sync_audit import device_of
    kernel_profile.check_device(device_of(model))
    options = RecorderOptions("kernels", _detail(detail), _paths(stages))
    return Profiled(kernel_profile.KernelProfile(None if model is None else [model], options))


def with_kernels(recording: Recording, profile: KernelProfile) -> Recording:
    """``recording`` with the generations that ``profile`` holds, and with their kernels and copies.

    Raises:
        VlmtraceError: the profiler saw no kernels, or no generation; or the temporary folder cannot be written.
    """
    from vlmtrace.analysis import profiled
    from vlmtrace.nsight import torch_trace

    further = profile.recording
    with tempfile.TemporaryDirectory(prefix="vlmtrace-") as folder:
        report = torch_trace.read(profile.save(Path(folder)), str(recording.environment.get("torch")))
    return profiled.with_profile(recording, further, report)


def _detail(detail: str) -> str:
    if detail not in DETAILS:
        raise UsageError(f"detail {detail!r} is none", f"choose one of {', '.join(DETAILS)}")
    return detail


def _paths(stages: Mapping[str, str | tuple[str, ...]] | None) -> dict[str, tuple[str, ...]]:
    return {stage: (path,) if isinstance(path, str) else tuple(path) for stage, path in (stages or {}).items()}


@contextlib.contextmanager
def _needing_record_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise VlmtraceError(
            f"recording needs {error.name}, which is not installed", "pip install 'vlmtrace[record]'"
        ) from error


class span:  # noqa: N801  (used like a function: `with vlmtrace.span("load"):`)
    """A named span on the timeline: host marks, device marks where there is a GPU, and an NVTX range, all at once.

    A context manager and a decorator. Outside of a recording it does nothing.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._stack: list[contextlib.AbstractContextManager[None]] = []

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def traced(*args: P.args, **kwargs: P.kwargs) -> R:
            with span(self.name):
                return function(*args, **kwargs)

        return traced

    def __enter__(self) -> span:
        recorder = _active_recorder()
        context: contextlib.AbstractContextManager[None] = (
            contextlib.nullcontext() if recorder is None else recorder.surroundings.span(self.name)
        )
        context.__enter__()
        self._stack.append(context)
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.pop().__exit__(*raised)


def tag(**tags: Json) -> None:
    """Label the generations that end from now on: ``vlmtrace.tag(sample=7)``. ``None`` takes a label away."""
    recorder = _active_recorder()
    if recorder is not None:
        recorder.tag(tags)


def _active_recorder() -> Recorder | None:
    """The running recorder. Where capture was never imported, none is, and torch need not be loaded to know it."""
    module = sys.modules.get("vlmtrace.capture.recorder")
    recorder: Recorder | None = None if module is None else module.active()
    return recorder


def load(path: str | Path) -> Recording:
    """The recording in a trace that vlmtrace wrote.

    Raises:
        TraceFormatError: if the file is damaged, or another tool's.
        VlmtraceError: if it cannot be read.
    """
    try:
        return formats.read(Path(path))
    except OSError as error:
        raise VlmtraceError(f"cannot read {str(path)!r}: {error.strerror}") from error


def pair(recording: Recording | str | Path | None, report: str | Path, *, nsys: str | Path | None = None) -> Recording:
    """A recording with the kernels and copies of the Nsight Systems report of the same run, each in its stage.

    ``recording`` may be a trace's path, or ``None``: then the stages too come of the report, by vlmtrace's NVTX ranges,
    without tokens and with no clock but the report's. ``report`` is a ``.sqlite`` export, or a ``.nsys-rep``, which
    ``nsys`` (found as ``record --nsys`` finds it) exports beside it.

    Raises:
        VlmtraceError: if the report cannot be read or exported, is of another run, or holds no kernels.
    """
    from vlmtrace.analysis import pairing
    from vlmtrace.nsight import command
    from vlmtrace.nsight import report as nsight_report

    path = Path(report)
    if recording is not None and not isinstance(recording, Recording):
        recording = load(recording)
    if path.suffix == ".nsys-rep":
        path = command.export_sqlite(path, command.find_any(None if nsys is None else Path(nsys)))
    found = nsight_report.read(path)
    return pairing.pair_alone(found, path.name) if recording is None else pairing.pair(recording, found, path.name)


def render(recording: Recording, form: str = "table") -> str:
    """A recording's summary as text: ``table`` (as the command shows it), ``markdown`` or ``json`` (versioned).

    Raises:
        UsageError: for another form.
    """
    return report.render(summarise(recording), form)


def report_page(traces: Sequence[Recording | str | Path]) -> str:
    """A report of recordings, or of the traces at these paths: one HTML page that opens offline, a section for each.

    Raises:
        VlmtraceError: if the extra ``report`` is not installed, or a trace cannot be read.
    """
    from vlmtrace.report import html

    told = []
    for trace in traces:
        recording = trace if isinstance(trace, Recording) else load(trace)
        name = recording.name if isinstance(trace, Recording) else Path(trace).name
        told.append(html.Told(name, recording, summarise(recording)))
    return html.page(told)


def save(recording: Recording, path: str | Path, *, force: bool = False) -> Path:
    """Write a recording; the format follows the name. The file appears whole or not at all.

    Raises:
        UsageError: for a name that ends in none of ``.pftrace``, ``.json``, ``.json.gz``.
        VlmtraceError: if the file exists (without ``force``) or cannot be written.
    """
    path = Path(path)
    kind = formats.format_of(path)
    if path.exists() and not force:
        raise VlmtraceError(f"{str(path)!r} exists", "choose another name, or say --force")
    write_atomically(path, formats.write(recording, kind))
    return path


def export(
    trace: Recording | str | Path, out: str | Path, *, to: str | None = None, force: bool = False
) -> tuple[Path, ...]:
    """Write a recording, or the trace at a path, in another format; the files that were written.

    Without ``to``, ``out`` is a trace whose format follows the name, as in :func:`save`. With ``to="csv"`` or
    ``to="parquet"`` it is a folder, made where it is not there, and holds a file for each table (docs/tables.md). Each
    file appears whole or not at all; with ``force``, tables that lie there and that this recording lacks are removed.

    Raises:
        UsageError: for a name or ``to`` that is no format.
        VlmtraceError: if a file exists (without ``force``), cannot be read or written, or pyarrow is not installed.
    """
    out = Path(out)
    if to is None:
        formats.format_of(out)
        return (save(trace if isinstance(trace, Recording) else load(trace), out, force=force),)
    written = formats.table_writer(to)
    there = {path for path in (out / name for name in formats.table_files(to)) if path.exists()}
    if there and not force:
        raise VlmtraceError(f"{str(min(there))!r} exists", "choose another folder, or say --force")
    recording = trace if isinstance(trace, Recording) else load(trace)
    made = []
    try:
        out.mkdir(exist_ok=True)
        for name, chunks in written(recording):
            write_atomically(out / name, chunks)
            made.append(out / name)
        for path in there.difference(made):
            path.unlink()
    except OSError as error:
        raise VlmtraceError(f"cannot write {str(out)!r}: {error.strerror}") from error
    return tuple(made)


def write_atomically(path: Path, chunks: Iterator[bytes]) -> None:
    """Write chunks to a new file beside ``path`` and move it into place, so that a reader never sees half of it."""
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            for chunk in chunks:
                file.write(chunk)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
        temporary = ""
    except OSError as error:
        raise VlmtraceError(f"cannot write {str(path)!r}: {error.strerror}") from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
