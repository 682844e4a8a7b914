"""Wrapped methods: put back whoever leaves first, made once however many ask, and an instance's own in its copies."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from vlmtrace.capture.boundaries import span
from vlmtrace.capture.wraps import Method, Wraps


class Bell:
    """Rings as often as it says."""

    def __init__(self, times: int) -> None:
        self.times = times

    def ring(self, word: str = "ding") -> str:
        return " ".join([word] * self.times)


def louder(original: Method) -> Method:
    def ring(self: Bell, *args: Any, **kwargs: Any) -> str:
        return f"{original(self, *args, **kwargs)}!"

    return ring


def named(name: str, original: Method) -> Method:
    def ring(self: Bell, *args: Any, **kwargs: Any) -> str:
        return f"{name}({original(self, *args, **kwargs)})"

    return ring


def wrapped(bell: Bell, *wrappers: Callable[[Method], Method]) -> Wraps:
    made = Wraps()
    for wrapper in wrappers:
        made.add(bell, "ring", wrapper)
    return made


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_whoever_leaves_first_what_is_left_works_and_at_last_all_is_as_it_was(order: tuple[int, ...]) -> None:
    bell = Bell(1)
    listeners = [wrapped(bell, functools.partial(named, name)) for name in "abc"]
    assert bell.ring() == "c(b(a(ding)))"
    there = [0, 1, 2]
    for left in order:
        listeners[left].remove()
        there.remove(left)
        expected = "ding"
        for other in there:
            expected = f"{'abc'[other]}({expected})"
        assert bell.ring() == expected
    assert vars(bell) == {"times": 1}


def test_the_same_wrapper_of_two_listeners_works_once_until_both_have_left() -> None:
    bell = Bell(1)
    one, other = (wrapped(bell, louder, functools.partial(named, "a")) for _ in range(2))
    assert bell.ring() == "a(ding!)"
    one.remove()
    assert bell.ring() == "a(ding!)"
    other.remove()
    assert bell.ring() == "ding"


def test_a_listener_that_has_left_can_come_again() -> None:
    bell = Bell(1)
    listener = wrapped(bell, louder)
    assert listener
    listener.remove()
    listener.remove()
    assert not listener
    listener.add(bell, "ring", louder)
    assert bell.ring("dong") == "dong!"
    listener.remove()


def test_a_copy_that_is_made_meanwhile_asks_itself_and_is_wrapped_anew_as_if_it_were_not() -> None:
    bell = Bell(1)
    listener = wrapped(bell, louder)
    other = copy.deepcopy(bell)
    listener.remove()
    other.times = 2
    assert other.ring() == "ding ding!"
    again = wrapped(other, louder)
    assert other.ring() == "ding ding!"
    again.remove()
    assert vars(other) == {"times": 2}


def test_a_copied_module_computes_with_its_own_weights() -> None:
    module = nn.Linear(2, 2, bias=False)
    listener = Wraps()
    listener.add(module, "_call_impl", functools.partial(span, 0, 0, False))
    other = copy.deepcopy(module)
    listener.remove()
    nn.init.zeros_(other.weight)
    assert not other(torch.ones(2)).any()
    assert module(torch.ones(2)).any()


def test_a_listener_that_comes_again_finds_what_it_made_before() -> None:
    bell, listener, made = Bell(1), Wraps(), []
    counted = functools.partial(lambda _name, original: made.append(original) or louder(original), "a")
    for _ in range(3):
        listener.add(bell, "ring", counted)
        assert bell.ring() == "ding!"
        listener.remove()
        assert vars(bell) == {"times": 1}
    assert len(made) == 1
    listener.add(bell, "ring", counted)
    other = wrapped(bell, functools.partial(named, "b"))
    assert bell.ring() == "b(ding!)"
    listener.remove()
    assert bell.ring() == "b(ding)"
    other.remove()


def test_what_is_kept_holds_nothing_of_another_listener() -> None:
    """Who may be about another model, which shares the part and has been deleted since."""
    bell, one, another = Bell(1), Wraps(), Wraps()
    held = Bell(2)
    gone = weakref.ref(held)
    one.add(bell, "ring", louder)
    another.add(bell, "ring", functools.partial(lambda held, original: named(held.ring(), original), held))
    assert bell.ring() == "ding ding(ding!)"
    one.remove()
    another.remove()
    del another, held
    gc.collect()
    assert gone() is None
    one.add(bell, "ring", louder)
    assert bell.ring() == "ding!"
    one.remove()


def test_a_method_that_was_replaced_meanwhile_is_the_one_that_is_wrapped() -> None:
    class Chime(Bell):
        """Its class may be changed."""

    bell, listener = Chime(1), Wraps()

    def heard() -> str:
        listener.add(bell, "ring", louder)
        try:
            return bell.ring()
        finally:
            listener.remove()

    assert heard() == "ding!"
    Chime.ring = lambda self, word="dong": word * (1 + self.times)  # type: ignore[method-assign]
    assert heard() == "dongdong!"
    vars(bell)["ring"] = lambda: "its own"
    assert heard() == "its own!"
    del vars(bell)["ring"]
    assert heard() == "dongdong!"


def test_what_the_instance_holds_itself_is_wrapped_and_put_back() -> None:
    bell = Bell(1)
    own = functools.partial(lambda times, word="dong": word * times, 3)
    vars(bell)["ring"] = own
    listener = wrapped(bell, louder)
    assert bell.ring("x") == "xxx!"
    assert list(inspect.signature(bell.ring).parameters) == ["word"]
    listener.remove()
    assert vars(bell)["ring"] is own


def test_the_signature_is_the_methods_own() -> None:
    bell = Bell(1)
    before = inspect.signature(bell.ring)
    listener = wrapped(bell, louder)
    assert inspect.signature(bell.ring) == before
    listener.remove()


def test_a_method_that_is_not_there_is_not_wrapped() -> None:
    bell = Bell(1)
    listener = Wraps()
    listener.add(bell, "toll", louder)
    assert not listener
    assert not hasattr(bell, "toll")


def test_what_the_program_puts_there_meanwhile_stays() -> None:
    bell = Bell(1)
    one, other = wrapped(bell, louder), Wraps()
    vars(bell)["ring"] = own = lambda word="dong": word * 2
    other.add(bell, "ring", functools.partial(named, "a"))
    assert bell.ring() == "dongdong"
    one.remove()
    other.remove()
    assert vars(bell)["ring"] is own


def test_what_is_made_of_a_wrapped_method_is_the_programs_own() -> None:
    bell = Bell(1)
    listener = wrapped(bell, louder)
    made = functools.wraps(bell.ring)(lambda: "made")
    listener.remove()
    vars(bell)["ring"] = made
    again = wrapped(bell, louder)
    assert bell.ring() == "made!"
    again.remove()
    assert vars(bell)["ring"] is made


def test_a_method_of_the_class_that_was_patched_on_the_instance_is_wrapped() -> None:
    """Its signature, taken over from the class, names the instance already."""
    bell = Bell(1)
    vars(bell)["ring"] = functools.wraps(Bell.ring)(lambda *args: "patched")
    listener = wrapped(bell, louder)
    assert bell.ring() == "patched!"
    listener.remove()
    assert bell.ring() == "patched"


def test_a_wrapper_that_fails_leaves_nothing_behind() -> None:
    def fails(_original: Method) -> Method:
        raise RuntimeError("no")

    bell = Bell(1)
    first, listener = wrapped(bell, louder), Wraps()
    with pytest.raises(RuntimeError, match="no"):
        listener.add(bell, "ring", fails)
    assert not listener
    assert bell.ring() == "ding!"
    first.remove()
    assert vars(bell) == {"times": 1}


def test_a_listener_that_leaves_while_it_comes_leaves_nothing_behind() -> None:
    """As a signal's handler may have it do, on the same thread."""
    bell, listener = Bell(1), Wraps()

    def leaves(original: Method) -> Method:
        listener.remove()
        return louder(original)

    listener.add(bell, "ring", leaves)
    listener.remove()
    assert vars(bell) == {"times": 1}
