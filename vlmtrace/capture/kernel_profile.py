"""Kernel profile: generations under torch.profiler, in a pass of its own whose times nobody counts.

The boundaries that NVTX would be told are told to the profiler, as ranges among its own events. They tell which kernel
belongs to which stage, and tie the profiler's clock to the host's: a range begins just after the mark whose host time
was read, and ends just before that of its end.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from vlmtrace.capture.recorder import Recorder, RecorderOptions, execution_device
from vlmtrace.errors import UsageError, VlmtraceError
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import PROFILED, Recording
from vlmtrace.timeline.spans import NONE

__all__ = ["KernelProfile", "ProfilerDomain", "check_device"]

_ACTIVITIES: Final = (ProfilerActivity.CPU, ProfilerActivity.CUDA)


def check_device(device: str | torch.device) -> None:
    """Refuse a device on which no kernels run.

    Raises:
        UsageError: ``device`` is not a CUDA device.
    """
    if torch.device(device).type != "cuda":
        raise UsageError(
            f"kernels (--kernels) need a CUDA device, and this would run on '{device}'",
            "leave it out, or run where there is a GPU",
        )


@dataclass(slots=True)
class _Message:
    """What a range says; ``payload`` is set before it is pushed and taken with it."""

    text: str
    payload: int = NONE


class ProfilerDomain:
    """The part of an NVTX domain that ranges need, in torch.profiler: push and pop on the thread that calls."""

    def __init__(self) -> None:
        self._range = torch._C._profiler._RecordFunctionFast
        self._open = threading.local()

    def get_event_attributes(self, message: str) -> _Message:
        return _Message(message)

    def push_range(self, message: _Message) -> None:
        number = None if message.payload == NONE else message.payload
        message.payload = NONE
        one = self._range(names.in_profile(message.text, number))
        one.__enter__()
        self._own().append(one)

    def pop_range(self) -> None:
        self._own().pop().__exit__(None, None, None)

    def start_range(self, _message: _Message) -> None:
        """No tool's capture is set on a range here."""

    def end_range(self, _handle: Any) -> None:
        """Nor does it end with one."""

    def _own(self) -> list[Any]:
        own: list[Any] | None = getattr(self._open, "ranges", None)
        if own is None:
            own = self._open.ranges = []
        return own


class KernelProfile:
    """Profiles the generations inside a ``with`` block: :attr:`recording` and what :meth:`save` writes tell of them.

    Every outermost ``generate()`` of ``models`` (of any model, where none is named) that this thread makes counts, so
    let lazy set-up happen in a generation before the block.

    Raises:
        VlmtraceError: on entry, while a recording is running: a profile must not be part of what is timed.
    """

    def __init__(self, models: Sequence[nn.Module] | None, options: RecorderOptions) -> None:
        options = replace(options, name="kernels", sample_gpu=None, memory=False)
        self._models: Sequence[nn.Module] = models or ()
        self.recorder = Recorder(options, models, ProfilerDomain())
        self.recorder.role = PROFILED
        self._profile: Any = None
        self._open = ExitStack()
        self._recording: Recording | None = None

    def __enter__(self) -> KernelProfile:
        with ExitStack() as entered:
            entered.enter_context(self.recorder)
            for model in self._models:
                self.recorder.lanes.voice(execution_device(model))  # prices are not measured under the profiler
            self._models = ()  # a finished profile keeps no model alive
            self._profile = entered.enter_context(profile(activities=_ACTIVITIES))
            self._open = entered.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.close()
        self._recording = self.recorder.finish()

    @property
    def recording(self) -> Recording:
        """The profiled generations, without their kernels."""
        if self._recording is None:
            raise VlmtraceError("the profile is not finished", "read it after its with block")
        return self._recording

    def save(self, folder: Path) -> Path:
        """Write what the profiler saw as Chrome trace events, once, and answer the file. It names this machine."""
        path = folder / "profile.json"
        self._profile.export_chrome_trace(str(path))
        return path
