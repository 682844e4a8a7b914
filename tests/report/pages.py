"""Pages read back: an HTML page as its elements, so that a test can ask what is on it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, Final

from vlmtrace.analysis.summary import summarise
from vlmtrace.report.html import Told, page
from vlmtrace.timeline.recording import Recording

__all__ = ["Element", "Page", "drawn", "read"]

_VOID: Final = frozenset(("meta", "link", "br"))


@dataclass
class Element:
    """An element with its attributes and its text, that of what is inside it included."""

    tag: str
    attributes: dict[str, str | None]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """The elements in order of their begin; reading asserts that each is closed where it should be."""

    elements: list[Element] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        HTMLParser.__init__(self)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.elements.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1].tag == tag, f"</{tag}> where <{self.open[-1].tag}> is open"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def all(self, tag: str, class_: str | None = None) -> list[Element]:
        """The elements of that tag, and of that class where one is given."""
        return [
            one
            for one in self.elements
            if one.tag == tag and (class_ is None or class_ in (one.attributes.get("class") or "").split())
        ]

    @property
    def charts(self) -> dict[str, Any]:
        """What the page's script draws."""
        (found,) = (one for one in self.all("script") if one.attributes.get("id") == "charts")
        made: dict[str, Any] = json.loads(found.text)
        return made

    @property
    def text(self) -> str:
        (body,) = self.all("body")
        scripts = [one.text for one in self.all("script")]
        shown = body.text
        for script in scripts:
            shown = shown.replace(script, "")
        return " ".join(shown.split())


def drawn(*recordings: Recording) -> str:
    """The page of these recordings, each called by its name and number."""
    return page([Told(f"{made.name}-{at}.pftrace", made, summarise(made)) for at, made in enumerate(recordings, 1)])


def read(document: str) -> Page:
    made = Page()
    made.feed(document)
    made.close()
    assert not made.open, f"never closed: {[one.tag for one in made.open]}"
    return made
