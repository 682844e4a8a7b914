"""Embedding: what a page carries within itself, so that it opens offline and nothing in it can act as code."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Final

from vlmtrace.errors import VlmtraceError
from vlmtrace.timeline.recording import Json

__all__ = ["EXTRA", "data_uri", "needing_extra", "own_file", "plotly_source", "script_json"]

EXTRA: Final = "report"
"""The extra that brings the charts' and the template's libraries."""

_ESCAPES: Final = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


@contextmanager
def needing_extra() -> Iterator[None]:
    """Say which library is missing, and what brings it.

    Raises:
        VlmtraceError: in place of the ``ModuleNotFoundError`` inside.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise VlmtraceError(
            f"a report needs {error.name}, which is not installed", f"pip install 'vlmtrace[{EXTRA}]'"
        ) from error


def script_json(value: Json) -> str:
    """JSON that may stand inside ``<script>``: no character in it can end the element or a line of JavaScript."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def data_uri(text: str, kind: str) -> str:
    """A link that holds the text itself."""
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def plotly_source() -> str:
    """plotly.js as plotly's wheel carries it, fit to stand inside ``<script>``."""
    return resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text("utf-8").replace(
        "</script", "<\\/script"
    )  # fmt: skip


def own_file(name: str) -> str:
    """One of the files beside this one: the template, its style and its script."""
    return resources.files("vlmtrace.report.html").joinpath(name).read_text("utf-8")
