"""The GPU sampler against a module that passes for NVML: what it asks, what it keeps, and that its thread ends."""

from __future__ import annotations

import sys
import threading
import types
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import vlmtrace
from tests.models import build
from vlmtrace.capture import device_state, gpu_sampler
from vlmtrace.capture.gpu_sampler import QUANTITIES, GpuSampler, check
from vlmtrace.capture.recorder import Recorder, RecorderOptions
from vlmtrace.errors import UsageError

NAMES = [name for name, _, _ in QUANTITIES]
PATIENCE = 30


class FakeNvml(types.ModuleType):
    """As much of ``pynvml`` as is asked, with every call counted; ``enough`` is set after ``wanted`` whole samples."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.calls: Counter[str] = Counter()
        self.refused: set[str] = set()
        self.wanted = 3
        self.enough = threading.Event()
        self.threads: set[str] = set()
        self.broken = False

    def nvmlInit(self) -> None:
        self.calls["init"] += 1

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> str:
        self.calls["handle"] += 1
        return f"handle of {uuid.decode()}"

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return types.SimpleNamespace(gpu=self._answer("utilisation", handle))

    def nvmlDeviceGetClockInfo(self, handle: str, _which: int) -> int:
        return self._answer("SM clock", handle)

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return self._answer("power", handle)

    def nvmlDeviceGetTemperature(self, handle: str, _which: int) -> int:
        return self._answer("temperature", handle)

    def _answer(self, what: str, handle: str) -> int:
        assert handle == "handle of GPU-abc"
        self.threads.add(threading.current_thread().name)
        self.calls[what] += 1
        if self.calls[what] >= self.wanted:
            self.enough.set()
        if self.broken:
            raise OSError("gone")
        if what in self.refused:
            raise self.NVMLError("not supported")
        return 100 * self.calls[what] + len(what)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    made = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(uuid="abc"))
    device_state.nvml_of.cache_clear()
    yield made
    device_state.nvml_of.cache_clear()


def sampling() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "sampler" in thread.name]


def test_each_quantity_is_asked_once_a_sample_and_kept_with_its_time(nvml: FakeNvml) -> None:
    sampler = GpuSampler(100)
    sampler.watch(0)
    begin = gpu_sampler.monotonic_ns()
    sampler.start()
    assert nvml.enough.wait(PATIENCE)
    sampler.stop()
    end = gpu_sampler.monotonic_ns()

    assert sampling() == []
    counters = list(sampler.counters())
    assert [one.name for one in counters] == NAMES
    assert [one.unit for one in counters] == ["%", "MHz", "mW", "°C"]
    for one in counters:
        assert one.device == 0
        assert list(one.values) == [100 * at + len(one.name) for at in range(1, sampler.samples + 1)]
        assert list(one.times) == sorted(one.times)
        assert begin <= one.times[0] <= one.times[-1] <= end
    assert {nvml.calls[name] for name in NAMES} == {sampler.samples}
    assert nvml.calls["handle"] == 1
    assert 0 < sampler.host_ns < end - begin
    assert nvml.threads == {"vlmtrace GPU sampler"}


def test_its_cost_is_the_time_in_its_samples() -> None:
    ticks = iter(range(0, 10_000, 10))
    nvml = FakeNvml()
    sampler = GpuSampler(100, now=lambda: next(ticks))
    sampler._devices[0] = gpu_sampler._Device(nvml, "handle of GPU-abc")
    nvml.wanted = 1
    sampler.start()
    assert nvml.enough.wait(PATIENCE)
    sampler.stop()
    # Two readings for each of the four quantities lie between that at the begin and that at the end.
    assert sampler.host_ns == sampler.samples * 90


def test_what_a_device_does_not_answer_is_not_asked_again(nvml: FakeNvml) -> None:
    nvml.refused = {"power", "SM clock"}
    sampler = GpuSampler(100)
    sampler.watch(0)
    sampler.start()
    assert nvml.enough.wait(PATIENCE)
    sampler.stop()
    assert nvml.calls["power"] == nvml.calls["SM clock"] == 1
    assert [one.name for one in sampler.counters()] == ["utilisation", "temperature"]


def test_the_thread_ends_by_itself_where_nothing_is_left_to_ask(nvml: FakeNvml) -> None:
    nvml.refused = set(NAMES)
    sampler = GpuSampler(100)
    sampler.watch(0)
    sampler.start()
    (thread,) = sampling() or [threading.Thread()]
    if thread.ident is not None:
        thread.join(PATIENCE)
    assert sampling() == []
    sampler.stop()
    assert list(sampler.counters()) == []
    assert {nvml.calls[name] for name in NAMES} == {1}


def test_a_device_that_nvml_does_not_know_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_sampler, "nvml_of", lambda _: (None, None))
    sampler = GpuSampler(100)
    sampler.watch(0)
    sampler.start()
    sampler.stop()
    assert (sampler.samples, list(sampler.counters())) == (0, [])


def test_it_can_be_started_and_stopped_again_and_again(nvml: FakeNvml) -> None:
    sampler = GpuSampler(100)
    sampler.stop()
    sampler.watch(0)
    for _ in range(3):
        sampler.start()
        sampler.start()
        assert len(sampling()) == 1
        sampler.stop()
        assert sampling() == []


def test_a_recording_samples_while_it_runs_and_tells_what_it_cost(nvml: FakeNvml, tmp_path: Path) -> None:
    tiny = build("llava")
    made = Recorder(RecorderOptions("tiny", sample_gpu=100), [tiny.model])
    assert made.sampler is not None
    with made:
        assert len(sampling()) == 1
        made.sampler.watch(0)
        tiny.model.generate(**tiny.inputs, max_new_tokens=2, do_sample=False)
        assert nvml.enough.wait(PATIENCE)
    assert sampling() == []
    recording = made.finish()

    assert [one.name for one in recording.counters][-len(NAMES) :] == NAMES
    assert recording.cost.samples == made.sampler.samples >= nvml.wanted
    assert recording.cost.sampling_ns == made.sampler.host_ns
    assert f"GPU sampled {recording.cost.samples} times, " in " ".join(vlmtrace.render(recording).split())
    assert vlmtrace.load(vlmtrace.save(recording, tmp_path / "t.pftrace")) == recording


def test_an_error_of_another_kind_ends_the_thread_and_is_told(nvml: FakeNvml) -> None:
    nvml.broken, nvml.wanted = True, 1
    tiny = build("llava")
    made = Recorder(RecorderOptions("tiny", sample_gpu=100), [tiny.model])
    assert made.sampler is not None
    with made:
        made.sampler.watch(0)
        assert nvml.enough.wait(PATIENCE)
        tiny.model.generate(**tiny.inputs, max_new_tokens=2, do_sample=False)
    recording = made.finish()
    assert recording.workload["gpu_sampling_ended"] == "OSError: gone"
    assert recording.generations[0].complete
    assert nvml.calls["utilisation"] == 1


def test_a_program_that_fails_leaves_no_thread(nvml: FakeNvml) -> None:
    with pytest.raises(ZeroDivisionError), Recorder(RecorderOptions("tiny", sample_gpu=10)):
        _ = 1 / 0
    assert sampling() == []


def test_without_being_asked_there_is_no_thread(nvml: FakeNvml) -> None:
    with Recorder(RecorderOptions("tiny")) as made:
        assert made.sampler is None
        assert sampling() == []
    assert nvml.calls == Counter()


def test_where_nothing_can_be_sampled_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"vlmtrace\[nvml\]"):
        check()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="needs a CUDA device"):
        check()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check()
