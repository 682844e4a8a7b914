"""A Recording as chunks of bytes and back: Perfetto protobuf and Chrome JSON."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

from vlmtrace.errors import InvalidRecordingError, TraceFormatError, UsageError
from vlmtrace.timeline.recording import Recording
from vlmtrace.timeline.validation import validate

__all__ = ["FORMATS", "format_of", "read", "write"]

FORMATS: Final = (".pftrace", ".json", ".json.gz")
"""The formats by the suffix of their files."""

_GZIP: Final = b"\x1f\x8b"
_ELSEWHERE: Final = "make one with `vlmtrace record`"
_DAMAGE = (
    ArithmeticError,
    EOFError,
    KeyError,
    IndexError,
    RecursionError,
    TypeError,
    ValueError,
    AttributeError,
    gzip.BadGzipFile,
    zlib.error,
)


def format_of(path: Path) -> str:
    """The format that a file's name asks for, one of :data:`FORMATS`.

    Raises:
        UsageError: it asks for none of them.
    """
    for suffix in FORMATS:
        if path.name.lower().endswith(suffix):
            return suffix
    raise UsageError(f'"{path}" does not say which format to write', f"end its name in {', '.join(FORMATS)}")


def write(recording: Recording, format: str) -> Iterator[bytes]:  # noqa: A002
    """``recording`` in ``format``, one of :data:`FORMATS`, as chunks of bytes.

    Raises:
        UsageError: there is no such format.
    """
    if format == ".pftrace":
        from vlmtrace.formats import perfetto

        return perfetto.written(recording)
    from vlmtrace.formats import chrome

    if format == ".json":
        return chrome.written(recording)
    if format == ".json.gz":
        return chrome.gzipped(chrome.written(recording))
    raise UsageError(f'no trace format is called "{format}"', f"choose one of {', '.join(FORMATS)}")


def read(path: Path) -> Recording:
    """The recording in the file ``path``, whatever its name; valid, and equal to the one that was written.

    Raises:
        TraceFormatError: it is not a trace that vlmtrace wrote, or it is damaged.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            return validate(_read(file))
        except TraceFormatError as error:
            raise TraceFormatError(f'"{path}" cannot be read, {error.what}', error.remedy) from None
        except InvalidRecordingError as error:
            raise TraceFormatError(
                f'"{path}" holds a recording that contradicts itself ({error})', "record it again"
            ) from None
        except _DAMAGE as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise TraceFormatError(
                f'"{path}" is damaged ({what[:160]})', "record it again or take another copy"
            ) from error


def _read(file: BinaryIO) -> Recording:
    """By the first bytes: gzip is unpacked, ``{`` or ``[`` opens JSON, a packet's tag Perfetto's protobuf."""
    head = cast("bytes", file.peek(2)[:2])  # type: ignore[attr-defined]
    if head == _GZIP:
        return _read(cast("BinaryIO", gzip.GzipFile(fileobj=file)))
    if not head:
        raise TraceFormatError("it is empty", _ELSEWHERE)
    if head[:1] == b"\n" and not head[1:].isspace():
        from vlmtrace.formats import perfetto_reader

        return perfetto_reader.read(file)
    if head.lstrip()[:1] in (b"{", b"["):
        from vlmtrace.formats import chrome_reader

        return chrome_reader.read(file)
    raise TraceFormatError("it is not a trace that vlmtrace wrote", _ELSEWHERE)
