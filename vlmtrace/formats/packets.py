"""Packets: what all packets of a Perfetto trace have in common, and the text that recurs in them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TracePacket

__all__ = ["FRAME", "Interned", "new_packet"]

FRAME: Final = b"\x0a"
"""The tag that stands before the length of each packet of a trace."""
_SEQUENCE: Final = 1


def new_packet(**fields: Any) -> tuple[Any, Any]:
    """A trace and the one packet in it: serialised, the trace is that packet as it stands in a file.

    The packet may use what earlier ones of its sequence define, unless ``fields`` say otherwise.
    """
    trace = Trace()
    common = {"trusted_packet_sequence_id": _SEQUENCE, "sequence_flags": TracePacket.SEQ_NEEDS_INCREMENTAL_STATE}
    return trace, trace.packet.add(**common | fields)


class Interned:
    """Numbers for text that recurs; text met for the first time is queued for the next packet of definitions."""

    def __init__(self) -> None:
        self._tables: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._trace, self._new = new_packet()
        self.pending = False

    def name(self, text: str) -> int:
        return self._number("event_names", text)

    def category(self, text: str) -> int:
        return self._number("event_categories", text)

    def key(self, text: str) -> int:
        return self._number("debug_annotation_names", text)

    def value(self, text: str) -> int:
        return self._number("debug_annotation_string_values", text)

    def _number(self, table: str, text: str) -> int:
        numbers = self._tables[table]
        number = numbers.get(text)
        if number is None:
            number = numbers[text] = len(numbers) + 1
            entry = getattr(self._new.interned_data, table).add(iid=number)
            if table == "debug_annotation_string_values":
                entry.str = text.encode(errors="surrogatepass")
            else:
                entry.name = text
            self.pending = True
        return number

    def definitions(self) -> bytes:
        """The packet that defines what was numbered since the last one."""
        made: bytes = self._trace.SerializeToString()
        self._new.ClearField("interned_data")
        self.pending = False
        return made
