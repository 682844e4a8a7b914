"""Where the time of a generation went."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.altered import rebuilt
from tests.synthetic import MS, US, Shape, recording
from vlmtrace.analysis.accounting import Account, account
from vlmtrace.analysis.stages import gather
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import Recording
from vlmtrace.timeline.spans import NewSpan

lengths = st.integers(0, 10**11)
shapes = st.builds(
    Shape,
    setup=lengths,
    vision=lengths.map(lambda ns: ns * 4),
    between=lengths,
    prefill=lengths,
    first_token=lengths,
    step=lengths.map(lambda ns: ns + 200 * US),
    gap=lengths.map(lambda ns: ns + 200 * US),
    tail=lengths.map(lambda ns: ns + 200 * US),
    steps=st.integers(0, 5),
    lead=st.just(0),
    vision_inside=st.booleans(),
)


def accounts(made: Recording) -> list[Account]:
    return [account(stages) for stages in gather(made)]


def test_every_part_is_measured_from_its_own_spans() -> None:
    (one,) = accounts(recording(Shape()))
    assert one == Account(
        generate=96_800 * US,
        vision=30 * MS,
        prefill=20 * MS,
        decode=43 * MS,
        other=(
            (names.OTHER_SETUP, 2 * MS),
            (names.OTHER_BETWEEN, 1 * MS),
            (names.OTHER_FIRST_TOKEN, 500 * US),
            (names.OTHER_TAIL, 300 * US),
        ),
        steps=(10 * MS,) * 4,
        gaps=(1 * MS,) * 3,
        host_wall=96_800 * US,
    )


def test_a_vision_inside_prefill_is_taken_off_prefills_own_time() -> None:
    before, inside = accounts(recording(Shape(between=0), Shape(vision_inside=True)))
    assert inside.vision == before.vision == 30 * MS
    assert inside.prefill == before.prefill == 20 * MS
    assert inside.parts_total == inside.generate == before.generate


def test_a_vision_inside_a_chunk_of_prefill_is_inside_prefill() -> None:
    made = recording(Shape(vision_inside=True))
    (prefill,) = made.spans.named(names.PREFILL)
    (vision,) = made.spans.named(names.VISION)
    chunk = NewSpan(names.PREFILL_CHUNK, vision.track, (prefill.begin, prefill.end), parent=prefill.row, generation=0)
    bare = rebuilt(made, keep=lambda span: span.name not in {names.VISION, names.ENCODER}, more=(chunk,))
    (row,) = (span.row for span in bare.spans.named(names.PREFILL_CHUNK))
    inner = NewSpan(names.VISION, vision.track, (vision.begin, vision.end), parent=row, generation=0)
    (one,) = accounts(rebuilt(bare, more=(inner,)))
    assert (one.vision, one.prefill) == (30 * MS, 20 * MS)


def test_a_vision_re_run_inside_a_step_counts_in_decode_alone() -> None:
    made = recording(Shape())
    step = next(made.spans.named(names.STEP))
    again = NewSpan(names.VISION, step.track, (step.begin, step.begin + MS), parent=step.row, generation=0)
    (one,) = accounts(rebuilt(made, more=(again,)))
    assert one.vision == 30 * MS
    assert one.decode == 43 * MS
    assert one.parts_total == one.generate


def test_a_vision_inside_another_is_not_counted_twice() -> None:
    made = recording(Shape())
    (outer,) = made.spans.named(names.VISION)
    inner = NewSpan(names.VISION, outer.track, (outer.begin, outer.begin + MS), parent=outer.row, generation=0)
    (one,) = accounts(rebuilt(made, more=(inner,)))
    assert one.vision == 30 * MS


def test_where_one_token_is_made_decode_is_absent_and_not_0() -> None:
    (one,) = accounts(recording(Shape(steps=0)))
    assert one.decode is None
    assert one.steps == one.gaps == ()
    assert one.parts_total == one.generate


def test_the_hosts_wall_time_is_set_against_the_devices_length() -> None:
    (device,) = accounts(recording(Shape(late=400 * US)))
    assert device.host_minus_device == -400 * US
    (host,) = accounts(recording(Shape(), device=None))
    assert host.host_minus_device == 0


def test_spans_of_the_request_are_found_with_or_without_a_generation_of_their_own() -> None:
    made = recording(Shape())
    (pre,) = made.spans.named(names.PREPROCESS)
    adopted = NewSpan(names.PREPROCESS, pre.track, (pre.begin, pre.end), parent=pre.parent)
    orphan = rebuilt(made, keep=lambda span: span.name != names.PREPROCESS)
    (stages,) = gather(orphan)
    assert names.PREPROCESS not in stages.around
    (stages,) = gather(rebuilt(orphan, more=(adopted,)))
    assert [span.duration for span in stages.around[names.PREPROCESS]] == [5 * MS]


@given(st.lists(shapes, min_size=1, max_size=3), st.sampled_from([0, None]))
def test_the_parts_add_up_to_the_whole_exactly(made: list[Shape], device: int | None) -> None:
    for one, shape in zip(accounts(recording(*made, device=device)), made, strict=True):
        assert one.parts_total == one.generate
        assert (one.decode or 0) == sum(one.steps) + sum(one.gaps)
        assert (one.decode is None) == (shape.steps == 0)
        assert one.vision == shape.vision
        assert one.prefill == shape.prefill
