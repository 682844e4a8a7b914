"""Ways of calling ``generate()``, each with what it is to show: from what transformers does, not from what we do."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
import transformers
from torch import nn
from transformers import CompileConfig, StoppingCriteria

from tests.models import build

__all__ = ["INSIDE", "NEW", "WAYS", "Bench", "Shows", "Way"]

NEW: Final = 6
"""New tokens that most ways ask for."""
INSIDE: Final = tuple(int(part) for part in transformers.__version__.split(".")[:2]) <= (5, 17)
"""Whether vision runs inside the first forward."""


@dataclass(eq=False)
class Bench:
    """A model of one's own, its inputs, and a second one that drafts for it."""

    model: Any
    inputs: dict[str, torch.Tensor]

    def generate(self, **more: Any) -> Any:
        inputs = {name: value.clone() for name, value in self.inputs.items()}
        torch.manual_seed(0)
        with torch.no_grad():
            return self.model.generate(**inputs, **{"max_new_tokens": NEW, "do_sample": False, **more})

    @property
    def prompt(self) -> int:
        return int(self.inputs["input_ids"].shape[1])


@dataclass(frozen=True)
class Shows:
    """What one generation of a way is to show. ``steps`` and ``tokens`` are ``None`` where the drafts decide.

    ``says`` is a finding that the summary must have: what cannot be told is said.
    """

    steps: int | None = NEW - 1
    tokens: int | None = NEW
    vision: int = 1
    chunks: int = 0
    generations: int = 1
    says: str | None = None


@dataclass(frozen=True)
class Way:
    """``run`` generates and answers what must be equal with and without tracing; ``prepare`` changes the model once.

    ``inside`` is what it shows instead where transformers runs vision inside the first forward, as up to 5.17.
    """

    run: Callable[[Bench], Any]
    shows: Shows = Shows()
    inside: Shows | None = None
    prepare: Callable[[Bench], None] | None = None
    model: str = "llava"
    compiles: bool = False


def bench(way: Way) -> Bench:
    tiny = build(way.model)
    made = Bench(copy.deepcopy(tiny.model), dict(tiny.inputs))
    if way.prepare is not None:
        way.prepare(made)
    return made


def _plain(**more: Any) -> Callable[[Bench], Any]:
    return lambda bench: bench.generate(**more)


def _compile_config(**more: Any) -> CompileConfig:
    made = CompileConfig(backend="eager", mode=None, dynamic=False, **more)
    made._compile_all_devices = True  # transformers compiles on accelerators only, unless told so
    return made


def _compiled(**more: Any) -> Callable[[Bench], Any]:
    return lambda bench: bench.generate(cache_implementation="static", compile_config=_compile_config(**more))


def _compile_model(bench: Bench) -> None:
    bench.model.compile(backend="eager")


def _compile_forward(bench: Bench) -> None:
    bench.model.forward = torch.compile(bench.model.forward, backend="eager")


def _compile_tower(bench: Bench) -> None:
    bench.model.get_submodule("model.vision_tower").compile(backend="eager")


def _compile_language(bench: Bench) -> None:
    bench.model.get_submodule("model.language_model").compile(backend="eager")


def _padded(bench: Bench) -> Any:
    """Two sequences, the second one shorter and padded on the left."""
    inputs = {name: torch.cat([value, value]) for name, value in bench.inputs.items()}
    inputs["attention_mask"][1, :1] = 0
    return Bench(bench.model, inputs).generate()


def _two_turns(bench: Bench) -> Any:
    first = bench.generate(return_dict_in_generate=True)
    ids = torch.cat([first.sequences, torch.tensor([[9, 10, 11]])], dim=1)
    with torch.no_grad():
        second = bench.model.generate(
            input_ids=ids, past_key_values=first.past_key_values, max_new_tokens=NEW, do_sample=False
        )
    return first.sequences, second


def _in_a_thread(bench: Bench) -> Any:
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(bench.generate()))
    thread.start()
    thread.join()
    return made[0]


def _threads(bench: Bench) -> Any:
    made: dict[int, Any] = {}

    def run(number: int) -> None:
        with torch.no_grad():
            inputs = {name: value.clone() for name, value in bench.inputs.items()}
            made[number] = bench.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
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


