"""``vlmtrace record``, whole: the demo, saved models and programs, and every way of getting it wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import transformers

from tests.saved_models import saved
from vlmtrace import api
from vlmtrace.capture import demo
from vlmtrace.timeline import names
from vlmtrace.timeline.recording import COLD, TIMED, WARMED

_OLD = tuple(int(part) for part in transformers.__version__.split(".")[:2]) <= (5, 17)
_QUICK = ("--warmup", 1, "--repeats", 2, "--max-new-tokens", 3)
_PROGRAM = """
import sys
from transformers import AutoModelForImageTextToText, AutoProcessor
from vlmtrace.capture import demo

def main():
    model = AutoModelForImageTextToText.from_pretrained(sys.argv[1])
    processor = AutoProcessor.from_pretrained(sys.argv[1])
    inputs = processor(text=["<image> Hi"], images=[demo.draw(32, 32)], return_tensors="pt")
    for _ in range(2):
        output = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    print("program:", output.shape[0], __name__, sys.argv[2:])
    return model, inputs

if __name__ == "__main__":
    model, inputs = main()
"""


def _tiny() -> tuple[object, ...]:
    """A model that answers in a moment, and what it is asked about."""
    return ("--model", saved("llava"), "--image-size", "32x32", *_QUICK)


@pytest.fixture
def job(folder: Path) -> Path:
    path = folder / "job.py"
    path.write_text(_PROGRAM)
    return path


def test_the_demo_writes_a_trace_shows_the_stages_and_names_the_next_command(type_in, folder: Path) -> None:
    typed = type_in("record", "--demo", *_QUICK)

    assert typed.code == 0, typed.err
    made = api.load(folder / "demo-001.pftrace")
    assert [generation.role for generation in made.generations] == [WARMED, TIMED, TIMED]
    assert made.models[0].random_weights
    assert all(generation.new_tokens == (3,) for generation in made.generations)
    for stage in ("preprocess", "vision", "prefill", "decode", "detokenize"):
        assert stage in typed.out
    said = typed.err.strip().splitlines()
    assert said[-2].startswith("Wrote demo-001.pftrace (")
    assert said[-1] == "Next: vlmtrace open demo-001.pftrace"


def test_every_repeat_does_the_whole_request(type_in, folder: Path) -> None:
    type_in("record", *_tiny(), "-o", "a.json")

    counted = Counter(span.name for span in api.load("a.json").spans)
    assert counted[names.PREPROCESS] == counted[names.GENERATE] == counted[names.DETOKENIZE] == 3
    assert counted[names.VISION] == 3


def test_a_saved_model_is_asked_about_an_image(type_in, folder: Path) -> None:
    demo.draw(50, 40).save(folder / "cat.png")

    typed = type_in(
        "record", "--model", saved("llava"), "--image", "cat.png", "--prompt", "Who?", *_QUICK,
        "--label", "host=lab", "--batch", 2, "--detail", "module", "--ignore-eos", "--format", "json",
    )  # fmt: skip

    assert typed.code == 0, typed.err
    made = api.load(folder / "llava-001.pftrace")
    assert made.detail == "module"
    assert [generation.new_tokens for generation in made.generations] == [(3, 3)] * 3
    assert made.generations[0].tags == {"sample": "0"}
    assert made.workload["labels"] == {"host": "lab"}
    assert "Who?" not in str(made.workload)
    assert made.workload["prompt"]["length"] == 4
    assert not made.models[0].random_weights
    assert isinstance(json.loads(typed.out), dict)


@pytest.mark.skipif(_OLD, reason="up to transformers 5.17 Idefics3's processor cannot be loaded without torchvision")
def test_idefics3_is_recorded_without_torchvision(type_in, folder: Path) -> None:
    typed = type_in("record", "--model", saved("idefics3"), "--image-size", "64x48", *_QUICK, "--no-summary")

    assert (typed.code, typed.out) == (0, ""), typed.err
    counted = Counter(span.name for span in api.load("idefics3-001.pftrace").spans)
    assert counted[names.VISION] == 3


def test_a_model_without_a_vision_part_is_recorded_and_said_to_have_none(type_in, folder: Path) -> None:
    typed = type_in("record", "--model", saved("text"), "--prompt", "Hi", *_QUICK)

    assert typed.code == 0, typed.err
    made = api.load("text-001.pftrace")
    assert names.VISION not in {span.name for span in made.spans}
    assert made.models[0].notes
    assert "vision" in made.models[0].notes[0]


def test_samples_of_a_file_are_tagged_and_run_once_each(type_in, folder: Path) -> None:
    demo.draw(50, 40).save(folder / "cat.png")
    lines = [{"id": "a", "image": "cat.png", "prompt": "Who?"}, {"id": "b", "prompt": "Hi", "max_new_tokens": 2}]
    (folder / "samples.jsonl").write_text("\n".join(json.dumps(line) for line in lines))

    typed = type_in("record", "--model", saved("llava"), "--inputs", "samples.jsonl", "--max-new-tokens", 3)

    assert typed.code == 0, typed.err
    generations = api.load("llava-001.pftrace").generations
    found = [(generation.role, generation.tags["sample"], generation.new_tokens[0]) for generation in generations]
    assert found == [(WARMED, "a", 3), (WARMED, "b", 2), (TIMED, "a", 3), (TIMED, "b", 2)]


def test_random_weights_are_titled_so(type_in, folder: Path) -> None:
    typed = type_in(
        "record", "--model", saved("weightless"), "--random-weights", "--image-size", "32x32",
        "--dtype", "bfloat16", *_QUICK,
    )  # fmt: skip

    assert typed.code == 0, typed.err
    assert "random weights" in typed.out.splitlines()[0]
    model = api.load("weightless-001.pftrace").models[0]
    assert (model.random_weights, model.dtype) == (True, "bfloat16")


def test_text_is_stored_only_when_it_is_to_be_kept(type_in, folder: Path) -> None:
    type_in("record", *_tiny(), "--prompt", "Colourless green ideas", "-o", "hashed.json")
    type_in("record", *_tiny(), "--prompt", "Colourless green ideas", "--keep-text", "-o", "kept.json")

    assert "Colourless" not in (folder / "hashed.json").read_text()
    assert "Colourless" in (folder / "kept.json").read_text()


def test_a_dry_run_shows_the_tree_needs_no_weights_and_writes_nothing(type_in, folder: Path) -> None:
    typed = type_in("record", "--model", saved("bare"), "--dry-run")

    assert typed.code == 0, typed.err
    assert "model.vision_tower" in typed.out
    assert "random weights" not in typed.out
    assert list(folder.iterdir()) == []


def test_the_trace_can_go_to_stdout_and_the_table_makes_way(folder: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "vlmtrace", "record", *map(str, _tiny()), "-o", "-"],
        cwd=folder, env=_environment(), capture_output=True, timeout=120, check=False,
    )  # fmt: skip

    assert shown.returncode == 0, shown.stderr
    assert b"prefill" in shown.stderr
    (folder / "piped.pftrace").write_bytes(shown.stdout)
    assert len(api.load("piped.pftrace").generations) == 3


def test_quiet_leaves_stderr_empty(type_in) -> None:
    typed = type_in("record", *_tiny(), "--quiet")

    assert (typed.code, typed.err) == (0, "")
    assert "prefill" in typed.out


def test_a_program_runs_unchanged_and_its_generations_are_found(type_in, job: Path) -> None:
    typed = type_in("record", "--", job, saved("llava"), "-o", "x", "--detail", "--")

    assert typed.code == 0, typed.err
    assert typed.out == "program: 1 __main__ ['-o', 'x', '--detail', '--']\n"
    assert "prefill" in typed.err
    made = api.load("job-001.pftrace")
    assert [generation.role for generation in made.generations] == [COLD, TIMED]
    assert made.incomplete is None


@pytest.mark.parametrize(
    "way", [["job.py"], ["-m", "job"], ["python", "job.py"], ["python", "-m", "job"]], ids=" ".join
)
def test_a_program_can_be_named_as_on_pythons_own_command_line(type_in, job: Path, way: list[str]) -> None:
    typed = type_in("record", "--quiet", "--", *way, saved("llava"))

    assert typed.code == 0, typed.err
    assert "Wrote" not in typed.err
    assert len(api.load("job-001.pftrace").generations) == 2
    sys.modules.pop("job", None)


@pytest.mark.parametrize(
    ("ending", "code", "incomplete", "shown"),
    [
        ("sys.exit(3)", 3, "SystemExit: 3", ""),
        ("raise ValueError('bad')", 1, "ValueError: bad", "ValueError: bad"),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_what_was_recorded_is_written_however_a_program_ends(
    type_in, job: Path, ending: str, code: int, incomplete: str, shown: str
) -> None:
    job.write_text(job.read_text() + f"    {ending}\n")

    typed = type_in("record", "--", job, saved("llava"))

    assert typed.code == code
    made = api.load("job-001.pftrace")
    assert len(made.generations) == 2
    assert made.incomplete == incomplete
    assert shown in typed.err
    assert "vlmtrace/" not in typed.err


@pytest.mark.parametrize(
    ("raised", "code"),
    [("ValueError('in decode')", 1), ("SystemExit(3)", 3), ("KeyboardInterrupt()", 130)],
)
def test_a_program_that_ends_in_the_middle_of_decode_keeps_what_was_recorded(
    type_in, job: Path, raised: str, code: int
) -> None:
    job.write_text(
        job.read_text()
        + "    steps = []\n"
        + "    def end(*_):\n"
        + "        steps.append(1)\n"
        + f"        if len(steps) == 2: raise {raised}\n"
        + "    model.lm_head.register_forward_hook(end)\n"
        + "    model.generate(**inputs, max_new_tokens=5, do_sample=False)\n"
    )

    typed = type_in("record", "--", job, saved("llava"))

    assert typed.code == code
    made = api.load("job-001.pftrace")
    assert [generation.complete for generation in made.generations] == [True, True, False]
    assert made.incomplete is not None
    assert made.incomplete.startswith(raised.partition("(")[0])


def test_ctrl_c_while_a_model_runs_keeps_what_was_recorded(type_in, folder: Path, monkeypatch) -> None:
    from vlmtrace.capture import workload

    ask, asked = workload.Asker.ask, []

    def interrupted(self, batch, around):
        asked.append(batch)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ask(self, batch, around)

    monkeypatch.setattr(workload.Asker, "ask", interrupted)
    typed = type_in("record", *_tiny())

    assert typed.code == 130
    assert typed.err.endswith("vlmtrace: error: interrupted\n")
    made = api.load("llava-001.pftrace")
    assert len(made.generations) == 2
    assert made.incomplete == "KeyboardInterrupt"


def test_a_program_with_a_lora_model_is_told_as_its_base_and_takes_its_own_paths(
    type_in, job: Path, folder: Path
) -> None:
    wrap = (
        "import peft\n    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=['q_proj']))\n    inputs ="
    )
    job.write_text(_PROGRAM.replace("inputs =", wrap, 1))
    stage = "vision=base_model.model.model.vision_tower"

    typed = type_in("record", "--stage", stage, "--", "job.py", saved("llava"))

    assert typed.code == 0, typed.err
    (model,) = api.load(folder / "job-001.pftrace").models
    assert model.class_name == "LlavaForConditionalGeneration"
    assert ("vision.encoder", "model.vision_tower", "--stage") in [(s.stage, s.path, s.how) for s in model.stages]


def test_a_stage_that_the_programs_model_lacks_is_told_once_and_at_the_programs_own_line(
    type_in, job: Path, folder: Path
) -> None:
    typed = type_in("record", "--stage", "vision=model.towr", "--", "job.py", saved("llava"))

    assert typed.code == 1
    first, second = (line for line in typed.err.splitlines() if line.startswith("vlmtrace: error: "))
    at = _PROGRAM[: _PROGRAM.index("model.generate")].count("\n") + 1
    assert first.startswith(f"vlmtrace: error: {job}, line {at}: --stage vision=model.towr: no module 'model.towr'")
    assert second == "vlmtrace: error: 'job.py' failed before a generation began: nothing was recorded"


def test_a_program_that_generates_nothing_leaves_no_trace_and_says_so(type_in, folder: Path) -> None:
    typed = type_in("record", "--", "python", "-c", "print('hello')")

    assert (typed.code, typed.out) == (1, "hello\n")
    assert "called no generate() of a transformers model: nothing was recorded" in typed.err
    assert list(folder.iterdir()) == []
    assert type_in("record", "--", "python", "-c", "raise SystemExit(7)").code == 7


def test_layers_of_one_step_in_so_many_are_told(type_in, folder: Path) -> None:
    typed = type_in("record", *_tiny(), "--detail", "layer", "--every", 2, "--max-new-tokens", 5, "-o", "x.pftrace")

    assert typed.code == 0, typed.err
    made = api.load(folder / "x.pftrace")
    told = {made.spans[span.parent].number for span in made.spans.named(names.LAYER) if span.parent is not None}
    assert told == {None, 0, 2}, "a prefill has no number"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "there is nothing to record: try --demo"),
        (["--"], "there is nothing to record: try --demo"),
        (["--demo", "--model", "x"], "--demo and --model cannot be recorded at once"),
        (["--demo", "--", "x.py"], "--demo and the program 'x.py' cannot be recorded at once"),
        (["--model", "m", "--image", "a.png", "b.png"], "repeat it for each"),
        (["--batch", "2", "--", "x.py"], "'--batch' does nothing with the program 'x.py'"),
        (["--demo", "--dtype", "float32"], "'--dtype' does nothing with --demo"),
        (["--", "none.py"], "there is no file 'none.py'"),
        (["-o", "-", "--", "x.py"], "would mix the trace with the program's own output"),
        (["--model", "{llava}"], "there is nothing to ask"),
        (["--model", "/none", "--prompt", "x"], "there is no model folder '/none'"),
        (["--model", "{llava}", "--image", "none.png"], "there is no image file 'none.png'"),
        (["--model", "{llava}", "--image", "text.png"], "'text.png' is no image that Pillow can read"),
        (["--model", "{llava}", "--image", "cat.png", "--image-size", "1x1"], "draws an image and --image gives one"),
        (["--model", "{llava}", "--inputs", "none.jsonl"], "samples 'none.jsonl' cannot be read"),
        (["--model", "{llava}", "--inputs", "x.jsonl", "--prompt", "x"], "brings its own images and prompts"),
        (["--demo", "--image-size", "big"], "'big' is no image size"),
        (["--demo", "--max-new-tokens", "0"], "Invalid value for '--max-new-tokens': 0"),
        (["--demo", "--repeats", "0"], "Invalid value for '--repeats': 0"),
        (["--demo", "--cache", "huge"], "Invalid value for '--cache': 'huge'"),
        (["--demo", "--label", "x"], "'--label x' is not of the form KEY=VALUE"),
        (["--demo", "--stage", "vision"], "'--stage vision' is not of the form NAME=PATH"),
        (["--demo", "--stage", "vision=model.nowhere"], "model.nowhere"),
        (["--demo", "--every", "4"], "'--every 4' does nothing at --detail stage: add --detail layer"),
        (["--demo", "-o", "x.txt"], "x.txt"),
        (["--demo", "--device", "gpu"], "unknown device 'gpu'"),
        (["--model", "{text}", "--image-size", "9x9"], "comes with a tokenizer only"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_request_is_one_clear_line_exit_code_2_and_no_file(type_in, folder: Path, words, says: str) -> None:
    (folder / "text.png").write_text("no image")
    demo.draw(9, 9).save(folder / "cat.png")
    (folder / "x.py").write_text("raise SystemExit('this must not run')")
    before = sorted(folder.iterdir())
    words = [str(saved(word.strip("{}"))) if word.startswith("{") else word for word in words]

    typed = type_in("record", *words)

    assert typed.code == 2, typed.err
    assert says in typed.err
    assert typed.err.count("\n") == 1
    assert typed.err.startswith("vlmtrace: error: ")
    assert typed.out == ""
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--demo", "-o", "none/x.json"], "'none/x.json' cannot be written"),
        (["--demo", "-o", "there.json"], "'there.json' exists"),
        (["--model", "{weightless}", "--image-size", "9x9"], "comes without weights: give --random-weights"),
        (["--model", "{bare}", "--image-size", "9x9"], "comes without a processor"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_clear_line_and_exit_code_1(type_in, folder: Path, words, says: str) -> None:
    (folder / "there.json").write_text("mine")
    words = [str(saved(word.strip("{}"))) if word.startswith("{") else word for word in words]

    typed = type_in("record", *words)

    assert typed.code == 1, typed.err
    assert says in typed.err
    assert typed.err.count("\n") == 1
    assert (folder / "there.json").read_text() == "mine"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_asked_for_and_absent_is_said(type_in) -> None:
    typed = type_in("record", "--demo", "--device", "cuda")

    assert (typed.code, typed.out) == (1, "")
    assert typed.err == (
        "vlmtrace: error: device 'cuda' was asked for, but torch sees no CUDA GPU: give --device cpu\n"
    )


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(demo.__file__).parents[2])}
