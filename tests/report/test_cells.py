"""Numbers and foreign names as text."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmtrace.report.cells import clean, fixed, percent, range_text, significant, summands


@pytest.mark.parametrize("hostile", ["\x1b[31mred", "\x9b2J", "a\nb", "\u202eevil", "\ud800", "\x00", "a\u2028b"])
def test_nothing_that_acts_on_a_terminal_is_left_of_a_name(hostile: str) -> None:
    shown = clean(hostile)
    assert "�" in shown
    assert shown.isprintable()
    assert shown.encode()


def test_a_name_in_any_script_is_left_as_it_is() -> None:
    assert clean("模型 é 🦊 [bold]") == "模型 é 🦊 [bold]"


def test_a_very_long_name_is_cut() -> None:
    assert clean("x" * 1_000_000) == "x" * 63 + "…"


@given(st.text())
def test_any_text_becomes_one_printable_line(text: str) -> None:
    shown = clean(text)
    assert len(shown.splitlines()) <= 1
    assert len(shown) <= 64
    assert shown.encode().decode() == shown


def test_an_absent_figure_is_a_dash_and_never_0() -> None:
    assert fixed(None, 1_000_000, 1) == "–"
    assert fixed(0, 1_000_000, 1) == "0.0"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1_250, "1,250"),
        (93, "93.0"),
        (29.41, "29.4"),
        (4.346, "4.35"),
        (0.01234, "0.0123"),
        (0, "0"),
        (1e-9, "0.00000000100"),
    ],
)
def test_three_significant_digits_are_shown_without_an_exponent(value: float, text: str) -> None:
    assert significant(value) == text


def test_a_share_is_a_percentage_and_the_whole_has_no_decimals() -> None:
    assert [percent(share) for share in (1.0, 0.8461, 0.0, None)] == ["100 %", "84.6 %", "0.0 %", ""]


def test_a_count_that_varied_is_a_range() -> None:
    assert [range_text((31, 31)), range_text((12, 1_031))] == ["31", "12–1,031"]


def test_the_printed_parts_add_up_where_rounding_each_would_not() -> None:
    assert summands([1_040, 1_040, 1_040, 1_040], 1_000, 1) == (["1.1", "1.1", "1.0", "1.0"], "4.2")


@given(st.lists(st.integers(0, 10**13), min_size=1, max_size=6), st.integers(1, 3))
def test_printed_parts_add_up_to_the_printed_sum_digit_for_digit(parts: list[int], decimals: int) -> None:
    texts, total = summands(parts, 1_000_000, decimals)
    assert sum(map(Decimal, texts)) == Decimal(total)
    last_digit = Decimal(1).scaleb(-decimals)
    for part, text in zip(parts, texts, strict=True):
        assert abs(Decimal(text) - Decimal(part) / 1_000_000) <= last_digit
