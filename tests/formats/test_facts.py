"""What the instant `recording` tells a person who clicks on it."""

from __future__ import annotations

from dataclasses import replace

from tests import synthetic
from tests.kernels import with_kernels
from vlmtrace.formats.facts import facts


def test_a_recording_without_kernels_tells_of_none() -> None:
    made = facts(synthetic.recording(), 3)
    assert "kernels" not in made
    assert made["generations"] == len(synthetic.recording().generations)
    assert made["findings"] == 3


def test_a_paired_one_tells_who_saw_its_kernels_and_how_far_to_trust_them() -> None:
    paired = with_kernels(synthetic.recording())
    assert paired.pairing is not None
    known = replace(paired.pairing, product="2025.3", report="mine.nsys-rep", bound_ns=4_000, unattributed={"early": 2})
    assert facts(replace(paired, pairing=known), 0)["kernels"] == {
        "seen by": f"{known.tool} 2025.3",
        "report": "mine.nsys-rep",
        "kernels": known.kernels,
        "clock bound (ns)": 4_000,
        "in no stage": {"early": 2},
    }


def test_kernels_that_all_have_a_stage_need_no_word_about_others() -> None:
    paired = with_kernels(synthetic.recording())
    assert paired.pairing is not None
    told = facts(replace(paired, pairing=replace(paired.pairing, unattributed={})), 0)["kernels"]
    assert isinstance(told, dict)
    assert "in no stage" not in told
