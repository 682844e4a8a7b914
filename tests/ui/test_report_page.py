"""The HTML report opens in a real browser without a network, in both colour schemes, on a screen and on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.analysis.layered import layered
from tests.kernels import with_kernels
from tests.report.pages import drawn
from tests.report.test_page import HOSTILE, renamed
from tests.synthetic import WARMED, Shape, recording
from tests.ui.report_page import Opened, open_page

pytestmark = pytest.mark.ui

THREE = (Shape(role=WARMED), Shape(steps=8), Shape(steps=8, vision_inside=True))
CHARTS = ("timeline", "ttft", "itl", "layers-0", "layers-1", "layers-2", "lead", "busy", "longest")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page") / "report.html"
    made.write_text(drawn(with_kernels(layered(*THREE)), recording(*THREE, device=None)))
    return made


def assert_sound(opened: Opened) -> None:
    assert opened.errors == ()
    assert opened.requests == ()
    assert opened.wide == ()
    assert opened.marks
    assert all(opened.marks.values()), opened.marks


@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_is_drawn_and_nothing_is_asked_of_the_network(page: Path, scheme: str, width: int) -> None:
    opened = open_page(page, f"report-{scheme}-{width}.png", "--scheme", scheme, "--width", str(width))
    assert_sound(opened)
    assert list(opened.marks) == [*(f"t1-{name}" for name in CHARTS), "t2-timeline", "t2-ttft", "t2-itl"]
    assert opened.marks["t1-timeline"] >= 2 * 8, "a bar for each step, and for its launch"
    with Image.open(opened.picture) as picture:
        assert picture.width == width
        red, green, blue = picture.convert("RGB").resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    assert (red + green + blue > 3 * 128) == (scheme == "light")


def test_text_in_charts_takes_the_colour_of_the_scheme(page: Path) -> None:
    light, dark = (open_page(page, f"ink-{scheme}.png", "--scheme", scheme) for scheme in ("light", "dark"))
    assert light.ink != dark.ink
    assert light.background != dark.background


def test_charts_change_with_the_scheme_while_the_page_is_open(page: Path) -> None:
    opened = open_page(page, "changed.png", "--scheme", "light", "--then", "dark")
    assert opened.ink == open_page(page, "dark.png", "--scheme", "dark").ink


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_do_nothing_in_a_browser(text: str, tmp_path: Path) -> None:
    made = tmp_path / "hostile.html"
    made.write_text(drawn(renamed(with_kernels(layered(*THREE)), text)))
    assert_sound(open_page(made, "hostile.png", "--width", "420"))


def test_a_page_that_does_ask_is_seen_to_ask(tmp_path: Path) -> None:
    """What proves that no request means none."""
    made = tmp_path / "asks.html"
    made.write_text("<html data-drawn='0'><body><main><img src='http://127.0.0.1:9/x.png'></main></body></html>")
    opened = open_page(made, "asks.png")
    assert opened.requests == ("http://127.0.0.1:9/x.png",)
    assert opened.errors
