"""Examine every way and put what was found beside what other transformers versions showed: ``ways.json``.

python -m tests.ways docs/data/cpu-2026-11-23/ways.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import transformers
from rich.progress import track

from tests.ways.examination import examine
from tests.ways.ways import WAYS


def main(path: Path) -> int:
    known = json.loads(path.read_text()) if path.exists() else {}
    found = {name: examine(way) for name, way in track(WAYS.items(), "ways")}
    known[transformers.__version__] = {name: result.right() for name, result in found.items()}
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    wrong = {name: result.wrong for name, result in found.items() if not all(result.right().values())}
    sys.stdout.write(json.dumps(wrong, indent=1) + "\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
