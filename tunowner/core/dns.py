"""Host names of addresses, as this machine was told them: DNS read over its shoulder.

`HostNames` is shown the UDP packets from and to port 53. An answer counts only if its question was
seen, from the same port and with the same number, a moment before: whoever sends datagrams with
source port 53 to us cannot give addresses names. Best effort: what is asked over TLS or HTTPS, from
a file or a cache filled earlier is not seen, and one address may serve many names.

Messages: RFC 1035 section 4; AAAA: RFC 3596. Any bytes are read without raising.
"""

from __future__ import annotations

from collections import OrderedDict
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from tunowner.core.ageing import Ageing
from tunowner.core.model import UDP, FlowKey
from tunowner.core.packet import Segment, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 53
MAX_ADDRESSES = 8_192
"""Addresses whose names are kept; when full the one told longest ago goes."""
MAX_NAMES = 16
"""Names of one address: a content network serves many, a browser asks for a few."""
MAX_RECORDS = 256
"""Records of one answer that are read."""
MAX_ASKED = 2_048
"""Questions that wait for their answer."""
ANSWER_S = 10.0
"""Twice the 5 s that resolvers wait before they ask again (resolv.conf(5), timeout)."""
SHORTEST_S = 3_600.0
"""Names are kept this long whatever their TTL: programs keep using an address they looked up."""
LONGEST_S = 86_400.0

_UDP_HEADER = 8
_MAX_LABELS = 127
_HEADER = Struct("!HHHHHH")
_RECORD = Struct("!HHIH")
_RESPONSE, _OPCODE, _RCODE = 0x8000, 0x7800, 0x000F
_A, _CNAME, _AAAA, _IN = 1, 5, 28, 1
_LENGTHS = {_A: 4, _AAAA: 16}


class Answer(NamedTuple):
    """An address, the names that lead to it (the one asked for first), and for how many seconds."""

    address: bytes
    names: tuple[str, ...]
    ttl: int


class Message(NamedTuple):
    """What matters of a DNS message: a question has no answers."""

    number: int
    question: str
    is_response: bool
    answers: tuple[Answer, ...]


class _BadMessageError(Exception):
    """It is no DNS message, or one that we do not read."""


def read_message(payload: bytes | memoryview) -> Message | None:
    """Read a DNS message with one question; None for anything else."""
    data = bytes(payload)
    try:
        return _read(data)
    except _BadMessageError:
        return None


def _read(data: bytes) -> Message:
    if len(data) < _HEADER.size:
        raise _BadMessageError
    number, flags, questions, records, _, _ = _HEADER.unpack_from(data)
    if questions != 1 or flags & (_OPCODE | _RCODE):
        raise _BadMessageError
    question, offset = _name(data, _HEADER.size)
    response = bool(flags & _RESPONSE)
    answers = _answers(data, offset + 4, records, question) if response else ()
    return Message(number, question, response, tuple(answers))


def _answers(data: bytes, offset: int, count: int, question: str) -> Iterator[Answer]:
    """Yield the addresses; names that stand for others (CNAME) come before their addresses."""
    leads_to: dict[str, tuple[str, ...]] = {question: (question,)}
    for _ in range(min(count, MAX_RECORDS)):
        name, offset = _name(data, offset)
        if offset + _RECORD.size > len(data):
            raise _BadMessageError
        kind, net, ttl, length = _RECORD.unpack_from(data, offset)
        offset += _RECORD.size
        rest = data[offset : offset + length]
        if len(rest) != length:
            raise _BadMessageError
        names = leads_to.get(name)
        if names and net == _IN and kind == _CNAME:
            target, _ = _name(data, offset)
            leads_to.setdefault(target, (*names, target))
        elif names and net == _IN and _LENGTHS.get(kind) == length:
            yield Answer(rest, names, ttl)
        offset += length


def _name(data: bytes, offset: int) -> tuple[str, int]:
    """Return the name at `offset` in lower case, and where it ends."""
    labels: list[str] = []
    end = -1
    while len(labels) <= _MAX_LABELS:
        size = data[offset] if offset < len(data) else 0xFF
        if size & 0xC0 == 0xC0 and offset + 1 < len(data):  # a pointer backwards (RFC 1035 4.1.4)
            target = (size & 0x3F) << 8 | data[offset + 1]
            end = offset + 2 if end < 0 else end
            if target >= offset:
                break
            offset = target
            continue
        if size == 0:
            return ".".join(labels), offset + 1 if end < 0 else end
        label = data[offset + 1 : offset + 1 + size]
        if size > 63 or len(label) != size:
            break
        labels.append(_text(label))
        offset += 1 + size
    raise _BadMessageError


def _text(label: bytes) -> str:
    text = label.decode("ascii", "replace").lower()
    if not text.isprintable() or "." in text:
        raise _BadMessageError
    return text


class _Question(NamedTuple):
    """Who asked whom, and what."""

    flow: FlowKey
    number: int
    name: str


class HostNames:
    """The names that addresses were looked up by. `now` is monotonic seconds and must never go back."""

    def __init__(self) -> None:
        self._asked: Ageing[_Question, bool] = Ageing(MAX_ASKED, ANSWER_S)
        self._names: OrderedDict[bytes, dict[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._names)

    def packet_seen(self, packet: bytes | memoryview, now: float) -> None:
        """Take one IP packet that this machine sent or got."""
        parsed = parse(packet)
        if not isinstance(parsed, Segment) or parsed.flow.protocol != UDP:
            return
        flow = parsed.flow
        if PORT not in (flow.local_port, flow.remote_port):
            return
        message = read_message(packet[parsed.offset + _UDP_HEADER :])
        if message is None:
            return
        if not message.is_response:
            self._asked.put(_Question(flow, message.number, message.question), True, now)
            return
        asked = FlowKey(UDP, flow.remote, flow.remote_port, flow.local, flow.local_port)
        if self._asked.get(_Question(asked, message.number, message.question), now):
            for answer in message.answers:
                self._learn(answer, now)

    def _learn(self, answer: Answer, now: float) -> None:
        known = self._names.setdefault(answer.address, {})
        self._names.move_to_end(answer.address)
        until = now + min(max(answer.ttl, SHORTEST_S), LONGEST_S)
        for name in reversed(answer.names):  # the latest last, of an answer what was asked for
            known[name] = max(until, known.pop(name, 0.0))
        while len(known) > MAX_NAMES:
            del known[next(iter(known))]
        while len(self._names) > MAX_ADDRESSES:
            self._names.popitem(last=False)

    def of(self, address: bytes, now: float) -> tuple[str, ...]:
        """Return the names of a packed address in lower case, the latest first; none if unknown."""
        known = self._names.get(address)
        if known is None:
            return ()
        return tuple(name for name in reversed(known) if now < known[name])
