"""Processor: one trace in Perfetto's own importer, and SQL over it.

There are two ways to run it. The WebAssembly build that the UI uses is run by wasmtime, in this process (the extra
``query``). A ``trace_processor_shell`` that is already on the machine is run as a process of its own. Nothing is ever
downloaded.
"""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeAlias

from vlmtrace.errors import ProcessorError
from vlmtrace.viewer import builds

__all__ = ["Cell", "Rows", "TraceProcessor", "message_types", "new", "one_line", "opened"]

Cell: TypeAlias = int | float | str | bytes | None

_SHELL: Final = "trace_processor_shell"
_REMEDY: Final = f"pip install 'vlmtrace[query]', or name a {_SHELL} with --trace-processor PATH"
_STEP: Final = 16 << 20
_NULL, _INTEGER, _FLOAT, _TEXT, _BLOB = range(1, 6)


@dataclass(frozen=True, slots=True)
class Rows:
    """What a query answered: the names of its columns, and batches of cells as the importer sent them.

    Iterating gives the rows as tuples, decoded one batch at a time: an answer may hold millions.
    """

    columns: tuple[str, ...]
    batches: Sequence[Any]

    def __iter__(self) -> Iterator[tuple[Cell, ...]]:
        width = len(self.columns)
        for batch in self.batches:
            cells = _cells(batch)
            yield from zip(*[cells] * width, strict=True)

    def dicts(self) -> list[dict[str, Any]]:
        """Every row by the names of its columns."""
        return [dict(zip(self.columns, row, strict=True)) for row in self]


class TraceProcessor(ABC):
    """A loaded trace. A context manager: leaving it ends what runs the importer."""

    def __enter__(self) -> TraceProcessor:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def load(self, path: Path) -> None:
        """Have the importer read ``path`` whole.

        Raises:
            ProcessorError: it refuses the file.
            VlmtraceError: the file cannot be read.
        """
        try:
            with path.open("rb") as file:
                while data := file.read(_STEP):
                    self._refuse(path, self._append(data))
            self._refuse(path, self._finish())
        except OSError as error:
            raise ProcessorError(f"cannot read {str(path)!r}: {error.strerror}") from error

    def query(self, sql: str) -> Rows:
        """What ``sql``, one or several statements, selects: the rows of the last one.

        Raises:
            ProcessorError: it is no valid query; the message is the importer's own, on one line.
        """
        answers = self._ask(sql)
        for answer in answers:
            if answer.error:
                raise ProcessorError(_query_error(answer.error))
        columns = tuple(name for answer in answers for name in answer.column_names)
        return Rows(columns, [batch for answer in answers for batch in answer.batch] if columns else [])

    def value(self, sql: str) -> Any:
        """The single value that ``sql`` selects."""
        ((only,),) = self.query(sql)
        return only

    @staticmethod
    def _refuse(path: Path, error: str) -> None:
        if error:
            what = f"{str(path)!r} cannot be imported: {one_line(error)}"
            raise ProcessorError(what, "is it a trace, and whole?")

    @abstractmethod
    def _append(self, data: bytes) -> str:
        """Hand the next part of the file on; the answer is what is wrong with it, or nothing."""

    @abstractmethod
    def _finish(self) -> str:
        """Say that the file has ended."""

    @abstractmethod
    def _ask(self, sql: str) -> list[Any]:
        """The importer's answer, a ``QueryResult`` or several that continue each other."""

    @abstractmethod
    def close(self) -> None:
        """End what runs the importer."""


def opened(path: Path, shell: Path | None = None) -> TraceProcessor:
    """``path`` in the importer that :func:`new` answers.

    Raises:
        ProcessorError: there is none, or it refuses the file.
    """
    processor = new(shell)
    try:
        processor.load(path)
    except BaseException:
        processor.close()
        raise
    return processor


def new(shell: Path | None = None) -> TraceProcessor:
    """The importer with no trace in it: ``shell`` where one is named, else WebAssembly, else a shell on PATH.

    Raises:
        ProcessorError: there is none.
    """
    module = builds.importer()
    if shell is None and module is not None and find_spec("wasmtime") is not None:
        from vlmtrace.viewer.wasm import WasmProcessor

        return WasmProcessor(module)
    found = shell or shutil.which(_SHELL)
    if found is None:
        raise ProcessorError("Perfetto's trace processor is not installed", _REMEDY)
    from vlmtrace.viewer.shell import ShellProcessor

    return ShellProcessor(Path(found))


@cache
def message_types() -> Any:
    """The messages that are exchanged with an importer, by name: ``message_types().QueryResult``."""
    from perfetto.trace_processor.platform import PlatformDelegate
    from perfetto.trace_processor.protos import ProtoFactory

    return ProtoFactory(PlatformDelegate())


def one_line(text: str) -> str:
    """Foreign text on one line, without anything that acts on a terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in " ".join(text.split()))


def _query_error(error: str) -> str:
    """What is wrong with a query: the importer says first where, over several lines, and what in the last."""
    places = re.findall(r"line (\d+) col (\d+)", error)
    where = f" at line {places[-1][0]}, column {places[-1][1]}" if places else ""
    return f"the query failed{where}: {one_line(error.strip().rpartition(chr(10))[2])}"


def _cells(batch: Any) -> Iterator[Cell]:
    """The cells of one batch in order: it says the type of each, and has the values of each type apart."""
    texts = batch.string_cells
    if isinstance(texts, bytes):  # where one of them is not UTF-8
        texts = texts.decode(errors="replace")
    values: dict[int, Iterator[Cell]] = {
        _INTEGER: iter(batch.varint_cells),
        _FLOAT: iter(batch.float64_cells),
        _TEXT: iter(texts.split("\0")),
        _BLOB: iter(batch.blob_cells),
    }
    for kind in batch.cells:
        yield None if kind == _NULL else next(values[kind])
