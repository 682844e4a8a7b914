"""When a device was busy."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vlmtrace.analysis.busy import Busy

SPOTS = st.integers(-3, 40)


@given(st.lists(st.tuples(SPOTS, st.integers(0, 9))), SPOTS, SPOTS)
def test_it_is_busy_in_every_nanosecond_in_which_something_runs(
    ran: list[tuple[int, int]], begin: int, end: int
) -> None:
    busy = Busy()
    covered: set[int] = set()
    for start, length in sorted(ran):
        busy.add(start, start + length)
        covered.update(range(start, start + length))
    assert busy.within(begin, end) == len(covered.intersection(range(begin, end)))


def test_a_device_that_ran_nothing_was_never_busy() -> None:
    assert Busy().within(0, 10) == 0


def test_asking_before_the_last_operation_is_told_does_no_harm() -> None:
    busy = Busy()
    busy.add(0, 2)
    assert busy.within(0, 10) == 2
    busy.add(5, 6)
    assert busy.within(0, 10) == 3
