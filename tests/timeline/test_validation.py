"""What a recording may not say of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.synthetic import recording
from vlmtrace.errors import InvalidRecordingError
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import SyncSite
from vlmtrace.timeline.validation import validate


def test_synchronisations_without_an_audited_generation_are_a_contradiction() -> None:
    seen = replace(recording(), syncs=(SyncSite("a.py", 1, "f", names.PREFILL, 1),))
    with pytest.raises(InvalidRecordingError, match="no generation was audited"):
        validate(seen)
    assert validate(replace(seen, audited=1)).audited == 1


def test_an_audit_may_have_seen_nothing() -> None:
    assert validate(replace(recording(), audited=2)).syncs == ()
