"""What was laid: kernels to launch, ranges, and the work that was launched in each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Kernel", "Laid", "Work"]


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel to launch: how long it runs, and its name without and with its template arguments."""

    ns: int
    name: str = "vectorized_elementwise_kernel"
    template: str = "<(int)4, at::native::FillFunctor<float>, std::array<char *, (unsigned long)1>>"

    @property
    def demangled(self) -> str:
        return f"void at::native::{self.name}{self.template}"

    @property
    def mangled(self) -> str:
        return f"_ZN2at6native{len(self.name)}{self.name}ILi4EEEvv"


@dataclass(slots=True)
class Work:
    """Device work that was laid: how much of each kind, its summed nanoseconds, when it first began and last ended."""

    kernels: int = 0
    kernel_ns: int = 0
    copies: int = 0
    copied_bytes: int = 0
    memsets: int = 0
    graphs: int = 0
    ns: int = 0
    first: int | None = None
    last: int | None = None
    by_name: Counter[str] = field(default_factory=Counter)

    def add(self, start: int, end: int) -> None:
        self.ns += end - start
        self.first = start if self.first is None or start < self.first else self.first
        self.last = end if self.last is None or end > self.last else self.last

    def add_kernel(self, name: str, start: int, end: int) -> None:
        self.kernels += 1
        self.kernel_ns += end - start
        self.by_name[name] += 1
        self.add(start, end)

    def __iadd__(self, other: Work) -> Work:
        for key in ("kernels", "kernel_ns", "copies", "copied_bytes", "memsets", "graphs", "ns", "by_name"):
            setattr(self, key, getattr(self, key) + getattr(other, key))
        self.first = min((at for at in (self.first, other.first) if at is not None), default=None)
        self.last = max((at for at in (self.last, other.last) if at is not None), default=None)
        return self


@dataclass(slots=True, eq=False)
class Laid:
    """A range that was laid. ``end`` is ``None`` where it was never closed.

    ``own`` is the work launched in it and in no range of its domain inside it. ``marks`` are the (host, device) times
    of its two marks, where it has marks: the host's before ``start`` and behind ``end``, at the export's ``beside_ns``.
    """

    name: str
    number: int | None
    thread: int
    start: int
    end: int | None = None
    children: list[Laid] = field(default_factory=list)
    own: Work = field(default_factory=Work)
    marks: list[tuple[int, int]] = field(default_factory=list)

    def walk(self) -> Iterator[Laid]:
        yield self
        for child in self.children:
            yield from child.walk()

    @property
    def work(self) -> Work:
        """The work launched in it, whatever range of its domain lay inside it."""
        total = Work()
        for one in self.walk():
            total += one.own
        return total
