"""Errors: what a person is told when something cannot be done, and with which exit code.

Every message is one line: what was wrong (the value as the user gave it, quoted), where, and what to do.
"""

from __future__ import annotations

__all__ = [
    "EXIT_ERROR",
    "EXIT_INCONCLUSIVE",
    "EXIT_LIMIT",
    "EXIT_OK",
    "EXIT_USAGE",
    "InvalidRecordingError",
    "LimitExceededError",
    "NotComparableError",
    "ProcessorError",
    "TraceFormatError",
    "UsageError",
    "VlmtraceError",
]

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_LIMIT = 3
EXIT_INCONCLUSIVE = 4


class VlmtraceError(Exception):
    """Something could not be done; ``str(error)`` is the one line a person reads.

    ``remedy`` says what to do about it and is kept apart so that a front end can set it off.
    """

    exit_code = EXIT_ERROR

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}" if self.remedy else self.what


class UsageError(VlmtraceError):
    """The request itself is wrong: an unknown option value, nothing to record, a stage path that is not there."""

    exit_code = EXIT_USAGE


class LimitExceededError(VlmtraceError):
    """A limit that the user has set cannot be kept."""

    exit_code = EXIT_LIMIT


class NotComparableError(VlmtraceError):
    """Two recordings are not of the same work, so that a difference between them would tell nothing."""

    exit_code = EXIT_INCONCLUSIVE


class ProcessorError(VlmtraceError):
    """Perfetto's trace processor is not here, or refused a trace or a query."""


class TraceFormatError(VlmtraceError):
    """A file is not a trace that vlmtrace wrote, or it is damaged."""


class InvalidRecordingError(VlmtraceError):
    """A recording contradicts itself: spans that overlap, parts that do not add up to their whole."""