def _streamed(bench: Bench) -> Any:
    streamer = _Streamer()
    ids = bench.generate(streamer=streamer)
    return ids, torch.tensor(streamer.tokens)


class _StopsAt(StoppingCriteria):
    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= self.length)


def _stopped(bench: Bench) -> Any:
    return bench.generate(stopping_criteria=[_StopsAt(bench.prompt + 3)])


class _Raises(StoppingCriteria):
    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            raise ValueError("in the middle of decode")
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def _raised(bench: Bench) -> Any:
    try:
        return bench.generate(stopping_criteria=[_Raises(3)])
    except ValueError as error:
        return str(error)


def _own_loop(model: nn.Module, input_ids: torch.Tensor, **rest: Any) -> torch.Tensor:
    """A decoding method of a user's own, without a cache."""
    pixels = rest.get("pixel_values")
    for _ in range(3):
        logits = model(input_ids=input_ids, pixel_values=pixels, use_cache=False).logits
        input_ids = torch.cat([input_ids, logits[:, -1:].argmax(-1)], dim=1)
    return input_ids


def _repeated(bench: Bench) -> Any:
    return [bench.generate() for _ in range(3)]


def _assisted(bench: Bench) -> Any:
    return bench.generate(assistant_model=build("llama", 1).model)


_TEXT: Final = "llama"
_UNSEEN: Final = Shows(vision=0, says="not-separable")

WAYS: Final[dict[str, Way]] = {
    "greedy": Way(_plain()),
    "sampling": Way(_plain(do_sample=True, temperature=0.7, top_k=20)),
    "beam search": Way(_plain(num_beams=3)),
    "beam sampling": Way(_plain(num_beams=2, do_sample=True)),
    "several sequences": Way(_plain(do_sample=True, num_return_sequences=3)),
    "a padded batch": Way(_padded),
    "one token": Way(_plain(max_new_tokens=1), Shows(steps=0, tokens=1)),
    "scores and hidden states": Way(
        lambda bench: (
            bench.generate(
                return_dict_in_generate=True, output_scores=True, output_hidden_states=True, output_attentions=True
            ).sequences
        )
    ),
    "without a cache": Way(_plain(use_cache=False), inside=Shows(vision=NEW, says="vision-repeated")),
    "a static cache, not compiled": Way(_plain(cache_implementation="static", disable_compile=True)),
    "a static cache, compiled": Way(_compiled(), compiles=True),
    "a static cache, compiled whole": Way(_compiled(fullgraph=True), compiles=True),
    "beams, compiled": Way(
        lambda bench: bench.generate(num_beams=2, cache_implementation="static", compile_config=_compile_config()),
        compiles=True,
    ),
    "model.compile()": Way(_plain(), inside=_UNSEEN, prepare=_compile_model, compiles=True),
    "a compiled forward": Way(_plain(), inside=_UNSEEN, prepare=_compile_forward, compiles=True),
    "a compiled vision tower": Way(_plain(), prepare=_compile_tower, compiles=True),
    "a compiled language model": Way(_plain(), prepare=_compile_language, compiles=True),
    "a prefill in chunks": Way(_plain(prefill_chunk_size=3), Shows(vision=0, chunks=2), model=_TEXT),
    "assisted by a second model": Way(_assisted, Shows(None, None, vision=0), model=_TEXT),
    "assisted by its own early layers": Way(_plain(assistant_early_exit=1), Shows(None, None, vision=0), model=_TEXT),
    "prompt lookup": Way(_plain(prompt_lookup_num_tokens=2), Shows(None, None, vision=0), model=_TEXT),
    "a streamer": Way(_streamed),
    "a stopping criterion": Way(_stopped, Shows(steps=2, tokens=3)),
    "an exception in the middle": Way(_raised, Shows(steps=2, tokens=3)),
    "a decoding method of one's own": Way(
        _plain(custom_generate=_own_loop), Shows(steps=2, tokens=0, vision=0), model=_TEXT
    ),
    "two turns with the cache handed on": Way(_two_turns, Shows(vision=0, generations=2), model=_TEXT),
    "three calls one after another": Way(_repeated, Shows(generations=3)),
    "another thread": Way(_in_a_thread),
    "three threads at once": Way(_threads, Shows(generations=3)),
}
