"""An HTML report in headless Chromium, driven by ``open-page`` beside this file: what it draws and asks for."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.ui.perfetto_ui import PICTURES

__all__ = ["Opened", "open_page"]

PROGRAM = Path(__file__).with_name("open-page")


@dataclass(frozen=True)
class Opened:
    """What came of opening a page: ``marks`` counts what is drawn in each chart, by its id; ``ink`` are the colours of
    their text. ``requests`` are the addresses that were asked for, ``wide`` what reaches beyond the window."""

    title: str
    background: str
    marks: dict[str, int]
    ink: frozenset[str]
    errors: tuple[str, ...]
    requests: tuple[str, ...]
    wide: tuple[str, ...]
    picture: Path


def open_page(page: Path, picture: str, *options: str) -> Opened:
    """Open ``page`` from the disk, without a network, and leave the picture ``picture`` under :data:`PICTURES`."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    out = PICTURES / picture
    out.unlink(missing_ok=True)
    command = [str(PROGRAM), str(page), str(out), "--full", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return Opened(
        title=answer["title"],
        background=answer["background"],
        marks={chart["id"]: chart["marks"] for chart in answer["charts"]},
        ink=frozenset(chart["ink"] for chart in answer["charts"] if chart["ink"]),
        errors=tuple(answer["errors"]),
        requests=tuple(answer["requests"]),
        wide=tuple(answer["wide"]),
        picture=out,
    )
