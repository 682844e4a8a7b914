"""Stage names: the one grammar that slices, NVTX ranges, summaries and Nsight reading share.

A stage name is dotted (``decode.step``). On a timeline, where the parent is in sight, repeated slices carry the
short form (``step``); :func:`short` and :func:`full` convert, and are inverse to each other on stage names.
A *kind* is a stage name's position in :data:`KINDS`: what the hot path writes instead of a string.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

__all__ = [
    "ANCHOR",
    "CALIBRATE",
    "CAPTURE",
    "COMPILE",
    "DECODE",
    "DETOKENIZE",
    "DOMAIN",
    "DRAFT",
    "ENCODER",
    "GAP",
    "GC",
    "GENERATE",
    "H2D",
    "KINDS",
    "KIND_OF",
    "LAYER",
    "LM_HEAD",
    "MERGE",
    "OTHER_BETWEEN",
    "OTHER_FIRST_TOKEN",
    "OTHER_PARTS",
    "OTHER_SETUP",
    "OTHER_TAIL",
    "PREFILL",
    "PREFILL_CHUNK",
    "PREPROCESS",
    "PROJECTOR",
    "RECORDING",
    "REQUEST",
    "RESERVED",
    "STEP",
    "TOKEN",
    "VISION",
    "VISION_LAYER",
    "WAIT",
    "WARMUP",
    "full",
    "in_profile",
    "of_profile",
    "short",
]

DOMAIN: Final = "vlmtrace"
"""The NVTX domain of every range that vlmtrace pushes."""

REQUEST: Final = "request"
PREPROCESS: Final = "preprocess"
H2D: Final = "h2d"
GENERATE: Final = "generate"
VISION: Final = "vision"
ENCODER: Final = "vision.encoder"
PROJECTOR: Final = "vision.projector"
VISION_LAYER: Final = "vision.layer"
PREFILL: Final = "prefill"
PREFILL_CHUNK: Final = "prefill.chunk"
MERGE: Final = "prefill.merge"
DECODE: Final = "decode"
STEP: Final = "decode.step"
GAP: Final = "decode.gap"
OTHER_SETUP: Final = "other.setup"
OTHER_BETWEEN: Final = "other.between"
OTHER_FIRST_TOKEN: Final = "other.first_token"
OTHER_TAIL: Final = "other.tail"
OTHER_PARTS: Final = (OTHER_SETUP, OTHER_BETWEEN, OTHER_FIRST_TOKEN, OTHER_TAIL)
LAYER: Final = "layer"
LM_HEAD: Final = "lm_head"
TOKEN: Final = "token"
DRAFT: Final = "draft"
"""A ``generate()`` of the assistant that proposes tokens, inside an assisted one."""
DETOKENIZE: Final = "detokenize"
WAIT: Final = "wait"
ANCHOR: Final = "anchor"
CALIBRATE: Final = "calibrate"
RECORDING: Final = "recording"
WARMUP: Final = "warmup"
GC: Final = "gc"
COMPILE: Final = "compile"
CAPTURE: Final = "capture"
"""CUDA graphs being warmed up and recorded, which happens once a graph, in the calls after its compilation."""

KINDS: Final = (
    GENERATE,
    VISION,
    ENCODER,
    PROJECTOR,
    VISION_LAYER,
    PREFILL,
    MERGE,
    STEP,
    LAYER,
    LM_HEAD,
    TOKEN,
    PREPROCESS,
    H2D,
    DETOKENIZE,
    WAIT,
    ANCHOR,
    CALIBRATE,
    WARMUP,
    RECORDING,
    GC,
    COMPILE,
    CAPTURE,
    DRAFT,
)
KIND_OF: Final = {name: kind for kind, name in enumerate(KINDS)}
RESERVED: Final = frozenset((*KINDS, REQUEST, PREFILL_CHUNK, DECODE, GAP, *OTHER_PARTS))
"""Every stage name: what a span of a user's own must not be called, or it would be taken for a stage."""

_SHORT: Final = {
    STEP: "step",
    GAP: "gap",
    PREFILL_CHUNK: "chunk",
    OTHER_SETUP: "setup",
    OTHER_BETWEEN: "between",
    OTHER_FIRST_TOKEN: "first_token",
    OTHER_TAIL: "tail",
}
_FULL: Final = {text: name for name, text in _SHORT.items()}


def short(name: str) -> str:
    """The form a slice carries where its parent is in sight: ``decode.step`` → ``step``; others unchanged."""
    return _SHORT.get(name, name)


def full(text: str) -> str:
    """The stage name of a slice's short form; inverse of :func:`short` on stage names."""
    return _FULL.get(text, text)


def in_profile(name: str, number: int | None = None) -> str:
    """What a range is called among a profiler's own events, which have no domain and no payload."""
    return f"{DOMAIN}:{'' if number is None else number}:{quote(name)}"


def of_profile(text: str) -> tuple[str, int | None] | None:
    """Name and number of the range that a profiler's event is, ``None`` where it is none of ours; inverse of
    :func:`in_profile`."""
    domain, _, rest = text.partition(":")
    number, colon, name = rest.partition(":")
    if domain != DOMAIN or not colon or not (number == "" or number.isdecimal()):
        return None
    return unquote(name), int(number) if number else None
