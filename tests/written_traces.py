"""Every trace that a test leaves behind is shown to Perfetto's own importer, whatever the test itself looked at."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vlmtrace import formats
from vlmtrace.errors import TraceFormatError
from vlmtrace.timeline.recording import Recording

__all__ = ["check_written_traces", "written_traces"]

_seen: Final[set[bytes]] = set()


def written_traces(folder: Path) -> Iterator[tuple[Path, Recording]]:
    """The traces below ``folder`` that vlmtrace can load; what is damaged, or no trace of ours, is left out."""
    for path in sorted(folder.rglob("*")):
        if path.name.lower().endswith(formats.FORMATS) and path.is_file() and not path.is_symlink():
            try:
                recording = formats.read(path)
            except (TraceFormatError, PermissionError):
                continue
            yield path, recording


def check_written_traces(folder: Path) -> None:
    """Raise an ``AssertionError`` where the importer finds other than what a trace below ``folder`` holds.

    A trace with the same bytes as one that has been checked is not checked again. The importer is loaded only when
    there is something for it to import. JSON with escapes in its events is left out: the importer at hand misreads
    them, which a test of its own says.
    """
    for path, recording in written_traces(folder):
        data = path.read_bytes()
        digest = hashlib.sha256(data).digest()
        if digest in _seen or _has_escapes(data):
            continue
        from tests.importer import assert_clean

        try:
            assert_clean(path, recording)
        except AssertionError as error:
            raise AssertionError(
                f"in {path.name} Perfetto's importer finds other than was recorded: {error}"
            ) from error
        _seen.add(digest)


def _has_escapes(data: bytes) -> bool:
    text = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    return text.startswith(b"{") and b"\\" in text[text.find(b'"traceEvents"') :]
