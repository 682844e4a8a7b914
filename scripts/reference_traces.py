#!/usr/bin/env python3
"""Records the reference traces anew, each by ``vlmtrace record`` in a process of its own.

    scripts/reference_traces.py [--out traces] [NAME ...]      on a machine with a GPU; without names: all of them

A trace is called after what it shows and the transformers that ran: run this once in each environment. One that fails,
or is too large for the repository, is not kept, and the exit code is 1. The paired one needs Nsight Systems. The tests
hold every trace that is kept against Perfetto's importer.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 1_000_000
"""Bytes that a trace may have."""

FAMILIES = ("qwen3-vl-8b", "internvl3-8b", "gemma3-4b", "idefics3-8b", "mllama-11b")


@dataclass(frozen=True)
class Reference:
    """What ``vlmtrace record`` is asked for, and ``scripts/random_vlm.py`` under it; without that: as it is asked."""

    record: tuple[str, ...]
    program: tuple[str, ...] = ()

    @property
    def paired(self) -> bool:
        return "--nsys" in self.record

    def commands(self, made: Path, folder: Path) -> list[list[str]]:
        """What to run, one after the other, so that ``made`` is there."""
        vlmtrace = [sys.executable, "-m", "vlmtrace"]
        seen = folder / made.name if self.paired else made
        program = ["--", "scripts/random_vlm.py", *self.program] if self.program else []
        commands = [[*vlmtrace, "record", *self.record, "-o", str(seen), *program]]
        if self.paired:
            commands.append([*vlmtrace, "pair", str(seen), str(seen.with_suffix(".nsys-rep")), "-o", str(made)])
        return commands


def _of(shape: str, repeats: int, *more: str) -> tuple[str, ...]:
    return "--shape", shape, "--repeats", str(repeats), *more


RANDOM = "--random-weights"
REFERENCES: dict[str, Reference] = {
    **{
        f"{shape}-{detail}": Reference((RANDOM, "--detail", detail), _of(shape, repeats))
        for shape in ("qwen2.5-vl-7b", "llava-1.5-7b")
        for detail, repeats in (("stage", 8), ("layer", 6))
    },
    **{f"{shape}-module": Reference((RANDOM, "--detail", "module"), _of(shape, 6)) for shape in FAMILIES},
    "qwen2.5-vl-7b-compiled": Reference((RANDOM,), _of("qwen2.5-vl-7b", 10, "--cache", "static")),
    "demo-kernels": Reference(("--demo", "--device", "cuda", "--kernels", "--max-new-tokens", "8")),
    "qwen2.5-vl-0.5b-paired": Reference(
        (RANDOM, "--nsys", "--nsys-arg=--cuda-graph-trace=node"),
        _of("qwen2.5-vl-0.5b", 5, "--max-new-tokens", "4", "--cache", "static"),
    ),
}
"""Every trace by its name: two families at two details, others by module, and one compiled, one with kernels seen by
torch.profiler, and one paired with Nsight Systems, in which CUDA graphs show their kernels."""


def transformers_version() -> str:
    import transformers

    return ".".join(transformers.__version__.split(".")[:2])


def record(name: str, out: Path, version: str) -> str | None:
    """Make one trace; what is wrong, or nothing."""
    made = out / f"{name}-transformers-{version}.pftrace"
    with tempfile.TemporaryDirectory(prefix="reference-") as folder:
        new = Path(folder) / "made" / made.name
        new.parent.mkdir()
        for command in REFERENCES[name].commands(new, Path(folder)):
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"{name}: exit code {done.returncode} of {' '.join(command[2:])}\n{done.stderr.strip()[-2000:]}"
        size = new.stat().st_size
        if size > LARGEST:
            return f"{name}: {size:,} bytes, more than {LARGEST:,}"
        made.write_bytes(new.read_bytes())
    print(f"{made}: {size:,} bytes", flush=True)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(REFERENCES))
    parser.add_argument("--out", type=Path, default=ROOT / "traces")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(REFERENCES))
    if unknown:
        parser.error(f"no such trace: {', '.join(unknown)}; there are {', '.join(REFERENCES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    version = transformers_version()
    problems = [said for name in options.names or REFERENCES if (said := record(name, options.out, version))]
    for said in problems:
        print(said, file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
