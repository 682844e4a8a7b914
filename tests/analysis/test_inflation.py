"""How much longer stages take under a profiler."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.analysis.altered import with_generation, with_inputs
from tests.analysis.paired import paired
from tests.synthetic import MS, US, WARMED, Shape, recording
from vlmtrace.analysis.inflation import StageInflation
from vlmtrace.analysis.summary import summarise
from vlmtrace.errors import EXIT_INCONCLUSIVE, NotComparableError
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording


def against(made: Recording, baseline: Recording) -> dict[str, StageInflation]:
    found = summarise(paired(made, ()), baseline).inflation
    assert found is not None
    return {one.stage: one for one in found.stages}


def test_without_a_baseline_there_is_none() -> None:
    assert summarise(paired(recording(Shape()), ())).inflation is None


def test_each_stages_medians_are_compared() -> None:
    slow = [Shape(vision=33 * MS + at * MS, step=12 * MS, gap=2 * MS, tail=600 * US) for at in range(3)]
    found = against(recording(*slow), recording(Shape(role=WARMED, vision=90 * MS), Shape()))
    assert list(found) == [names.GENERATE, names.VISION, names.PREFILL, names.STEP, names.GAP, *names.OTHER_PARTS]
    assert found[names.VISION] == StageInflation(names.VISION, 34 * MS, 30 * MS)
    assert found[names.STEP] == StageInflation(names.STEP, 12 * MS, 10 * MS)
    assert found[names.GAP] == StageInflation(names.GAP, 6 * MS, 3 * MS)
    assert found[names.OTHER_TAIL] == StageInflation(names.OTHER_TAIL, 600 * US, 300 * US)
    assert (found[names.VISION].difference, found[names.STEP].share) == (4 * MS, 0.2)
    assert found[names.PREFILL].share == 0
    assert found[names.GENERATE].difference == (4 + 4 * 2 + 3) * MS + 300 * US


def test_how_many_generations_there_are_is_told() -> None:
    found = summarise(paired(recording(*[Shape()] * 3), ()), recording(Shape(), Shape(role=WARMED))).inflation
    assert found is not None
    assert (found.generations, found.baseline_generations) == (3, 1)


def test_a_stage_that_took_no_time_has_no_share() -> None:
    assert against(recording(Shape()), recording(Shape(gap=0)))[names.GAP].share is None


def test_a_stage_that_never_ran_is_left_out() -> None:
    found = against(recording(Shape(steps=0)), recording(Shape(steps=0)))
    assert not {names.STEP, names.GAP}.intersection(found)


def other_model(made: Recording) -> Recording:
    return replace(made, models=(replace(made.models[0], class_name="Other\x1b[2J"),))


@pytest.mark.parametrize(
    ("baseline", "says"),
    [
        (other_model(recording(Shape())), r"another model: 'Other\\x1b\[2J of 61,300 parameters, .*' there, 'Llava"),
        (replace(recording(Shape()), environment={"gpu": "A100"}), "another GPU: 'A100' there, 'H100' here"),
        (recording(Shape(), detail="layer"), "another detail: 'layer' there, 'module' here"),
        (with_generation(recording(Shape()), 0, mode="compiled"), "another way of decoding: 'compiled' there"),
        (with_inputs(recording(Shape()), batch=2), "another batch size: '2' there, '1' here"),
        (with_inputs(recording(Shape()), batch=1, images=2), "another number of images: '2' there, '1' here"),
        (
            with_inputs(recording(Shape()), batch=1, images=1, visual_tokens=9),
            "another number of visual tokens: '9' there, '64' here",
        ),
        (
            with_inputs(recording(Shape()), batch=1, images=1, visual_tokens=64),
            "another length of the prompt: 'None' there, '100' here",
        ),
        (recording(Shape(steps=5)), "another number of new tokens: '6' there, '5' here"),
        (recording(Shape(), Shape(steps=6), Shape(steps=7)), "new tokens: '7' and 1 more there, '5' here"),
        (paired(recording(Shape()), ()), "it was recorded under Nsight Systems too"),
        (with_generation(recording(Shape()), 0, error="boom"), "it has no complete generation"),
    ],
)
def test_other_work_is_not_compared(baseline: Recording, says: str) -> None:
    with pytest.raises(NotComparableError, match=says) as raised:
        against(recording(Shape()), baseline)
    assert raised.value.exit_code == EXIT_INCONCLUSIVE
    assert str(raised.value).isprintable()


def test_a_paired_trace_without_a_complete_generation_has_nothing_to_compare() -> None:
    made = with_generation(recording(Shape()), 0, error="boom")
    with pytest.raises(NotComparableError, match="the paired trace has no complete generation"):
        against(made, recording(Shape()))
