"""Result: the rows of a query as an aligned table, as JSON or as CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from itertools import chain
from typing import Final, TypeAlias

from rich.table import Table
from rich.text import Text

from vlmtrace.errors import UsageError
from vlmtrace.report.cells import ABSENT, clean

__all__ = ["RESULT_FORMATS", "Value", "result_csv", "result_json", "result_table"]

Value: TypeAlias = int | float | str | bytes | None

RESULT_FORMATS: Final = ("table", "json", "csv")
_LONGEST: Final = 120


def result_table(columns: Sequence[str], rows: Iterable[Sequence[Value]]) -> Table:
    """A table for rich; what a cell holds is never read as markup and cannot act on a terminal.

    Text is cut to 120 characters and a float shown with six digits: the other formats hold it all.
    """
    made = [[_cell(value) for value in row] for row in rows]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        numbers = all(row[at][1] for row in made)
        table.add_column(Text(clean(column)), justify="right" if numbers and made else "left", overflow="fold")
    for row in made:
        table.add_row(*(Text(text) for text, _ in row))
    return table


def result_json(columns: Sequence[str], rows: Iterable[Sequence[Value]]) -> Iterator[str]:
    """An array of objects, one a line and in ASCII. A blob is in hexadecimal; JSON knows no infinity: it is text.

    Raises:
        UsageError: two columns have one name.
    """
    twice = next((column for at, column in enumerate(columns) if column in columns[:at]), None)
    if twice is not None:
        raise UsageError(f"two columns are called {twice!r}", "name them apart with AS")
    between = "[\n"
    for row in rows:
        yield between + json.dumps({key: _json(value) for key, value in zip(columns, row, strict=True)})
        between = ",\n"
    yield "[]\n" if between == "[\n" else "\n]\n"


def result_csv(columns: Sequence[str], rows: Iterable[Sequence[Value]], *, safe: bool) -> Iterator[str]:
    """Comma-separated values below a line of names, exactly as they are; NULL is empty, a blob in hexadecimal.

    With ``safe``, for a terminal, what would act on it is replaced.
    """
    for row in chain((columns,), rows):
        line = StringIO()
        texts = ["" if value is None else value.hex() if isinstance(value, bytes) else str(value) for value in row]
        csv.writer(line, lineterminator="\n").writerow([clean(text, len(text)) if safe else text for text in texts])
        yield line.getvalue()


def _cell(value: Value) -> tuple[str, bool]:
    """How a value is shown, and whether it may stand among numbers."""
    if value is None:
        return ABSENT, True
    if isinstance(value, bytes):
        return clean(value.hex(), _LONGEST), False
    if isinstance(value, str):
        return clean(value, _LONGEST), False
    if isinstance(value, float):
        return (f"{value:.6g}" if not math.isfinite(value) or abs(value) < 1e6 else f"{value:.0f}"), True
    return str(value), True


def _json(value: Value) -> int | float | str | None:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
