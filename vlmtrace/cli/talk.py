"""Talk: what is said to a person on stderr while a command works, and where it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Talk"]


class Talk:
    """Lines and progress on stderr: no progress where that is no terminal, nothing at all when ``quiet``."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        self.console.print(line, markup=False)

    @property
    def shows_progress(self) -> bool:
        return self.console.is_terminal and not self.quiet

    def begin(self, what: str) -> None:
        """Say what is being done now, where somebody watches."""
        if self.shows_progress:
            self.console.print(f"{what} …", markup=False, style="dim")

    @contextmanager
    def counting(self) -> Iterator[Callable[[int, int, str], None]]:
        """A bar that moves when the answered function is called with a number from 0, the total and a word.

        It is drawn in that call and at no other time: a thread that redraws would take part in what is measured.
        """
        if not self.shows_progress:
            yield lambda _number, _total, _role: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, auto_refresh=False, transient=True) as bar:
            task = bar.add_task("warmup", total=None)

            def moved(number: int, total: int, role: str) -> None:
                bar.update(task, description=role, completed=number, total=total, refresh=True)

            yield moved
