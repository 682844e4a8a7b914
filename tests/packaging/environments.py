"""Virtual environments to install into, and stand-ins for packages that are too large to install for a test."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

__all__ = ["Environment", "stand_in_wheel"]


class Environment:
    """A virtual environment without a pip of its own, worked on by the pip of the environment that runs the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        if not self.python.exists():
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)

    @property
    def packages(self) -> Path:
        base = str(self.folder)
        return Path(sysconfig.get_path("purelib", vars={"base": base, "platbase": base}))

    def install(self, *requirements: str) -> None:
        self._pip("install", *requirements)

    def would_install(self, *requirements: str) -> dict[str, str]:
        """Name → version of everything that pip would put in place; nothing is changed."""
        report: dict[str, Any] = json.loads(self._pip("install", "--dry-run", "--report", "-", *requirements))
        metadata = [item["metadata"] for item in report["install"]]
        return {item["name"].lower(): item["version"] for item in metadata}

    def check(self) -> None:
        """Every installed package's requirements are met."""
        self._pip("check")

    def run(self, *command: str) -> str:
        """What a program of the environment prints; nothing of this process's environment leads it elsewhere."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        program = [str(self.folder / "bin" / command[0]), *command[1:]]
        done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=self.folder, env=clean)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def files_of(self, package: str) -> dict[str, str]:
        """Path → SHA-256 of the files of a package and of its metadata."""
        found = [
            path
            for top in self.packages.glob(f"{package}*")
            for path in ([top] if top.is_file() else top.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        ]
        return {
            str(path.relative_to(self.packages)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(found)
        }

    def _pip(self, *arguments: str) -> str:
        options = ["--quiet", "--disable-pip-version-check", "--no-input"]
        command = [sys.executable, "-m", "pip", "--python", str(self.python), *arguments, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"pip {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout


def stand_in_wheel(folder: Path, name: str, version: str) -> Path:
    """A wheel that pip takes for that release of ``name``; its one module knows only its version."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{path},sha256={_digest(text)},{len(text)}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""])
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
