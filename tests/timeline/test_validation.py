"""What a recording may not say of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.synthetic import recording
from vlmtrace.errors import InvalidRecordingError
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Lowered, OverheadPair, SyncSite
from vlmtrace.timeline.validation import validate


def test_synchronisations_without_an_audited_generation_are_a_contradiction() -> None:
    seen = replace(recording(), syncs=(SyncSite("a.py", 1, "f", names.PREFILL, 1),))
    with pytest.raises(InvalidRecordingError, match="no generation was audited"):
        validate(seen)
    assert validate(replace(seen, audited=1)).audited == 1


@pytest.mark.parametrize("pair", [OverheadPair(0, 1), OverheadPair(1, 0), OverheadPair(-5, 5)])
def test_a_request_that_took_no_time_is_no_half_of_an_overhead_pair(pair: OverheadPair) -> None:
    with pytest.raises(InvalidRecordingError, match="overhead pair 1 has a generate"):
        validate(replace(recording(), overhead=(OverheadPair(1, 1), pair)))


def test_a_detail_is_lowered_from_a_finer_one() -> None:
    lowered = Lowered("layer", 2, 100, 10_000)
    assert validate(replace(recording(detail="module"), lowered=lowered)).lowered == lowered
    for detail, wrong in (("layer", lowered), ("module", replace(lowered, asked="stage")), ("other", lowered)):
        with pytest.raises(InvalidRecordingError, match="which is no step down"):
            validate(replace(recording(detail=detail), lowered=wrong))
    with pytest.raises(InvalidRecordingError, match="took no time"):
        validate(replace(recording(detail="module"), lowered=replace(lowered, generate_ns=0)))


def test_an_audit_may_have_seen_nothing() -> None:
    assert validate(replace(recording(), audited=2)).syncs == ()
