"""Class-level patches: found wherever a class defines the method, whenever it is defined, and put back."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vlmtrace.capture.patches import Family, Patches

SOURCE = '''
class Base:
    seen = []
    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        Base.seen.append(cls.__name__)
    def run(self, x):
        """Runs."""
        return ("base", x)

class Child(Base):
    def run(self, x):
        return ("child", super().run(x))

class Plain:
    def run(self, x):
        return x
'''


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "patched_module.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield "patched_module"
    sys.modules.pop("patched_module", None)


def patches(name: str, told: list[str], base: str = "Base") -> Patches:
    def around(original: Any, owner: Any, args: Any, kwargs: Any) -> Any:
        told.append(type(owner).__name__)
        return original(owner, *args, **kwargs)

    return Patches([Family(name, base, {"run": around})])


def classes(module: ModuleType) -> list[object]:
    return [cls.__dict__.get(n) for cls in (module.Base, module.Child) for n in ("run", "__init_subclass__")]


def test_every_class_that_defines_the_method_is_wrapped_and_results_pass_through(source: str) -> None:
    module = importlib.import_module(source)
    before, told = classes(module), []
    patched = patches(source, told)
    patched.install()
    assert module.Child().run(1) == ("child", ("base", 1))
    assert told == ["Child", "Child"], "the subclass's method and the one it defers to"
    assert module.Base.run.__doc__ == "Runs."
    patched.remove()
    assert classes(module) == before


def test_a_method_that_somebody_took_while_it_was_wrapped_is_the_classs_own_afterwards(source: str) -> None:
    module = importlib.import_module(source)
    told: list[str] = []
    patched = patches(source, told)
    patched.install()
    taken = module.Base().run
    patched.remove()
    assert taken(1) == ("base", 1)
    assert told == []


def test_a_method_that_an_instance_holds_itself_is_wrapped_on_it_and_put_back(source: str) -> None:
    module = importlib.import_module(source)
    told: list[object] = []

    def around(original: Any, owner: Any, args: Any, kwargs: Any) -> Any:
        told.append(owner)
        return original(owner, *args, **kwargs)

    held, plain, own = module.Base(), module.Base(), module.Base().run
    held.run = own
    patched = Patches(())
    patched.install()
    for instance in (held, plain):
        patched.shadow(instance, "run", around)
    taken = held.run
    assert (held.run(1), plain.run(x=2)) == (("base", 1), ("base", 2))
    assert told == [held], "what has no method of its own has its class's, wrapped there"
    patched.remove()
    assert (vars(held), vars(plain)) == ({"run": own}, {})
    assert (taken(1), told) == (("base", 1), [held])


def test_a_class_defined_while_installed_is_wrapped_and_put_back(source: str) -> None:
    module = importlib.import_module(source)
    told: list[str] = []
    patched = patches(source, told)
    patched.install()
    late = type("Late", (module.Base,), {"run": lambda self, x: ("late", x)})
    original = late.__dict__["run"].__wrapped__
    assert late().run(2) == ("late", 2)
    patched.remove()
    assert told == ["Late"]
    assert late.__dict__["run"] is original
    assert module.Base.seen[-1] == "Late", "what the base does with its subclasses still happens"


def test_a_class_without_an_own_hook_for_subclasses_gets_none_left(source: str) -> None:
    module = importlib.import_module(source)
    patched = patches(source, [], "Plain")
    patched.install()
    patched.remove()
    assert "__init_subclass__" not in module.Plain.__dict__


def test_a_module_imported_later_is_patched_when_it_has_run_and_keeps_its_own_loader(source: str) -> None:
    told: list[str] = []
    patched = patches(source, told)
    patched.install()
    assert source not in sys.modules, "installing imports nothing"
    module = importlib.import_module(source)
    assert module.Base().run(3) == ("base", 3)
    assert told == ["Base"]
    assert type(module.__loader__).__name__ == "SourceFileLoader"
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    patched.remove()


def test_removing_leaves_no_finder(source: str) -> None:
    before = list(sys.meta_path)
    patched = patches(source, [])
    patched.install()
    patched.remove()
    assert sys.meta_path == before


def test_what_a_program_puts_in_the_place_of_a_wrap_is_left_to_it(source: str) -> None:
    module = importlib.import_module(source)
    patched = patches(source, [])
    patched.install()

    def own(_self: object, x: int) -> int:
        return x

    module.Base.run = own
    patched.remove()
    assert module.Base.run is own


def test_a_static_method_of_the_same_name_is_left_as_it_is(source: str) -> None:
    module = importlib.import_module(source)
    told: list[str] = []
    patched = patches(source, told)
    patched.install()
    late = type("Late", (module.Base,), {"run": staticmethod(lambda x: ("static", x))})
    assert late().run(1) == ("static", 1)
    patched.remove()
    assert told == []


def test_a_program_that_takes_the_finder_away_does_not_hinder_removing(source: str) -> None:
    before = list(sys.meta_path)
    patched = patches(source, [])
    patched.install()
    (finder,) = (one for one in sys.meta_path if one not in before)
    sys.meta_path.remove(finder)
    patched.remove()
    assert sys.meta_path == before
