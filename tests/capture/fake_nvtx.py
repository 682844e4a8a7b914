"""An NVTX domain that writes down what is pushed to it, and refuses to pop what was never pushed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class FakeAttributes:
    message: str
    payload: int | None = None


class FakeDomain:
    """Stands where ``nvtx.get_domain()`` gives a domain that a tool listens to."""

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []
        self.depth = 0
        self.started: list[object] = []

    def get_event_attributes(self, message: str = "") -> FakeAttributes:
        return FakeAttributes(message)

    def push_range(self, attributes: FakeAttributes) -> None:
        self.log.append(("push", attributes.message, attributes.payload))
        self.depth += 1

    def pop_range(self) -> None:
        assert self.depth > 0, "a range is popped that was never pushed"
        self.log.append(("pop",))
        self.depth -= 1

    def start_range(self, attributes: FakeAttributes) -> object:
        handle = object()
        self.log.append(("start", attributes.message))
        self.started.append(handle)
        return handle

    def end_range(self, handle: object) -> None:
        assert handle in self.started, "a range is ended that was never started"
        self.started.remove(handle)
        self.log.append(("end",))

    def open_and_close(self) -> list[str]:
        """Names in the order in which they were pushed or started."""
        return [str(entry[1]) for entry in self.log if entry[0] in ("push", "start")]
