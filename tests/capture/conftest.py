"""What tests of capture share: a device whose time is made up, under every recorder of a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.capture.fakes import Fake
from vlmtrace.capture import lanes, recorder, tape


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    made = Fake()
    monkeypatch.setattr(recorder, "cuda_index", lambda _device: 0)
    monkeypatch.setattr(lanes, "clock_of", lambda _device: made.device)
    monkeypatch.setattr(lanes, "settle_device", lambda _device: None)
    monkeypatch.setattr(lanes, "monotonic_ns", made.host.now)
    monkeypatch.setattr(tape, "monotonic_ns", made.host.now)
    yield made
    assert not made.device.alive, "events are left on the device"
