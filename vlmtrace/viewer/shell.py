"""Shell: a ``trace_processor_shell`` of this machine, started as a process and asked over its local port."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from vlmtrace.errors import ProcessorError
from vlmtrace.viewer.processor import TraceProcessor, one_line

__all__ = ["ShellProcessor"]


class ShellProcessor(TraceProcessor):
    """A process of its own, which ends with this object.

    Raises:
        ProcessorError: ``program`` cannot be started, or is no trace processor.
    """

    def __init__(self, program: Path) -> None:
        from perfetto.trace_processor import TraceProcessor as Client
        from perfetto.trace_processor import TraceProcessorConfig

        if not program.is_file():
            raise ProcessorError(f"there is no trace processor at {str(program)!r}", "give the path of the program")
        try:
            # An absolute path: the client would take a bare name from PATH.
            self._client = Client(config=TraceProcessorConfig(bin_path=str(program.absolute())))
        except Exception as error:
            what = one_line(str(error))[:300]
            raise ProcessorError(f"the trace processor {str(program)!r} did not start: {what}") from error
        self._backend = self._client.http

    def close(self) -> None:
        """End the process."""
        self._client.close()

    def _append(self, data: bytes) -> str:
        return str(self._told(self._backend.parse, data).error)

    def _finish(self) -> str:
        answer = self._told(self._backend.notify_eof)
        return str(getattr(answer, "error", "") or "")

    def _ask(self, sql: str) -> list[Any]:
        return [self._told(self._backend.execute_query, sql)]

    def _told(self, request: Any, *arguments: Any) -> Any:
        try:
            return request(*arguments)
        except (OSError, HTTPException, DecodeError) as error:
            raise ProcessorError(f"the trace processor ended: {one_line(str(error))[:300]}") from error
