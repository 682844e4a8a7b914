"""The documents as tests read them: their fenced blocks, links and headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["DOCUMENTS", "ROOT", "Block", "anchors", "blocks", "links"]

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = tuple(
    path for pattern in ("*.md", "docs/**/*.md", "traces/*.md") for path in sorted(ROOT.glob(pattern))
)

_BLOCK: Final = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(?<!`)\[[^\]`]*(?:`[^`]*`[^\]`]*)*\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^#+ +(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: the words behind its fence, its text, and the line of the document it begins in."""

    document: Path
    words: tuple[str, ...]
    text: str
    line: int

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(language: str) -> list[Block]:
    """Every block of that language, in all documents."""
    return [block for path in DOCUMENTS for block in _blocks_of(path) if block.words[:1] == (language,)]


def _blocks_of(path: Path) -> Iterator[Block]:
    text = path.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        yield Block(path, tuple(found[1].split()), found[2], text[: found.start(2)].count("\n") + 1)


def links(path: Path) -> list[str]:
    """The targets of a document's links and pictures, outside of its blocks."""
    return _LINK.findall(_without_blocks(path))


def anchors(path: Path) -> set[str]:
    """What a link may name behind ``#``: the document's headings, as GitHub spells them."""
    headings = _HEADING.findall(_without_blocks(path))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _without_blocks(path: Path) -> str:
    return _BLOCK.sub("", path.read_text(encoding="utf-8"))
