"""Document: all of a recording that is not on a timeline, as one versioned JSON document.

Versions: 1, the first.

Spans and counter samples stay out; the document says how many of them a complete file holds. Encoding follows the
fields of the frozen dataclasses, so that a new field needs no code here, only a new version.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from decimal import Decimal
from functools import cache
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from vlmtrace.errors import TraceFormatError
from vlmtrace.timeline.recording import Recording
from vlmtrace.timeline.spans import Spans, SpansBuilder

__all__ = ["FORMAT", "VERSION", "Document", "decoded", "dumped", "loaded", "quoted"]

FORMAT: Final = "vlmtrace"
VERSION: Final = 1

_FLOAT: Final = "$float"
_DICT: Final = "$dict"


@dataclass(frozen=True, slots=True)
class Document:
    """A recording without spans and counter samples, and what the file that carries it holds of these.

    ``base_ns`` is the position on the axis that the file's times count from.
    """

    recording: Recording
    base_ns: int
    spans: int
    samples: int


def dumped(recording: Recording, base_ns: int) -> str:
    """The document of ``recording`` as one line of JSON, encodable in UTF-8.

    Raises:
        TypeError: a mapping of the recording holds something that is not JSON.
    """
    bare = tuple(replace(counter, times=array("q"), values=array("q")) for counter in recording.counters)
    made = {
        "format": FORMAT,
        "version": VERSION,
        "base_ns": base_ns,
        "spans": len(recording.spans),
        "samples": sum(len(counter.times) for counter in recording.counters),
        "recording": _encoded(replace(recording, counters=bare)),
    }
    return quoted(made)


def loaded(text: str) -> Document:
    """The document that ``text`` holds; errors are those of :func:`decoded`."""
    try:
        return decoded(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise TraceFormatError(f"its vlmtrace document is not JSON ({error})", _DAMAGED) from None


def decoded(document: object) -> Document:
    """The document from its parsed JSON.

    Raises:
        TraceFormatError: it is not vlmtrace's, of a version this vlmtrace does not know, or lacks something.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise TraceFormatError("it holds no vlmtrace document", _DAMAGED)
    if document.get("version") != VERSION:
        raise TraceFormatError(
            f"it is of format version {document.get('version')!r} and this vlmtrace reads version {VERSION}",
            "update vlmtrace",
        )
    counts = [document.get(key) for key in ("base_ns", "spans", "samples")]
    if any(type(count) is not int for count in counts):
        raise TraceFormatError("its vlmtrace document does not say what the file holds", _DAMAGED)
    recording: Recording = _decoded(Recording, document.get("recording"), "recording")
    return Document(recording, *(int(count) for count in counts if count is not None))


def quoted(value: object) -> str:
    """``value`` as JSON on one line, readable where UTF-8 allows it: a lone surrogate needs its escape.

    DEL and backslashes are escaped by their numbers: JSON allows the one bare and the other doubled, but Perfetto's
    importer refuses the file for the one, and releases of it for a text that ends in the other.

    Raises:
        TypeError: ``value`` is not JSON.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    text = text.replace("\x7f", "\\u007f")
    return _ESCAPED.sub(lambda found: r"\u005c" if found[0] == r"\\" else found[0], text) if "\\" in text else text


_ESCAPED: Final = re.compile(r"\\.")


_DAMAGED: Final = "it is damaged, record it again or take another copy"


def _encoded(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {key: _encoded(getattr(value, key)) for key, _, _ in _fields(type(value))}
    if isinstance(value, tuple | array):
        return [_encoded(one) for one in value]
    return _free_encoded(value)


def _free_encoded(value: object) -> object:
    """A user's JSON; JSON itself knows no infinity and no NaN, so these are spelled, and what looks like it escaped."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(value)}
    if isinstance(value, Mapping):
        made = {key: _free_encoded(one) for key, one in value.items()}
        return {_DICT: made} if made.keys() & {_FLOAT, _DICT} else made
    if isinstance(value, list):
        return [_free_encoded(one) for one in value]
    return value


def _free_decoded(value: object) -> object:
    if isinstance(value, dict):
        if value.keys() == {_FLOAT}:
            return float(value[_FLOAT])
        inner = value[_DICT] if value.keys() == {_DICT} else value
        return {key: _free_decoded(one) for key, one in inner.items()}
    if isinstance(value, list):
        return [_free_decoded(one) for one in value]
    return float(value) if isinstance(value, Decimal) else value


@cache
def _fields(kind: type) -> tuple[tuple[str, Any, bool], ...]:
    """Name, type and whether it may be left out, of each field that the document carries."""
    hints = get_type_hints(kind, localns={"array": list})  # an array cannot be subscripted before Python 3.12
    return tuple(
        (field.name, hints[field.name], field.default is not MISSING or field.default_factory is not MISSING)
        for field in fields(kind)
        if hints[field.name] is not Spans
    )


def _decoded(hint: Any, value: object, where: str) -> Any:
    """``value`` as the type ``hint``; ``where`` is its path in the document, for the error."""
    base = get_origin(hint) or hint
    if base in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return None if value is None else _decoded(kinds[0], value, where)
    if is_dataclass(base) and isinstance(value, dict):
        return _dataclass_decoded(base, value, where)
    if base is tuple and isinstance(value, list):
        return tuple(_decoded(get_args(hint)[0], one, f"{where}[{i}]") for i, one in enumerate(value))
    if base is list and value == []:
        return array("q")
    if base is Mapping and isinstance(value, dict):
        return _free_decoded(value)
    if type(value) is not base:
        raise TraceFormatError(f"{where} of its vlmtrace document is {_brief(value)}", _DAMAGED)
    return value


def _dataclass_decoded(kind: Any, value: dict[str, object], where: str) -> Any:
    known = _fields(kind)
    strange = sorted(value.keys() - {name for name, _, _ in known})
    missing = [name for name, _, optional in known if not optional and name not in value]
    if strange or missing:
        problem = f"{strange[0]!r}, which is unknown" if strange else f"no {missing[0]!r}"
        raise TraceFormatError(f"{where} of its vlmtrace document has {problem}", _DAMAGED)
    made = {name: _decoded(hint, value[name], f"{where}.{name}") for name, hint, _ in known if name in value}
    if kind is Recording:
        made["spans"] = SpansBuilder().freeze()[0]
    return kind(**made)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
