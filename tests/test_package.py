"""The package as a user meets it: what importing it needs, costs and says."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORD_ONLY = ("torch", "transformers", "PIL", "accelerate", "torchvision")
"""What only recording may need; reading, comparing and viewing run without."""

REFUSE = f"""
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {RECORD_ONLY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""


def run_without_the_record_extra(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", REFUSE + program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_refusing_finder_refuses_so_that_the_tests_below_can_fail() -> None:
    program = "try:\n    import torch\nexcept ModuleNotFoundError as error:\n    print(error.name)"
    assert run_without_the_record_extra(program) == "torch\n"


def test_the_package_imports_without_what_only_recording_needs() -> None:
    assert run_without_the_record_extra("import vlmtrace; print(vlmtrace.__name__)") == "vlmtrace\n"


@pytest.mark.parametrize("suffix", [".pftrace", ".json", ".json.gz"])
def test_a_trace_is_read_and_summed_up_without_what_only_recording_needs(suffix: str, tmp_path: Path) -> None:
    from tests.synthetic import recording
    from vlmtrace import formats

    path = tmp_path / f"tiny{suffix}"
    path.write_bytes(b"".join(formats.write(recording(), suffix)))
    program = "import sys, vlmtrace; print(len(vlmtrace.load(sys.argv[1]).generations))"
    assert run_without_the_record_extra(program, str(path)) == "1\n"
    program = "import runpy, sys; sys.argv[1:1] = ['summary']; runpy.run_module('vlmtrace', run_name='__main__')"
    assert "prefill" in run_without_the_record_extra(program, str(path))


def test_importing_the_package_loads_nothing_heavy_although_it_is_there() -> None:
    """Fast is what is not imported: no time is taken here, modules are counted."""
    heavy = {*RECORD_ONLY, "numpy", "perfetto", "google.protobuf", "rich", "click", "nvtx", "asyncio"}
    program = f"import sys, vlmtrace; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"


def test_the_version_is_the_one_in_pyproject() -> None:
    import vlmtrace

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert vlmtrace.__version__ == project["version"]


def test_every_public_name_is_there() -> None:
    import vlmtrace

    assert [name for name in vlmtrace.__all__ if not hasattr(vlmtrace, name)] == []


def test_the_changelog_speaks_of_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] in (ROOT / "CHANGELOG.md").read_text()


def test_plain_requirements_name_neither_torch_nor_transformers() -> None:
    requires = metadata.requires("vlmtrace") or []
    plain = [line for line in requires if "extra ==" not in line]
    assert plain
    assert not [line for line in plain if line.startswith(RECORD_ONLY)]
