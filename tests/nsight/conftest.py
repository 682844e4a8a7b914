"""The real export, unpacked once."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

PACKED = Path(__file__).with_name("data") / "h100-tiny-qwen2.5-vl.sqlite.gz"


@pytest.fixture(scope="session")
def real_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of Nsight Systems from an H100, as it was exported: see the README beside it. Only to be read."""
    path = tmp_path_factory.mktemp("nsight") / "h100-tiny-qwen2.5-vl.sqlite"
    path.write_bytes(gzip.decompress(PACKED.read_bytes()))
    path.chmod(0o444)
    return path
