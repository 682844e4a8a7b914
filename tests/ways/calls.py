"""Calls: what programs do with ``generate()`` that takes more than an argument."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import LogitsProcessor, StoppingCriteria

from tests.models import build
from tests.ways.bench import NEW, Bench
from vlmtrace.capture import demo

__all__ = [
    "asks",
    "assisted",
    "embedded",
    "in_a_thread",
    "own_loop",
    "padded",
    "piped",
    "plain",
    "raises",
    "repeated",
    "stopped",
    "streamed",
    "threads",
    "two_turns",
]


def plain(**more: Any) -> Callable[[Bench], Any]:
    return lambda bench: bench.generate(**more)


def padded(bench: Bench) -> Any:
    """Two sequences, the second one shorter and padded on the left."""
    inputs = {name: torch.cat([value, value]) for name, value in bench.inputs.items()}
    inputs["attention_mask"][1, :1] = 0
    return Bench(bench.model, inputs).generate()


def embedded(bench: Bench) -> Any:
    """A prompt of embeddings."""
    with torch.no_grad():
        embeddings = bench.model.get_input_embeddings()(bench.inputs["input_ids"])
    return Bench(bench.model, {"inputs_embeds": embeddings}).generate()


def two_turns(bench: Bench) -> Any:
    first = bench.generate(return_dict_in_generate=True)
    ids = torch.cat([first.sequences, torch.tensor([[9, 10, 11]])], dim=1)
    with torch.no_grad():
        second = bench.model.generate(
            input_ids=ids, past_key_values=first.past_key_values, max_new_tokens=NEW, do_sample=False
        )
    return first.sequences, second


def repeated(bench: Bench) -> Any:
    return [bench.generate() for _ in range(3)]


def assisted(bench: Bench) -> Any:
    return bench.generate(assistant_model=build("llama", 1).model)


def piped(*questions: str) -> Callable[[Bench], Any]:
    """Questions about a picture, asked through a pipeline; several ones in one batch."""
    picture = demo.draw(32, 32)

    def run(bench: Bench) -> Any:
        chats = [
            [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": question}]}]
            for question in questions
        ]
        generate = {"max_new_tokens": NEW, "do_sample": False}
        return bench.asked(text=chats, batch_size=len(chats), return_full_text=False, generate_kwargs=generate)

    return run


def in_a_thread(bench: Bench) -> Any:
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(bench.generate()))
    thread.start()
    thread.join()
    return made[0]


def threads(bench: Bench) -> Any:
    made: dict[int, Any] = {}

    def run(number: int) -> None:
        with torch.no_grad():
            inputs = {name: value.clone() for name, value in bench.inputs.items()}
            made[number] = bench.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)

    started = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return [made[number] for number in range(3)]


class _Streamer:
    """Takes tokens as they come, as a text streamer does."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.tokens.append(-1)


def streamed(bench: Bench) -> Any:
    streamer = _Streamer()
    ids = bench.generate(streamer=streamer)
    return ids, torch.tensor(streamer.tokens)


class _StopsAt(StoppingCriteria):
    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= self.length)


def stopped(bench: Bench) -> Any:
    return bench.generate(stopping_criteria=[_StopsAt(bench.prompt + 3)])


class _Processes(LogitsProcessor):
    """Does something of a user's for each token and leaves the scores as they are."""

    def __init__(self, does: Callable[[], Any]) -> None:
        self.does = does

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.does()
        return scores


class _Criterion(StoppingCriteria):
    """The same where it is asked whether to stop."""

    def __init__(self, does: Callable[[], Any]) -> None:
        self.does = does

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.does()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def asks(answer: Callable[[Bench], Any]) -> Callable[[Bench], Any]:
    """A logits processor that generates for each token, as a guard or a reward would."""
    return lambda bench: bench.generate(logits_processor=[_Processes(lambda: answer(bench))])


def raises(place: str, at: int = 1, error: type[BaseException] = ValueError) -> Callable[[Bench], Any]:
    """Something raises the ``at``-th time that ``place`` runs: a module, ``processor`` or ``criterion``.

    Then the model generates again.
    """

    def run(bench: Bench) -> Any:
        left = at

        def count(*_: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise error("here")

        more: dict[str, Any] = {}
        module: nn.Module = nn.Identity()
        if place == "processor":
            more["logits_processor"] = [_Processes(count)]
        elif place == "criterion":
            more["stopping_criteria"] = [_Criterion(count)]
        else:
            module = bench.model.get_submodule(place)
        hook = module.register_forward_hook(count)
        try:
            said = bench.generate(**more)
        except error as raised:
            said = repr(raised)
        finally:
            hook.remove()
        return said, bench.generate()

    return run


def own_loop(model: nn.Module, input_ids: torch.Tensor, **rest: Any) -> torch.Tensor:
    """A decoding method of a user's own, without a cache."""
    pixels = rest.get("pixel_values")
    for _ in range(3):
        logits = model(input_ids=input_ids, pixel_values=pixels, use_cache=False).logits
        input_ids = torch.cat([input_ids, logits[:, -1:].argmax(-1)], dim=1)
    return input_ids
