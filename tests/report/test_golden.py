"""What summaries and plans look like, to the letter."""

from __future__ import annotations

import pytest

from tests.report.goldens import FOLDER, texts

AGAIN = "if this is meant: python -m tests.report.goldens, and read the difference"


@pytest.mark.parametrize("name", sorted(texts()))
def test_a_text_looks_as_it_did(name: str) -> None:
    assert texts()[name] == (FOLDER / name).read_text(encoding="utf-8"), AGAIN


def test_no_golden_text_is_left_over() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(texts())
