"""Ways of calling ``generate()``, each with what it is to show: from what transformers does, not from what we do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tests.models import build
from tests.ways import calls, prepared
from tests.ways.bench import NEW, Bench, Shows, Way
from tests.ways.calls import plain, raises

__all__ = ["WAYS"]


def _static(**more: Any) -> Callable[[Bench], Any]:
    return lambda bench: bench.generate(cache_implementation="static", compile_config=prepared.compile_config(), **more)


def _whole(bench: Bench) -> Any:
    return bench.generate(cache_implementation="static", compile_config=prepared.compile_config(fullgraph=True))


def _scores(bench: Bench) -> Any:
    more = {"output_scores": True, "output_hidden_states": True, "output_attentions": True}
    return bench.generate(return_dict_in_generate=True, **more).sequences


def _other(_: Bench) -> Any:
    tiny = build("llava", 1)
    return Bench(tiny.model, dict(tiny.inputs)).generate(max_new_tokens=2)


_TEXT: Final = "llama"
_TOWER: Final = "model.vision_tower"
_LANGUAGE: Final = "model.language_model"
_TEXT_ONLY: Final = (Shows(vision=0),)
_UNSEEN: Final = (Shows(vision=0, says="not-separable"),)
_DRAFTED: Final = (Shows(None, None, vision=0),)
_STOPPED: Final = (Shows(2, 3, new_tokens=(3,)),)
_ONE: Final = (Shows(0, 1, new_tokens=(1,)),)


def _broken(steps: int, tokens: int, *, prefill: int = 1, error: str = "ValueError") -> tuple[Shows, ...]:
    """A generation in which something was raised, and one after it as if nothing had been."""
    return Shows(steps, tokens, prefill=prefill, new_tokens=(), error=f"{error}: here"), Shows()


WAYS: Final[dict[str, Way]] = {
    "greedy": Way(plain()),
    "sampling": Way(plain(do_sample=True, temperature=0.7, top_k=20)),
    "beam search": Way(plain(num_beams=3)),
    "beam sampling": Way(plain(num_beams=2, do_sample=True)),
    "several sequences": Way(plain(do_sample=True, num_return_sequences=3), (Shows(new_tokens=(NEW,) * 3),)),
    "a padded batch": Way(calls.padded, (Shows(new_tokens=(NEW, NEW)),)),
    "a prompt of embeddings": Way(calls.embedded, _TEXT_ONLY, model=_TEXT),
    "classifier-free guidance": Way(plain(guidance_scale=1.5)),
    "one token": Way(plain(max_new_tokens=1), _ONE),
    "an end-of-sequence token": Way(plain(), _STOPPED, prepare=prepared.end_at_third_token),
    "a stopping criterion": Way(calls.stopped, _STOPPED),
    "a time limit": Way(plain(max_time=1e-9), _ONE),
    "a streamer": Way(calls.streamed),
    "scores and hidden states": Way(_scores),
    "without a cache": Way(plain(use_cache=False), inside=(Shows(vision=NEW, says="vision-repeated"),)),
    "two turns with the cache handed on": Way(calls.two_turns, _TEXT_ONLY * 2, model=_TEXT),
    "a prefill in chunks": Way(plain(prefill_chunk_size=3), (Shows(vision=0, chunks=2),), model=_TEXT),
    "a static cache, not compiled": Way(plain(cache_implementation="static", disable_compile=True)),
    "a static cache, compiled": Way(_static(), compiles=True),
    "a static cache, compiled whole": Way(_whole, compiles=True),
    "beams, compiled": Way(_static(num_beams=2), compiles=True),
    "torch.compile(model)": Way(plain(), prepare=prepared.compile_wrapped, compiles=True),
    "model.compile()": Way(plain(), inside=_UNSEEN, prepare=prepared.compile_in_place(), compiles=True),
    "a compiled forward": Way(plain(), inside=_UNSEEN, prepare=prepared.compile_forward, compiles=True),
    "a compiled vision tower": Way(plain(), prepare=prepared.compile_in_place(_TOWER), compiles=True),
    "a compiled language model": Way(plain(), prepare=prepared.compile_in_place(_LANGUAGE), compiles=True),
    "assisted by a second model": Way(calls.assisted, _DRAFTED, model=_TEXT),
    "assisted by its own early layers": Way(plain(assistant_early_exit=1), _DRAFTED, model=_TEXT),
    "prompt lookup": Way(plain(prompt_lookup_num_tokens=2), _DRAFTED, model=_TEXT),
    "a decoding method of one's own": Way(
        plain(custom_generate=calls.own_loop), (Shows(2, 0, vision=0, new_tokens=(3,)),), model=_TEXT
    ),
    "a logits processor that generates": Way(calls.asks(Bench.generate)),
    "a logits processor that asks another model": Way(calls.asks(_other)),
    "a `generate()` that asks another model first": Way(plain(), prepare=prepared.generate_that_asks),
    "a `forward()` that asks another model": Way(plain(), prepare=prepared.forward_that_asks),
    "a pipeline": Way(calls.piped("What?"), prepare=prepared.make_pipeline),
    "a pipeline, in a batch": Way(
        calls.piped("What?", "And where?"), (Shows(new_tokens=(NEW, NEW)),), prepare=prepared.make_pipeline
    ),
    "offloaded by accelerate": Way(plain(), prepare=prepared.offload),
    "a device map, with a part on disk": Way(plain(), prepare=prepared.dispatch),
    "an exception in vision": Way(raises(_TOWER), _broken(0, 0, prefill=0), inside=_broken(0, 0)),
    "an exception in prefill": Way(raises(_LANGUAGE), _broken(0, 0)),
    "an exception in a step": Way(raises(_LANGUAGE, 3), _broken(2, 2)),
    "an exception in a logits processor": Way(raises("processor", 3), _broken(2, 2)),
    "an exception in a stopping criterion": Way(raises("criterion", 3), _broken(2, 3)),
    "an interrupt in a step": Way(raises(_LANGUAGE, 3, KeyboardInterrupt), _broken(2, 2, error="KeyboardInterrupt")),
    "three calls one after another": Way(calls.repeated, (Shows(),) * 3),
    "another thread": Way(calls.in_a_thread),
    "three threads at once": Way(calls.threads, (Shows(),) * 3),
}
