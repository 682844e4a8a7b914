"""A Recording as chunks of bytes and back: Perfetto protobuf and Chrome JSON; and, one way, as tables."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

from vlmtrace.errors import InvalidRecordingError, TraceFormatError, UsageError, VlmtraceError
from vlmtrace.timeline.recording import Recording
from vlmtrace.timeline.validation import validate

__all__ = ["FORMATS", "TABLE_FORMATS", "format_of", "read", "table_files", "table_writer", "write"]

FORMATS: Final = (".pftrace", ".json", ".json.gz")
"""The formats by the suffix of their files."""

TABLE_FORMATS: Final = ("csv", "parquet")
"""The formats of tables; a table's file ends in its format's name."""

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


def table_writer(format: str) -> Callable[[Recording], Iterator[tuple[str, Iterator[bytes]]]]:  # noqa: A002
    """What makes a recording's tables in ``format``, one of :data:`TABLE_FORMATS`: file names, each with its bytes.

    Raises:
        UsageError: there is no such format.
        VlmtraceError: its library is not installed.
    """
    if format == "csv":
        from vlmtrace.formats import tables_csv

        return tables_csv.written
    if format == "parquet":
        try:
            from vlmtrace.formats import tables_parquet
        except ModuleNotFoundError as error:
            raise VlmtraceError(
                f"Parquet needs {error.name}, which is not installed",
                "pip install 'vlmtrace[parquet]', or ask for csv",
            ) from error
        return tables_parquet.written
    raise UsageError(f"there are no tables in {format!r}", f"choose one of {', '.join(TABLE_FORMATS)}")


def table_files(format: str) -> tuple[str, ...]:  # noqa: A002
    """The names of all files that tables in ``format`` may have; a recording without kernels has fewer."""
    from vlmtrace.formats.table_columns import COLUMNS

    return *(f"{name}.{format}" for name in COLUMNS), *(("tables.json",) if format == "csv" else ())


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
