"""A stand-in for an installation of Nsight Systems: programs that take the same words and leave the same files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

__all__ = ["PROFILE_OPTIONS", "install"]

PROFILE_OPTIONS: Final = (
    "--trace", "--sample", "--cpuctxsw", "--capture-range", "--nvtx-capture", "--capture-range-end",
    "--cuda-graph-trace", "--trace-fork-before-exec", "--force-overwrite", "--output", "--kill",
)  # fmt: skip

_NSYS: Final = """#!{python}
import json, os, signal, subprocess, sys

version, leaves, passes_interrupt_on = {version!r}, {leaves!r}, {passes_interrupt_on!r}
words = sys.argv[1:]
if words == ["--version"]:
    print(f"NVIDIA Nsight Systems version {{version}}.90-253135822126v0")
    sys.exit()
switch, options = words.pop(0), {{}}
known = {{"profile": {known!r}, "export": ("--type", "--output", "--force-overwrite")}}[switch]
while words[0].startswith("-"):
    name, _, value = words.pop(0).partition("=")
    if name not in known or name in options:
        sys.exit(f"option {{name}} is unknown or was given twice")
    options[name] = value
output = options["--output"]
if switch == "export":
    if leaves == "failure":
        sys.exit("no report that can be read")
    with open(output, "w") as export, open(words[0]) as report:
        export.write("exported " + report.read())
    sys.exit()
output = output.replace("%%", "%")
if os.path.exists(output + ".nsys-rep") and "--force-overwrite" not in options:
    sys.exit(output + " exists")
print("Collecting data...", flush=True)
if leaves == "failure":
    sys.exit("nsys cannot do that")
told, tells = os.pipe()
os.set_blocking(told, False)
os.set_blocking(tells, False)
signal.set_wakeup_fd(tells)  # a byte for each signal, also where Python calls its handler once for several
def interrupted(*_):
    if passes_interrupt_on:
        process.send_signal(signal.SIGINT)
signal.signal(signal.SIGINT, interrupted)
process = subprocess.Popen(words, env=os.environ | {{"NSYS_PROFILING_SESSION_ID": "1"}})
code = process.wait()
os.write(tells, b"\\0")
interrupts = len(os.read(told, 100)) - 1
found = {{"options": options, "program": words, "interrupts": interrupts}}
if leaves != "nothing":
    with open(output + {{"report": ".nsys-rep", "raw": ".qdstrm"}}[leaves], "w") as report:
        json.dump(found, report)
    print("Generated:\\n    " + output, flush=True)
sys.exit(code or int(leaves == "raw"))
"""

_IMPORTER: Final = """#!{python}
import os, sys
given, output = sys.argv[2], sys.argv[4]
if {fails!r}:
    sys.exit({fails!r})
if os.path.exists(output):
    sys.exit(output + " exists")
if os.environ["LD_LIBRARY_PATH"].split(":")[0] != os.path.dirname(os.path.abspath(sys.argv[0])):
    sys.exit("cannot find my own libraries")
with open(output, "w") as report, open(given) as raw:
    report.write(raw.read())
"""


def install(
    home: Path,
    *,
    version: str = "2025.3.1",
    leaves: str = "report",
    importer: str | None = None,
    has_importer: bool = True,
    passes_interrupt_on: bool = False,
) -> Path:
    """Make an installation in ``home`` and answer its ``nsys``.

    ``leaves`` is what a recording makes: ``report``, ``raw`` (its importer could not be run), ``nothing`` (the range
    never opened) or ``failure``. ``importer`` is what the importer says while it fails; without, it does not.
    """
    nsys = home / "target-linux-x64" / "nsys"
    text = _NSYS.format(
        python=sys.executable,
        version=version,
        leaves=leaves,
        passes_interrupt_on=passes_interrupt_on,
        known=PROFILE_OPTIONS,
    )
    _write(nsys, text)
    if has_importer:
        _write(home / "host-linux-x64" / "QdstrmImporter", _IMPORTER.format(python=sys.executable, fails=importer))
    (home / "bin").mkdir(exist_ok=True)
    (home / "bin" / "nsys").symlink_to("../target-linux-x64/nsys")
    return home / "bin" / "nsys"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
