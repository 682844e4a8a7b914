"""The Python interface: ``trace()``, ``span()``, ``tag()``, ``audit_syncs()``, ``load()``, ``render()``, ``save()``."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from vlmtrace import formats, report
from vlmtrace.analysis.summary import Summary, summarise
from vlmtrace.errors import UsageError, VlmtraceError
from vlmtrace.timeline.recording import DETAILS, Json, Recording

if TYPE_CHECKING:
    from torch import nn

    from vlmtrace.capture.recorder import Recorder
    from vlmtrace.capture.sync_audit import SyncAudit

__all__ = ["Session", "audit_syncs", "load", "render", "save", "span", "tag", "trace"]

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
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


def trace(
    model: nn.Module | None = None,
    *,
    detail: str = "stage",
    stages: Mapping[str, str | tuple[str, ...]] | None = None,
    name: str = "recording",
    keep_text: bool = False,
    random_weights: bool = False,
) -> Session:
    """Record every ``generate()`` of ``model`` (of any model, without one) inside a ``with`` block.

    ``detail`` is ``stage``, ``module`` or ``layer``. ``stages`` names modules that discovery does not find:
    ``{"vision": "model.vision_backbone"}``. ``keep_text`` stores decoded text; else outputs are kept as hashes.
    ``random_weights`` says that the weights are random, and so do the summary and the trace.

    Raises:
        UsageError: for an unknown detail or a stage path that the model does not have.
        VlmtraceError: if torch or transformers is missing, or another recording is running.
    """
    with _needing_record_extra():
        from vlmtrace.capture.recorder import Recorder, RecorderOptions
    if detail not in DETAILS:
        raise UsageError(f"detail {detail!r} is none", f"choose one of {', '.join(DETAILS)}")
    options = RecorderOptions(name, detail, _paths(stages), keep_text)
    recorder = Recorder(options, None if model is None else [model])
    recorder.random_weights = random_weights
    return Session(recorder)


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
    path = Path(path)
    try:
        return formats.read(path)
    except OSError as error:
        raise VlmtraceError(f"cannot read {str(path)!r}: {error.strerror}") from error


def render(recording: Recording, form: str = "table") -> str:
    """A recording's summary as text: ``table`` (as the command shows it), ``markdown`` or ``json`` (versioned).

    Raises:
        UsageError: for another form.
    """
    return report.render(summarise(recording), form)


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
