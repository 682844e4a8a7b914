"""Workload: the requests that are recorded, each from picture and prompt to text, as a user's program makes them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from vlmtrace.capture.demo import draw
from vlmtrace.capture.loading import Loaded, one_line
from vlmtrace.capture.samples import Sample
from vlmtrace.errors import UsageError, VlmtraceError
from vlmtrace.timeline.recording import PROFILED, TIMED, WARMED, Json

if TYPE_CHECKING:
    from PIL import Image

    from vlmtrace.capture.recorder import Recorder

__all__ = [
    "TRACED",
    "UNTRACED",
    "Asker",
    "Progress",
    "WorkloadOptions",
    "ask",
    "digest",
    "run",
    "run_once",
    "run_profiled",
    "run_warmups",
]

TRACED: Final = "traced"
UNTRACED: Final = "untraced"
"""What is said of a request that is made to measure overhead."""

_AUDITED: Final = "audited"
_TOLD: Final = {
    WARMED: "a warm-up",
    TIMED: "a timed",
    PROFILED: "a profiled",
    _AUDITED: "an audited",
    TRACED: "a traced",
    UNTRACED: "an untraced",
}

Progress: TypeAlias = Callable[[int, int, str], None]
"""Called before each request with its number from 0, how many there are, and its role."""

Around: TypeAlias = Callable[[Callable[[], Any]], Any]
"""Makes the call that it is given, and answers its result."""


def _directly(call: Callable[[], Any]) -> Any:
    return call()


@dataclass(frozen=True, slots=True)
class WorkloadOptions:
    """How the samples are run. ``cache`` is ``dynamic``, ``static`` or ``None``, the model's own choice.

    ``repeats`` counts how often each batch is timed, ``warmup`` the untimed requests before; ``sample`` draws tokens
    at random, with ``seed`` set anew for each request so that repeats do the same work, instead of greedily.
    """

    batch: int = 1
    warmup: int = 2
    repeats: int = 10
    ignore_eos: bool = False
    cache: str | None = None
    sample: bool = False
    seed: int = 0


def digest(text: str, keep: bool) -> Json:
    """A text as a recording may hold it: itself where it is to be kept, else its SHA-256 and length in characters."""
    return text if keep else {"sha256": hashlib.sha256(text.encode()).hexdigest(), "length": len(text)}


def run(asker: Asker, requests: Sequence[tuple[Sample, ...]], recorder: Recorder, progress: Progress) -> None:
    """Run the warm-ups, then each of ``requests`` as often as it is repeated, in turn; the recorder is running.

    Raises:
        VlmtraceError: a request failed, in one line; the cause is chained.
    """
    options = asker.options
    turns = _warmups(requests, options.warmup)
    turns += [(TIMED, batch) for _ in range(options.repeats) for batch in requests]
    _take(turns, asker, recorder, progress)


def run_warmups(asker: Asker, requests: Sequence[tuple[Sample, ...]], recorder: Recorder, progress: Progress) -> None:
    """Run the warm-ups alone, one at least, to see what tracing costs; the recorder is running.

    Raises:
        VlmtraceError: a request failed, in one line; the cause is chained.
    """
    _take(_warmups(requests, max(1, asker.options.warmup)), asker, recorder, progress)


def _warmups(requests: Sequence[tuple[Sample, ...]], count: int) -> list[tuple[str, tuple[Sample, ...]]]:
    return [(WARMED, requests[turn % len(requests)]) for turn in range(count)]


def _take(
    turns: Sequence[tuple[str, tuple[Sample, ...]]], asker: Asker, recorder: Recorder, progress: Progress
) -> None:
    for number, (role, batch) in enumerate(turns):
        progress(number, len(turns), role)
        recorder.role = role
        ids: list[Json] = list(dict.fromkeys(sample.id for sample in batch))
        recorder.tags = {"sample": ids[0] if len(ids) == 1 else ids}
        ask(asker, batch, role)


def run_profiled(asker: Asker, requests: Sequence[tuple[Sample, ...]], recorder: Recorder, progress: Progress) -> None:
    """Run the first of ``requests`` once more, to see its kernels; the recorder is running.

    Raises:
        VlmtraceError: it failed, in one line; the cause is chained.
    """
    _take([(PROFILED, requests[0])], asker, recorder, progress)


def run_once(asker: Asker, requests: Sequence[tuple[Sample, ...]], progress: Progress) -> None:
    """Run each of ``requests`` once more, for an audit: no role, no repeats.

    Raises:
        VlmtraceError: a request failed, in one line; the cause is chained.
    """
    for number, batch in enumerate(requests):
        progress(number, len(requests), _AUDITED)
        ask(asker, batch, _AUDITED)


def ask(asker: Asker, batch: tuple[Sample, ...], role: str, around: Around = _directly) -> None:
    """Make one request; ``around`` makes its call of ``generate()``.

    Raises:
        VlmtraceError: it failed, in one line that names its ``role``; the cause is chained.
    """
    try:
        asker.ask(batch, around)
    except Exception as error:
        raise _explained(error, batch, role) from error


class Asker:
    """Puts a batch to the model the way its card says: template, processor, device, generate, text.

    Making one settles what is the same for every request (padding, end of text), so make it before recording.
    """

    def __init__(self, loaded: Loaded, options: WorkloadOptions) -> None:
        self.model, self.processor, self.options = loaded.model, loaded.processor, options
        self.tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
        self.has_template = bool(getattr(loaded.processor, "chat_template", None))
        self.image_token = "" if self.has_template else _missing_image_token(loaded.processor)
        if options.batch > 1:
            _pad_for_generation(self.tokenizer, self.model)
        if options.ignore_eos:
            _never_end(self.model)

    def check(self, samples: Sequence[Sample]) -> None:
        """Refuse pictures for a model that reads text alone: its tokenizer would drop them without a word.

        Raises:
            UsageError: naming the first sample with a picture.
        """
        with_picture = next((sample for sample in samples if sample.images), None)
        if with_picture is not None and self.tokenizer is self.processor:
            raise UsageError(
                f"sample '{with_picture.id}' has an image, but {type(self.model).__name__} comes with a tokenizer only",
                "leave the image out, or give a model that sees",
            )

    def ask(self, batch: Sequence[Sample], around: Around = _directly) -> list[str]:
        """The model's answers to one batch; ``around`` makes the call of ``generate()`` that it is given."""
        import torch

        if self.options.sample:
            torch.manual_seed(self.options.seed)
        pictures = [[_opened(image) for image in sample.images] for sample in batch]
        with torch.inference_mode():
            inputs = self._on_device(self._inputs([sample.prompt for sample in batch], pictures))
            settings = {"max_new_tokens": batch[0].max_new_tokens, "do_sample": self.options.sample, **self._cache()}
            output = around(lambda: self.model.generate(**inputs, **settings))
            return self._answers(inputs, getattr(output, "sequences", output))

    def _inputs(self, prompts: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Any:
        padding: dict[str, Any] = {"padding": True} if len(prompts) > 1 else {}
        if not self.has_template:
            return self._plain_inputs(prompts, pictures, padding)
        conversations = [
            [{"role": "user", "content": self._content(prompt, images)}]
            for prompt, images in zip(prompts, pictures, strict=True)
        ]
        template = self.processor.apply_chat_template
        if padding and "processor_kwargs" in inspect.signature(template).parameters:
            padding = {"processor_kwargs": padding}
        return template(
            conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **padding
        )

    def _content(self, prompt: str, images: Sequence[Image.Image]) -> str | list[dict[str, Any]]:
        """A message's content: parts for a processor; the plain text that a tokenizer's template expects."""
        if self.tokenizer is self.processor:
            return prompt
        return [*({"type": "image", "image": image} for image in images), {"type": "text", "text": prompt}]

    def _plain_inputs(
        self, prompts: Sequence[str], pictures: Sequence[Sequence[Image.Image]], padding: Mapping[str, Any]
    ) -> Any:
        """Without a chat template: the prompt as it stands, behind the image token where the processor adds none."""
        if not any(pictures):
            return self.processor(text=list(prompts), return_tensors="pt", **padding)
        texts = [
            prompt
            if not self.image_token or self.image_token in prompt
            else self.image_token * len(own) + "\n" + prompt
            for prompt, own in zip(prompts, pictures, strict=True)
        ]
        images = [list(own) if len(own) > 1 else own[0] for own in pictures]
        return self.processor(text=texts, images=images, return_tensors="pt", **padding)

    def _on_device(self, inputs: Any) -> Any:
        from transformers import BatchFeature

        if isinstance(inputs, BatchFeature):
            return inputs.to(self.model.device, dtype=self.model.dtype)
        return inputs.to(self.model.device)

    def _cache(self) -> dict[str, str]:
        return {} if self.options.cache is None else {"cache_implementation": self.options.cache}

    def _answers(self, inputs: Mapping[str, Any], output: Any) -> list[str]:
        prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        repeated = not getattr(self.model.config, "is_encoder_decoder", False) and output.shape[1] > prompt
        decode = getattr(self.processor, "batch_decode", None) or self.tokenizer.batch_decode
        answers: list[str] = decode(output[:, prompt:] if repeated else output, skip_special_tokens=True)
        return answers


def _opened(image: Path | Image.Image) -> Image.Image:
    if not isinstance(image, Path):
        return image
    from PIL import Image

    with Image.open(image) as opened:
        return opened.convert("RGB")


def _missing_image_token(processor: Any) -> str:
    """The token a prompt must hold for each image; ``""`` where the processor puts it in by itself. Tried once."""
    token = getattr(processor, "image_token", None)
    if not isinstance(token, str):
        return ""
    try:
        tokens = processor(text=["?"], images=[draw(64, 64)], return_tensors="pt")["input_ids"][0].tolist()
    except Exception:  # what a processor says of a picture without its token is its own affair
        return token
    return "" if processor.tokenizer.convert_tokens_to_ids(token) in tokens else token


def _pad_for_generation(tokenizer: Any, model: Any) -> None:
    """Prompts of unequal length are padded on the left, so that every row ends where its answer begins."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not getattr(model.config, "is_encoder_decoder", False):
        tokenizer.padding_side = "left"


def _never_end(model: Any) -> None:
    """No end-of-sequence token, in the model and in any inner model that generates on its behalf.

    Without one transformers adds no stopping criterion for it; a minimum length would add kernels to every step.
    """
    for module in _generating(model):
        settings = module.generation_config
        if settings.pad_token_id is None:
            ends = settings.eos_token_id
            settings.pad_token_id = ends[0] if isinstance(ends, list) else ends
        settings.eos_token_id = None


def _generating(model: Any) -> Iterator[Any]:
    return (module for module in model.modules() if getattr(module, "generation_config", None) is not None)


def _explained(error: Exception, batch: Sequence[Sample], role: str) -> VlmtraceError:
    import torch

    if isinstance(error, VlmtraceError):
        return error
    ids = ", ".join(dict.fromkeys(f"'{sample.id}'" for sample in batch))
    during = f"sample {ids} failed in {_TOLD[role]} request"
    if isinstance(error, torch.OutOfMemoryError):
        return VlmtraceError(f"{during}: out of GPU memory", "give a smaller --batch, --image-size or --max-new-tokens")
    return VlmtraceError(f"{during}: {one_line(error)}")
