"""Samples: the questions that a model is asked, from files or the command line, and how they share a request."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vlmtrace.capture.loading import one_line
from vlmtrace.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Sample", "batches", "check_image", "parse_size", "read_samples"]

_SAMPLE_KEYS: Final = ("id", "image", "prompt", "max_new_tokens")
_LONGEST_SIDE: Final = 16_384


@dataclass(frozen=True, slots=True)
class Sample:
    """One question: ``images`` are files, opened anew for each request, or pictures drawn in memory."""

    id: str
    prompt: str
    images: tuple[Path | Image.Image, ...]
    max_new_tokens: int


def parse_size(text: str) -> tuple[int, int]:
    """Width and height in pixels from ``WxH``.

    Raises:
        UsageError: not two positive numbers, or larger than any picture should be.
    """
    found = re.fullmatch(r"(\d+)[x×](\d+)", text.strip().lower())
    sides = (int(found[1]), int(found[2])) if found else (0, 0)
    if not all(1 <= side <= _LONGEST_SIDE for side in sides):
        raise UsageError(f"'{text}' is no image size", f"give WIDTHxHEIGHT, such as 640x480, up to {_LONGEST_SIDE}")
    return sides


def check_image(path: Path, where: str = "") -> Path:
    """Answer ``path`` if it holds a whole picture that Pillow can read. ``where`` opens the message.

    Raises:
        UsageError: there is no such file, or it is no image, or a damaged one.
    """
    from PIL import Image, UnidentifiedImageError

    at = f"{where}: " if where else ""
    if not path.is_file():
        raise UsageError(f"{at}there is no image file '{path}'", "give a file that exists")
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({one_line(error)})"
        raise UsageError(
            f"{at}'{path}' is no image that Pillow can read{reason}", "give a PNG, JPEG or WebP"
        ) from error
    return path


def read_samples(path: Path, max_new_tokens: int) -> tuple[Sample, ...]:
    """The samples of a JSON Lines file: ``prompt``, and if wanted ``image`` (one or more), ``id``, ``max_new_tokens``.

    Image paths are relative to the file's own folder. ``max_new_tokens`` is for lines that name none.

    Raises:
        UsageError: the file or one of its lines is wrong; the message names both.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"samples '{path}' cannot be read: {one_line(error)}", "give a JSON Lines file") from error
    samples = tuple(
        _sample(line, f"{path} line {number}", path.parent, Sample(str(number), "", (), max_new_tokens))
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    )
    if not samples:
        raise UsageError(f"'{path}' holds no samples", 'give lines such as {"image": "cat.jpg", "prompt": "Describe"}')
    return samples


def _sample(line: str, where: str, folder: Path, default: Sample) -> Sample:
    try:
        given = json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{where} is no JSON ({error.msg}, column {error.colno})", "write one object a line"
        ) from error
    if not isinstance(given, dict):
        raise UsageError(f"{where} is no JSON object", 'write lines such as {"image": "cat.jpg", "prompt": "Describe"}')
    for key in given:
        if key not in _SAMPLE_KEYS:
            raise UsageError(f"{where}: unknown key '{key}'", f"the keys are {', '.join(_SAMPLE_KEYS)}")
    prompt = given.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise UsageError(f"{where}: 'prompt' is {json.dumps(prompt)}", "give it a text")
    tokens = given.get("max_new_tokens", default.max_new_tokens)
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise UsageError(f"{where}: 'max_new_tokens' is {json.dumps(tokens)}", "give a whole number from 1 on")
    images = given.get("image") or []
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise UsageError(f"{where}: 'image' is {json.dumps(images)}", "give a path or a list of paths")
    sample_id = given.get("id", default.id)
    if isinstance(sample_id, bool) or not isinstance(sample_id, str | int):
        raise UsageError(f"{where}: 'id' is {json.dumps(sample_id)}", "give a text or a whole number")
    return Sample(str(sample_id), prompt, tuple(check_image(folder / image, where) for image in images), tokens)


def batches(samples: Sequence[Sample], size: int) -> tuple[tuple[Sample, ...], ...]:
    """Batches of up to ``size`` samples. One sample fills its batch by itself, repeated.

    Neighbours share a batch only where both have images or neither has, and where both stop after as many tokens.
    """
    if len(samples) == 1:
        return (tuple(samples) * size,)
    made: list[list[Sample]] = []
    for sample in samples:
        last = made[-1][-1] if made else None
        fits = (
            last is not None
            and len(made[-1]) < size
            and bool(last.images) == bool(sample.images)
            and last.max_new_tokens == sample.max_new_tokens
        )
        if fits:
            made[-1].append(sample)
        else:
            made.append([sample])
    return tuple(tuple(batch) for batch in made)
