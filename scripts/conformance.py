#!/usr/bin/env python3
"""Holds what vlmtrace tells of every vision-language model type of transformers against what really ran.

    scripts/conformance.py                         every type that the installed transformers knows, and molmo_layout,
                                                   whose code comes from a folder as Molmo's does
    scripts/conformance.py llava qwen3_vl          these
    scripts/conformance.py --json OUT.json         keep the result too

Each type is built tiny, with random weights, on the CPU. Its real generate() runs four times under torch's global
module hooks, which know nothing of vlmtrace: as it is, with another image, with other words, and traced. What changes
with the image alone is the vision part; the forwards of the model whose token loop ran are prefill and steps. The exit
status is 1 where anything that vlmtrace told, or did not tell, differs from that and it does not say so, and where a
type cannot be built.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import transformers  # noqa: E402

from tests.conformance.check import COLUMNS, NEW, Verdicts, check  # noqa: E402
from tests.tiny.models import LEFT_OUT, build, buildable  # noqa: E402
from tests.tiny.shrinking import known_types  # noqa: E402


def main() -> int:
    options = _options()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    began = time.time()
    found: dict[str, Verdicts] = {}
    print(f"{'':24}", *(f"{column:9}" for column in COLUMNS), "vision ran")
    failed: dict[str, str] = {}
    for kind in options.types or buildable():
        try:
            tiny = build(kind)
            tiny.generate(NEW)
        except Exception as error:  # whatever this version of transformers says of it, without vlmtrace
            failed[kind] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            print(f"{kind:24} cannot be built or does not generate: {failed[kind][:160]}", flush=True)
            continue
        found[kind] = made = check(tiny)
        print(f"{kind:24}", *(f"{getattr(made, column):9}" for column in COLUMNS), made.when or "never", flush=True)
        for problem in made.problems:
            print(f"{'':24} ! {problem}", flush=True)
    wrong = [kind for kind, made in found.items() if made.problems]
    print(f"{len(found) - len(wrong)} of {len(found)} right with transformers {transformers.__version__}", end="")
    print(f"; {len(failed)} could not be built" if failed else "")
    print(f"{time.time() - began:.0f} s", file=sys.stderr)
    if options.json is not None:
        options.json.write_text(json.dumps(_document(found, failed, options.date), indent=1) + "\n", encoding="utf-8")
        print(f"Wrote {options.json}", file=sys.stderr)
    return int(bool(wrong or failed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", metavar="TYPE", nargs="*", help="a model type (default: every one)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="a file for the result")
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d", time.gmtime()), help="the date to write (today)")
    options = parser.parse_args()
    for kind in options.types:
        if kind in LEFT_OUT:
            parser.error(f"'{kind}' is left out: {LEFT_OUT[kind]}")
        if kind not in buildable():
            parser.error(f"'{kind}' is no model type of transformers {transformers.__version__} that takes images")
    if options.json is not None and not options.json.parent.is_dir():
        parser.error(f"--json: the folder '{options.json.parent}' does not exist")
    return options


def _document(found: dict[str, Verdicts], failed: dict[str, str], date: str) -> dict[str, Any]:
    return {
        "command": " ".join(("scripts/conformance.py", *_words(sys.argv[1:]))),
        "date": date,
        "machine": f"{platform.machine()}, CPU",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "types": {kind: made.as_json() for kind, made in found.items()},
        "not_built": failed,
        "left_out": {kind: reason for kind, reason in LEFT_OUT.items() if kind in known_types()},
    }


def _words(arguments: Sequence[str]) -> list[str]:
    return [word for word in arguments if not word.startswith("/")]


if __name__ == "__main__":
    sys.exit(main())
