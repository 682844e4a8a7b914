"""A server's recording: nothing waits, the slowest generations are kept whole, and nothing grows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import vlmtrace
from tests.capture.fakes import FakeDevice, FakeHost
from tests.capture.test_recorder import generate
from tests.models import Tiny, build
from vlmtrace.capture import lanes, recorder, ring, tape
from vlmtrace.capture.recorder import Recorder, RecorderOptions
from vlmtrace.errors import UsageError
from vlmtrace.timeline import names


class Fake:
    """A device that the recorder takes for the model's, on a made-up clock."""

    def __init__(self) -> None:
        self.host = FakeHost(tick=1_000)
        self.device = FakeDevice(self.host, latency=5_000, drift_ppm=20)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    made = Fake()
    monkeypatch.setattr(recorder, "cuda_index", lambda _device: 0)
    monkeypatch.setattr(lanes, "clock_of", lambda _device: made.device)
    for module in (lanes, tape, ring):
        monkeypatch.setattr(module, "monotonic_ns", made.host.now)
    yield made
    assert not made.device.alive, "events are left on the device"


def slowed(tiny: Tiny, fake: Fake, work: int) -> None:
    """One generation whose forwards take ``work`` ns each on the device, and which waits for it at its end."""

    def launch(*_: object) -> None:
        fake.device.launch(work)
        fake.host.ns = max(fake.host.ns, fake.device.busy_until)  # as the stopping check of transformers waits

    hook = tiny.model.model.language_model.register_forward_hook(launch)
    try:
        generate(tiny)
    finally:
        hook.remove()
    fake.host.spend(1_000_000)


def test_the_slowest_are_kept_and_the_device_is_never_waited_for(fake: Fake) -> None:
    tiny = build("llava")
    made = Recorder(RecorderOptions("slow", slowest=2)).start()
    for work in (300_000, 900_000, 100_000, 700_000, 200_000):
        slowed(tiny, fake, work)
    assert fake.device.waits == 0
    made.stop()
    kept = made.ring.kept() if made.ring is not None else []
    recordings = [made.recording_of(one) for one in kept]
    steps = [next(iter(one.spans.named(names.STEP))).duration for one in recordings]
    assert [round(step, -5) for step in steps] == [900_000, 700_000]
    assert all(one.generations[0].new_tokens == (4,) for one in recordings)
    assert all(one.cost.waits == 0 for one in recordings)
    assert fake.device.waits == 0


def test_each_is_laid_on_the_hosts_clock_within_its_bound(fake: Fake) -> None:
    tiny = build("llava")
    made = Recorder(RecorderOptions("slow", slowest=4)).start()
    truth = set()
    for work in (300_000, 900_000, 100_000):
        slowed(tiny, fake, work)
        truth |= set(fake.device.truth.values())
        fake.host.spend(3_600_000_000_000)  # an hour until the next: elapsed times across it would be coarse
    made.stop()
    assert made.ring is not None
    for one in made.ring.kept():
        recording = made.recording_of(one)
        (clock,) = recording.clocks
        assert clock.bound_ns < 500_000
        assert clock.widened_ns == 0
        for span in recording.spans.named(names.STEP):
            assert min(abs(span.end - at) for at in truth) <= clock.bound_ns


def test_what_the_device_has_not_passed_is_asked_for_again(fake: Fake) -> None:
    tiny = build("llava")
    made = Recorder(RecorderOptions("slow", slowest=4)).start()
    generate(tiny)
    fake.device.launch(10**15)
    generate(tiny)
    assert made.ring is not None
    assert len(made.ring.kept()) == 1
    generate(tiny)
    assert len(made.ring.kept()) == 1
    fake.host.spend(10**15)
    made.stop()
    assert len(made.ring.kept()) == 3
    assert fake.device.waits == 0


def test_a_detokenizing_belongs_to_the_generation_before_it_and_a_preprocessing_to_the_one_behind(
    fake: Fake,
) -> None:
    tiny = build("llava")
    made = Recorder(RecorderOptions("slow", slowest=9)).start()
    for number in range(3):
        with made.surroundings.span("preprocess"), made.surroundings.span(f"read {number}"):
            pass
        slowed(tiny, fake, 100_000)
        with made.surroundings.span("detokenize"), made.surroundings.span(f"write {number}"):
            pass
    made.stop()
    assert made.ring is not None
    told = [sorted(s.name for s in made.recording_of(k).spans if " " in s.name) for k in made.ring.kept()]
    assert told == [[f"read {number}", f"write {number}"] for number in range(2)] + [["read 2"]]


def test_memory_stays_flat_over_many_generations_and_threads(fake: Fake) -> None:
    tiny = build("llama")
    made = Recorder(RecorderOptions("slow", slowest=3)).start()

    def serve() -> None:
        for _ in range(4):
            generate(tiny)
            fake.host.spend(10_000_000)

    sizes = []
    for _ in range(4):
        thread = threading.Thread(target=serve)
        thread.start()
        thread.join()
        generate(tiny)
        fake.host.spend(10_000_000)
        assert made.ring is not None
        sizes.append((len(made.ring.kept()), len(fake.device.alive), len(made.ended), len(made.lanes.all)))
    assert len(set(sizes)) == 1
    assert made.ring is not None
    assert (made.ring.generations, made.ring.given_up) == (4 * 5, 0)
    made.stop()


def test_a_generation_in_progress_when_the_ring_is_closed_goes_on_untold(fake: Fake) -> None:
    tiny = build("llava")
    made = Recorder(RecorderOptions("slow", slowest=2)).start()
    hook = tiny.model.model.vision_tower.register_forward_hook(lambda *_: made.stop())
    assert generate(tiny).shape[1] > 0
    hook.remove()
    assert made.ring is not None
    assert made.ring.kept() == []
    fake.device.alive.clear()  # the thread that was generating might have been about to record one of them


def test_without_a_device_the_hosts_clock_tells_which_were_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost(tick=1_000_000)
    monkeypatch.setattr(lanes, "monotonic_ns", host.now)
    tiny = build("llava")
    installed = vlmtrace.install(keep="slowest:2", out=tmp_path, name="served")
    for new in (2, 30, 3, 25, 2):
        generate(tiny, max_new_tokens=new)
    written = installed.remove()
    assert written == sorted(tmp_path.iterdir())
    assert [vlmtrace.load(path).generations[0].new_tokens for path in written] == [(30,), (25,)]
    assert all(path.name.startswith("served-20") and path.name.endswith("ms.pftrace") for path in written)


def test_files_of_generations_that_slower_ones_have_replaced_are_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost(tick=1_000_000)
    monkeypatch.setattr(lanes, "monotonic_ns", host.now)
    tiny = build("llama")
    (tmp_path / "mine.txt").write_text("kept")
    installed = vlmtrace.install(keep="slowest:1", out=tmp_path)
    generate(tiny, max_new_tokens=2)
    (first,) = installed.write()
    generate(tiny, max_new_tokens=40)
    (second,) = installed.remove()
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", second.name}
    assert first != second


@pytest.mark.parametrize("keep", ["slowest", "slowest:0", "slowest:x", "fastest:3", ""])
def test_what_cannot_be_kept_is_said(keep: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="slowest:20"):
        vlmtrace.install(keep=keep, out=tmp_path)


def test_a_folder_that_is_none_is_said_before_anything_is_hooked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        vlmtrace.install(out=tmp_path / "missing")
    with vlmtrace.trace():
        pass
