"""From raw boundaries to stages: each rule on marks written by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vlmtrace.timeline import names
from vlmtrace.timeline.assembly import Node, forest, stage_tree
from vlmtrace.timeline.marks import POINT, UNRESOLVED, Marks

USER = len(names.KINDS)


class Script:
    """Writes marks one after another, each 10 ns later, and assembles them."""

    def __init__(self) -> None:
        self.marks = Marks()
        self.at = 1_000

    def _mark(self, code: int, number: int = -1, device: int | None = None) -> None:
        self.at += 10
        self.marks.code.append(code)
        self.marks.number.append(number)
        self.marks.host.append(self.at)
        self.marks.device.append(self.at if device is None else device)

    def enter(self, name: str, number: int = -1, device: int | None = None) -> Script:
        self._mark(names.KIND_OF.get(name, USER), number, device)
        return self

    def leave(self, name: str) -> Script:
        self._mark(~names.KIND_OF.get(name, USER))
        return self

    def call(self, *path: str, number: int = -1) -> Script:
        """Enter and leave ``path[0]``, with the rest inside it."""
        self.enter(path[0], number)
        if path[1:]:
            self.call(*path[1:])
        return self.leave(path[0])

    def token(self) -> Script:
        self._mark(POINT | names.KIND_OF[names.TOKEN], 0)
        return self

    def point(self, name: str) -> Script:
        self._mark(POINT | names.KIND_OF[name])
        return self

    def forest(self) -> list[Node]:
        return list(forest(self.marks, self.marks.device, lambda kind: (*names.KINDS, "mine")[kind]))

    def stages(self, detail: str = "layer") -> Node:
        (generate,) = self.forest()
        return stage_tree(generate, detail)


def tree(node: Node) -> object:
    """Names only: ``["generate", ["vision", "encoder"], ...]``; tokens left out."""
    inside = [tree(child) for child in node.children if child.name != names.TOKEN]
    return [node.name, *inside] if inside else node.name


def children(node: Node) -> list[str]:
    return [child.name for child in node.children if child.name != names.TOKEN]


def child(node: Node, name: str) -> Node:
    return next(c for c in node.walk() if c.name == name)


def test_vision_before_the_first_forward_lies_beside_prefill() -> None:
    script = Script().enter("generate").call("vision", "vision.encoder").call("prefill").token()
    script.call("decode.step").token().call("decode.step").token().leave("generate")
    assert children(script.stages()) == [
        "other.setup", "vision", "other.between", "prefill", "other.first_token", "decode", "other.tail",
    ]  # fmt: skip


def test_vision_inside_the_first_forward_is_prefills_child() -> None:
    script = Script().enter("generate").enter("prefill").call("vision", "vision.encoder").leave("prefill").token()
    made = script.call("decode.step").leave("generate").stages()
    assert children(made) == ["other.setup", "prefill", "other.first_token", "decode", "other.tail"]
    assert tree(child(made, "prefill")) == ["prefill", ["vision", "vision.encoder"]]


def test_encoder_and_projector_calls_without_a_feature_call_form_one_vision() -> None:
    script = Script().enter("generate").call("vision.encoder").call("vision.projector").call("vision.projector")
    made = script.call("prefill").token().leave("generate").stages()
    vision = child(made, "vision")
    assert tree(vision) == ["vision", "vision.encoder", "vision.projector", "vision.projector"]
    assert vision.begin == child(made, "vision.encoder").begin
    assert vision.end == made.children[1].children[-1].end


def test_vision_calls_never_join_across_a_prefills_border() -> None:
    script = Script().enter("generate").call("vision.encoder").enter("prefill").call("vision.projector")
    made = script.leave("prefill").token().leave("generate").stages()
    assert [node.name for node in made.walk()].count("vision") == 2
    assert tree(child(made, "prefill")) == ["prefill", ["vision", "vision.projector"]]


def test_a_projector_apart_from_its_encoder_is_vision_too() -> None:
    script = Script().enter("generate").call("vision", "vision.encoder").enter("prefill").call("vision.projector")
    made = script.leave("prefill").token().leave("generate").stages()
    assert tree(child(made, "prefill")) == ["prefill", ["vision", "vision.projector"]]


def test_a_projector_of_a_feature_call_that_forwards_ask_for_something_else_is_no_vision_there() -> None:
    script = Script().enter("generate").call("vision", "vision.encoder", "vision.projector")
    script.enter("prefill").call("vision.projector").leave("prefill").token()
    made = script.enter("decode.step").call("vision.projector").leave("decode.step").leave("generate").stages()
    assert [node.name for node in made.walk()].count("vision") == 1
    assert child(made, "prefill").children == child(made, "decode.step").children == []


def test_a_projector_that_runs_without_any_encoder_saw_no_image() -> None:
    script = Script().enter("generate").enter("prefill").call("vision.projector").leave("prefill").token()
    assert "vision" not in [node.name for node in script.leave("generate").stages().walk()]


def test_one_token_leaves_no_decode_and_splits_the_rest_at_the_token() -> None:
    made = Script().enter("generate").call("prefill", number=7).token().leave("generate").stages()
    assert children(made) == ["other.setup", "prefill", "other.first_token", "other.tail"]
    assert child(made, "other.first_token").end == child(made, "token").begin
    assert child(made, "prefill").args == {"input_tokens": 7}


def test_several_prefill_forwards_are_chunks_of_one_prefill() -> None:
    script = Script().enter("generate").call("prefill", number=9).call("prefill", number=9).call("prefill", number=9)
    made = script.token().call("decode.step").token().leave("generate").stages()
    prefill = child(made, "prefill")
    assert tree(prefill) == ["prefill", "prefill.chunk", "prefill.chunk", "prefill.chunk"]
    assert [chunk.number for chunk in prefill.children] == [0, 1, 2]
    assert children(made).count("prefill") == 1


def test_a_prefill_after_a_token_is_another_one() -> None:
    script = Script().enter("generate").call("prefill").token().call("decode.step").token()
    made = script.call("prefill").token().call("decode.step").token().leave("generate").stages()
    assert [name for name in children(made) if not name.startswith("other")] == [
        "prefill", "decode", "prefill", "decode",
    ]  # fmt: skip


def test_decode_shares_its_marks_with_its_first_and_last_step() -> None:
    script = Script().enter("generate").call("prefill").token()
    for _ in range(3):
        script.call("decode.step").token()
    decode = child(script.leave("generate").stages(), "decode")
    assert children(decode) == ["decode.step", "decode.gap", "decode.step", "decode.gap", "decode.step"]
    assert (decode.begin, decode.end) == (decode.children[0].begin, decode.children[-1].end)
    assert [node.number for node in decode.children] == [0, 0, 1, 1, 2]


def test_vision_run_again_inside_a_step_is_the_steps_child() -> None:
    script = Script().enter("generate").call("prefill").token().enter("decode.step").call("vision", "vision.encoder")
    made = script.leave("decode.step").token().leave("generate").stages()
    assert tree(child(made, "decode.step")) == ["decode.step", ["vision", "vision.encoder"]]


def test_the_merge_lies_between_the_vision_and_the_language_models_entry() -> None:
    script = Script().enter("generate").enter("prefill").call("vision").point("prefill.merge").call("layer", number=0)
    made = script.leave("prefill").token().leave("generate").stages()
    merge = child(made, "prefill.merge")
    assert merge.begin == child(made, "vision").end
    assert merge.end < child(made, "layer").begin


def test_stage_detail_leaves_the_finer_out_and_keeps_where_the_encoder_ended() -> None:
    script = Script().enter("generate").enter("vision").call("vision.encoder").call("vision.projector").leave("vision")
    made = script.call("prefill", "layer").token().leave("generate").stages("stage")
    assert {node.name for node in made.walk()} == {
        "generate", "vision", "prefill", "token", "other.setup", "other.between", "other.first_token", "other.tail",
    }  # fmt: skip
    assert child(made, "vision").args == {"encoder_ns": 20, "encoder_lead_ns": 0}


def test_an_interrupt_closes_what_it_left_open_and_says_so() -> None:
    script = Script().enter("generate").call("prefill").token().enter("decode.step").enter("layer", 0)
    made = script.leave("generate").stages()
    step = child(made, "decode.step")
    assert step.incomplete
    assert step.end == made.end
    assert child(made, "decode").incomplete
    assert not child(made, "prefill").incomplete


def test_marks_that_never_ended_end_with_the_last_one() -> None:
    (generate,) = Script().enter("generate").enter("prefill").forest()
    assert generate.incomplete
    assert generate.end == generate.children[0].begin


def test_a_mark_that_the_device_never_reached_takes_its_host_time_and_is_incomplete() -> None:
    script = Script().enter("generate").enter("prefill", device=UNRESOLVED).leave("prefill").leave("generate")
    (generate,) = script.forest()
    (prefill,) = generate.children
    assert prefill.incomplete
    assert prefill.begin[0] == prefill.begin[1]


def test_an_end_without_a_beginning_is_ignored() -> None:
    (generate,) = Script().leave("prefill").enter("generate").leave("vision").leave("generate").forest()
    assert tree(generate) == "generate"


def test_a_users_span_lies_in_the_stage_that_it_ran_in() -> None:
    script = Script().enter("generate").call("prefill").token().call("decode.step").call("mine").token()
    made = script.call("decode.step").token().leave("generate").stages("stage")
    assert tree(child(made, "decode.gap")) == ["decode.gap", "mine"]


def test_a_users_span_around_stages_does_not_hide_them() -> None:
    script = Script().enter("generate").enter("mine").call("prefill").token().call("decode.step").leave("mine")
    made = script.leave("generate").stages("stage")
    assert [name for name in children(made) if not name.startswith("other")] == ["prefill", "decode", "mine"]


events = st.lists(st.sampled_from(["vision", "encoder", "projector", "prefill", "step", "token", "mine"]), max_size=25)


@given(events, st.booleans())
def test_whatever_runs_the_stages_tile_generate_and_the_steps_tile_decode(run: list[str], inside: bool) -> None:
    script = Script().enter("generate")
    for name in run:
        match name:
            case "token":
                script.token()
            case "mine":
                script.call("mine")
            case "encoder" | "projector":
                script.call(f"vision.{name}")
            case "step":
                script.call(*(("decode.step", "vision") if inside else ("decode.step",)))
            case "prefill":
                script.call(*(("prefill", "vision.encoder") if inside else ("prefill",)))
            case _:
                script.call(name)
    made = script.leave("generate").stages("stage")
    _assert_tiled(made, {"vision", "prefill", "decode", *names.OTHER_PARTS})
    for decode in (node for node in made.children if node.name == "decode"):
        _assert_tiled(decode, {"decode.step", "decode.gap"})
    assert [n.name for n in made.walk()].count("decode.step") == run.count("step")
    assert [n.name for n in made.walk()].count("mine") == run.count("mine")


def _assert_tiled(whole: Node, parts: set[str]) -> None:
    at = whole.begin
    for node in whole.children:
        if node.name in parts:
            assert node.begin == at
            at = node.end
    assert at == whole.end
