"""The wheel: what it holds, and that installing it leaves somebody's torch as it was."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.packaging.environments import Environment, stand_in_wheel

pytestmark = pytest.mark.package

ROOT = Path(__file__).parents[2]

TORCHES = {
    "a release older than any we test": "2.4.1",
    "a vendor's build of a pre-release": "2.6.0a0+ecf3bae40a.nv25.1",
    "a build for a processor": "2.13.0+cpu",
    "a nightly build": "2.14.0.dev20261101+cu130",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a release would build it: in isolation, from what the build system declares."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("vlmtrace-*.whl")
    return built


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata_of(wheel: Path) -> dict[str, list[str]]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        message = Parser().parsestr(archive.read(name).decode())
    return {key: [str(value) for value in message.get_all(key, [])] for key in set(message.keys())}


def test_it_holds_every_module_the_type_marker_and_the_licence_and_nothing_else(wheel: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "vlmtrace"], capture_output=True, text=True, check=True, cwd=ROOT)
    tracked = set(listed.stdout.split())
    names = names_in(wheel)
    assert "vlmtrace/py.typed" in tracked
    assert tracked <= names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"vlmtrace"}


def test_its_version_is_the_one_in_pyproject(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert metadata_of(wheel)["Version"] == [project["version"]]


def test_it_asks_for_torch_only_in_an_extra_and_for_no_release_of_it(wheel: Path) -> None:
    requirements = [line for line in metadata_of(wheel)["Requires-Dist"] if line.startswith("torch")]
    assert sorted(requirements) == ["torch; extra == 'record'", "torchvision; extra == 'vision'"]


@pytest.mark.parametrize("version", TORCHES.values(), ids=TORCHES.keys())
def test_with_the_record_extra_pip_would_keep_the_torch_that_is_there(
    wheel: Path, version: str, tmp_path: Path
) -> None:
    environment = Environment(tmp_path / "venv")
    environment.install("--no-deps", str(stand_in_wheel(tmp_path, "torch", version)))
    changes = environment.would_install(f"{wheel}[record]")
    assert {"vlmtrace", "transformers"} <= changes.keys(), "the report tells what would be installed"
    assert "torch" not in changes
    assert not [name for name in changes if name.startswith(("nvidia", "triton"))]


def test_with_the_record_extra_pip_would_change_nothing_of_this_environment_but_vlmtrace(wheel: Path) -> None:
    here = Environment(Path(sys.prefix))
    assert here.would_install(f"{wheel}[record]").keys() <= {"vlmtrace"}


def test_installed_beside_a_torch_it_leaves_each_file_of_it_alone_and_reads_traces(wheel: Path, tmp_path: Path) -> None:
    from tests.synthetic import recording
    from vlmtrace import formats

    environment = Environment(tmp_path / "venv")
    environment.install("--no-deps", str(stand_in_wheel(tmp_path, "torch", "2.6.0a0+ecf3bae40a.nv25.1")))
    before = environment.files_of("torch")
    environment.install(str(wheel))
    environment.check()
    assert before
    assert environment.files_of("torch") == before
    trace = tmp_path / "tiny.pftrace"
    trace.write_bytes(b"".join(formats.write(recording(), ".pftrace")))
    assert "prefill" in environment.run("vlmtrace", "summary", str(trace))
