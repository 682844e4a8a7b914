"""What holds for every test: nothing is left behind in the process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.leftovers import leftovers, snapshot


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """Fail a test after which the process is not as it was before: see :mod:`tests.leftovers`."""
    before = snapshot()
    yield
    found = leftovers(before)
    assert not found, "left behind: " + "; ".join(found)
