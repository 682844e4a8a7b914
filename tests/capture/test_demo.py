"""The built-in model, its processor and its picture."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from vlmtrace.capture import demo


@pytest.fixture(scope="module")
def built():
    return demo.build(seed=3)


def test_the_picture_is_the_same_every_time_and_has_the_size_asked_for() -> None:
    picture = demo.draw(123, 77)

    assert picture.size == (123, 77)
    assert picture.mode == "RGB"
    assert picture.tobytes() == demo.draw(123, 77).tobytes()
    assert len(picture.getcolors(123 * 77)) >= 6


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (3, 2)])
def test_a_picture_of_a_few_pixels_can_be_drawn(size: tuple[int, int]) -> None:
    assert demo.draw(*size).size == size


def test_the_tokenizer_says_any_text_and_reads_it_back(built) -> None:
    tokenizer = built[1].tokenizer

    for text in ("What is this?", "  two  spaces\n", "größer 画像 🏠"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_one_image_becomes_as_many_placeholders_as_the_tower_makes_features(built) -> None:
    model, processor = built
    inputs = _inputs(processor, demo.draw(320, 240))

    placeholders = int((inputs["input_ids"] == model.config.image_token_id).sum())
    features = model.get_image_features(pixel_values=inputs["pixel_values"])
    features = getattr(features, "pooler_output", features)
    assert placeholders == sum(part.shape[0] for part in features) == 196


def test_the_model_generates_all_the_tokens_it_may(built) -> None:
    model, processor = built
    inputs = _inputs(processor, demo.draw(64, 64))

    output = model.generate(**inputs, max_new_tokens=12, do_sample=False)

    assert output.shape[1] == inputs["input_ids"].shape[1] + 12


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(built) -> None:
    again, other = demo.build(seed=3)[0], demo.build(seed=4)[0]

    weights = built[0].get_output_embeddings().weight
    assert torch.equal(weights, again.get_output_embeddings().weight)
    assert not torch.equal(weights, other.get_output_embeddings().weight)


def _inputs(processor, picture: Image.Image):
    content = [{"type": "image", "image": picture}, {"type": "text", "text": demo.DEMO_PROMPT}]
    return processor.apply_chat_template(
        [[{"role": "user", "content": content}]],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
