"""Redaction: a command line as it may be stored in a trace, which is made to be shared."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

__all__ = ["HIDDEN", "redacted"]

HIDDEN: Final = "***"

_SECRET_NAME: Final = (
    r"(?:[\w.-]*[-_.])?(?:token|secret|password|passwd|pwd|api[-_]?key|access[-_]?key|secret[-_]?key|private[-_]?key"
    r"|credentials?|auth|authorization)"
)
_SECRET_OPTION: Final = re.compile(rf"--?{_SECRET_NAME}", re.IGNORECASE)
_SECRET_ASSIGNED: Final = re.compile(
    rf"((?<![\w-])(?:--?)?{_SECRET_NAME}\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s&;,]+)", re.I
)
_SECRET_SHAPES: Final = re.compile(
    r"hf_\w{8,}"
    r"|sk-[\w-]{16,}"
    r"|gh[a-z]_\w{16,}|github_pat_\w{16,}"
    r"|xox[a-z]-[\w-]{10,}"
    r"|AKIA[0-9A-Z]{12,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
)
_HEADER: Final = re.compile(r"(\b(?:Bearer|Basic)\s+)\S+", re.IGNORECASE)
_URL_USER: Final = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/@\s]+@", re.IGNORECASE)
_PROMPT: Final = re.compile(r"--prompt(?:=(.*))?", re.DOTALL)


def redacted(words: Iterable[str], *, keep_text: bool) -> list[str]:
    """``words`` with secrets as ``***`` and, unless text is kept, the prompt as its length and SHA-256.

    Secrets are known by the option or variable that they are given to (``--token X``, ``API_KEY=X``), by their shape
    (``hf_…``), and in addresses (``https://user:password@host``). When in doubt, a word is hidden.
    """
    made: list[str] = []
    hide_next = prompt_next = False
    for word in words:
        prompt = None if keep_text else _PROMPT.fullmatch(word)
        if prompt_next:
            made.append(_fingerprint(word))
        elif hide_next and not word.startswith("--"):
            made.append(HIDDEN)
        elif prompt is not None and prompt[1] is not None:
            made.append(f"--prompt={_fingerprint(prompt[1])}")
        else:
            made.append(_without_secrets(word))
        prompt_next = not prompt_next and prompt is not None and prompt[1] is None
        hide_next = _SECRET_OPTION.fullmatch(word) is not None
    return made


def _without_secrets(word: str) -> str:
    word = _HEADER.sub(rf"\1{HIDDEN}", word)
    word = _SECRET_ASSIGNED.sub(rf"\1{HIDDEN}", word)
    word = _URL_USER.sub(rf"\1{HIDDEN}@", word)
    return _SECRET_SHAPES.sub(HIDDEN, word)


def _fingerprint(text: str) -> str:
    return f"<{len(text)} characters, sha256 {hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()}>"
