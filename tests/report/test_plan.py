"""What will be traced, as a tree."""

from __future__ import annotations

import json
from dataclasses import replace

from tests.report.goldens import MODEL
from tests.synthetic import recording
from vlmtrace.analysis.summary import summarise
from vlmtrace.report import plan_text, render, view
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import FoundStage


def line(text: str, part: str) -> str:
    (found,) = (line for line in text.splitlines() if part in line.split())
    return found


def test_each_part_is_shown_with_its_path_and_how_it_was_found() -> None:
    assert "   model.visual   " in line(plan_text(MODEL), "encoder")
    assert line(plan_text(MODEL), "encoder").endswith("get_encoder(image)")


def test_a_guess_is_marked_and_says_how_to_confirm_it() -> None:
    text = plan_text(MODEL)
    assert line(text, "projector").endswith("?")
    assert "--stage vision.projector=MODULE.PATH" in text
    certain = replace(MODEL, stages=tuple(replace(part, guess=False) for part in MODEL.stages))
    assert "?" not in plan_text(certain)


def test_children_hang_below_their_stage_whatever_the_order_given() -> None:
    assert plan_text(replace(MODEL, stages=MODEL.stages[::-1])) == plan_text(MODEL)


def test_children_of_a_stage_found_twice_are_shown_once() -> None:
    video = FoundStage(names.VISION, "model.get_video_features", "method of the model")
    text = plan_text(replace(MODEL, stages=(*MODEL.stages, video)))
    assert len([line for line in text.splitlines() if "vision" in line.split()]) == 2
    assert line(text, "encoder").startswith("│ ├ ")


def test_a_part_without_its_stage_is_not_lost() -> None:
    alone = plan_text(replace(MODEL, stages=MODEL.stages[1:2]))
    assert alone.splitlines()[2].startswith("└ vision.encoder")


def test_a_part_beyond_the_detail_says_which_detail_shows_it() -> None:
    assert "(shown with --detail module)" in line(plan_text(MODEL, detail="stage"), "encoder")
    assert "(shown with" not in line(plan_text(MODEL, detail="module"), "encoder")
    assert "(shown with --detail layer)" in line(plan_text(MODEL, detail="module"), "layer")
    assert "(shown with" not in plan_text(MODEL, detail="layer")


def test_notes_of_discovery_are_told() -> None:
    text = plan_text(replace(MODEL, stages=(), notes=("no vision part found: text-only model",)))
    assert "note: no vision part found: text-only model" in text
    assert "nothing was found to trace" in text


def test_paths_are_printed_whole_and_without_their_controls() -> None:
    long = "model." + "deep." * 40 + "encoder"
    parts = (FoundStage(names.VISION, long, "--stage"), FoundStage("\x1b[2J", "\x1b]0;x\x07", "\x9b"))
    text = plan_text(replace(MODEL, stages=parts))
    assert long in text
    assert all(line.isprintable() for line in text.splitlines())


def test_below_a_summary_each_model_has_a_section_with_its_guesses_and_notes() -> None:
    model = replace(MODEL, notes=("model is called through forward(): its calls cannot be seen",))
    (section,) = view(summarise(replace(recording(), models=(model,))), ["stages"])
    assert section.title == "stages of Qwen2_5_VLForConditionalGeneration"
    assert ("│ ├ encoder", "model.visual", "get_encoder(image)") in section.rows
    assert ("│ └ projector", "model.visual.merger", "touched by visual.forward ?") in section.rows
    assert section.notes == (
        ("? a guess: confirm or correct it with --stage vision.projector=MODULE.PATH",),
        ("note: model is called through forward(): its calls cannot be seen",),
    )


def test_json_has_each_part_and_the_notes() -> None:
    model = replace(MODEL, notes=("no decoder blocks found",))
    told = json.loads(render(summarise(replace(recording(), models=(model,))), "json"))["models"][0]
    assert [FoundStage(**part) for part in told["stages"]] == list(MODEL.stages)
    assert told["notes"] == ["no decoder blocks found"]
