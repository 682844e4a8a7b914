"""Samples as they are read, and the batches they make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmtrace.capture import demo
from vlmtrace.capture.samples import Sample, batches, check_image, parse_size, read_samples
from vlmtrace.errors import UsageError

_PICTURE = demo.draw(32, 24)


def _sample() -> Sample:
    return Sample("0", "What?", (), 4)


def test_a_size_is_width_by_height() -> None:
    assert parse_size("640x480") == (640, 480)
    assert parse_size("1X2") == (1, 2)


@pytest.mark.parametrize("text", ["", "640", "0x10", "10x0", "-1x5", "1.5x2", "99999x1", "axb", "1x2x3"])
def test_a_size_that_is_none_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(UsageError, match=f"'{text}' is no image size"):
        parse_size(text)


def test_an_image_that_is_none_a_damaged_and_a_missing_one_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    demo.draw(64, 64).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-60])

    assert check_image(tmp_path / "whole.png") == tmp_path / "whole.png"
    with pytest.raises(UsageError, match=r"text.png' is no image that Pillow can read: give"):
        check_image(tmp_path / "text.png")
    with pytest.raises(UsageError, match=r"half.png' is no image that Pillow can read \(\w+: .*\): give"):
        check_image(tmp_path / "half.png")
    with pytest.raises(UsageError, match="there is no image file"):
        check_image(tmp_path / "none.png")
    with pytest.raises(UsageError, match="there is no image file"):
        check_image(tmp_path)


def test_samples_are_read_with_images_beside_their_file_and_defaults_filled_in(tmp_path: Path) -> None:
    _PICTURE.save(tmp_path / "cat.png")
    lines = [
        {"id": "cat", "image": "cat.png", "prompt": "Describe", "max_new_tokens": 7},
        {"image": ["cat.png", "cat.png"], "prompt": "Compare"},
        {"id": 5, "prompt": "No picture", "image": None},
    ]
    file = tmp_path / "samples.jsonl"
    file.write_text("\n\n".join(json.dumps(line) for line in lines) + "\n")

    cat = tmp_path / "cat.png"
    assert read_samples(file, 32) == (
        Sample("cat", "Describe", (cat,), 7),
        Sample("3", "Compare", (cat, cat), 32),
        Sample("5", "No picture", (), 32),
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "is no JSON"),
        ("[]", "is no JSON object"),
        ("{}", "'prompt' is null"),
        ('{"prompt": 5}', "'prompt' is 5"),
        ('{"prompt": ""}', "'prompt' is \"\""),
        ('{"prompt": "x", "imgae": "a.png"}', "unknown key 'imgae': the keys are id, image, prompt, max_new_tokens"),
        ('{"prompt": "x", "max_new_tokens": 0}', "'max_new_tokens' is 0"),
        ('{"prompt": "x", "max_new_tokens": true}', "'max_new_tokens' is true"),
        ('{"prompt": "x", "image": 5}', "'image' is 5"),
        ('{"prompt": "x", "id": 1.5}', "'id' is 1.5"),
        ('{"prompt": "x", "image": "none.png"}', "there is no image file"),
    ],
)
def test_a_wrong_line_is_refused_with_file_and_line(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_text('{"prompt": "fine"}\n' + line + "\n")

    with pytest.raises(UsageError) as raised:
        read_samples(file, 32)
    assert f"{file} line 2" in str(raised.value)
    assert says in str(raised.value)


def test_a_samples_file_that_is_missing_binary_or_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_text("\n")

    for name, says in (("none", "cannot be read"), ("binary", "cannot be read"), ("empty", "holds no samples")):
        with pytest.raises(UsageError, match=says):
            read_samples(tmp_path / name, 32)


def test_one_sample_fills_its_batch_by_itself() -> None:
    assert batches([_sample()], 3) == ((_sample(),) * 3,)


_SAMPLES = st.builds(
    Sample, st.uuids().map(str), st.just("?"), st.sampled_from([(), (_PICTURE,)]), st.sampled_from([8, 16])
)


@given(st.lists(_SAMPLES, min_size=2, max_size=12), st.integers(1, 5))
def test_batches_keep_every_sample_in_order_and_mix_nothing(samples: list[Sample], size: int) -> None:
    made = batches(samples, size)

    assert [sample for batch in made for sample in batch] == samples
    for batch in made:
        assert 1 <= len(batch) <= size
        assert len({(bool(sample.images), sample.max_new_tokens) for sample in batch}) == 1
