"""Which names was an address looked up by? From DNS answers that went by. Pure.

Total: any bytes may come, none raises. Formats: RFC 1035 (messages, A, CNAME), RFC 3596 (AAAA),
RFC 2181 section 11 (names are bytes), compared without case (RFC 4343).

It is best effort. An answer that nobody saw (DNS over HTTPS, a cache in the program, one older than
the start) leaves the address without a name, and several names may share one address.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from tunowner.core.ageing import Ageing

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = Struct("!HHHHHH")  # id, flags, questions, answers, authorities, additionals
_QUESTION = Struct("!HH")  # type, class
_RECORD = Struct("!HHIH")  # type, class, ttl, length
_RESPONSE, _OPCODE, _TRUNCATED, _RCODE = 0x8000, 0x7800, 0x0200, 0x000F
_A, _CNAME, _AAAA, _IN = 1, 5, 28, 1
_LENGTHS = {_A: 4, _AAAA: 16}
_POINTER = 0xC0

MAX_LABELS = 128
"""A name of 255 bytes has no more; pointers count too, so that a circle of them ends."""
MAX_RECORDS = 256
MAX_ADDRESSES = 16_384
"""When full the oldest is forgotten, and rules that ask for its names hold for unknown."""
MAX_NAMES = 16
"""Names of one address; a front server of a large provider has many, and the latest count."""
KEPT_S = 3_600.0
"""Programs go on using an address long after the answer's own time is over."""


class Answer(NamedTuple):
    """A DNS answer: each address with all the names that lead to it, the one asked for first."""

    addresses: tuple[bytes, ...]
    names: tuple[str, ...]


def read_answer(message: bytes) -> Answer | None:
    """Return what a DNS message answers; None when it is no answer with addresses in it."""
    if len(message) < _HEADER.size:
        return None
    _, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
    if not flags & _RESPONSE or flags & (_OPCODE | _TRUNCATED | _RCODE) or questions != 1:
        return None
    asked = _name(message, _HEADER.size)
    if asked is None:
        return None
    aliases: dict[str, str] = {}
    found: list[tuple[str, bytes]] = []
    for owner, kind, data in _records(message, asked[1] + _QUESTION.size, answers):
        if kind == _CNAME and (target := _name(message, data.start)):
            aliases[owner] = target[0]
        elif _LENGTHS.get(kind) == len(data):
            found.append((owner, message[data.start : data.stop]))
    names = _chain(asked[0], aliases)
    addresses = tuple(address for owner, address in found if owner in names)
    return Answer(addresses, tuple(names)) if addresses else None


def _records(message: bytes, start: int, count: int) -> Iterator[tuple[str, int, range]]:
    """Yield name, type and place of the data of each whole record of the Internet class."""
    for _ in range(min(count, MAX_RECORDS)):
        name = _name(message, start)
        if name is None or name[1] + _RECORD.size > len(message):
            return
        kind, group, _, length = _RECORD.unpack_from(message, name[1])
        begin = name[1] + _RECORD.size
        start = begin + length
        if start > len(message):
            return
        if group == _IN:
            yield name[0], kind, range(begin, start)


def _name(message: bytes, start: int) -> tuple[str, int] | None:
    """Return a name in lower case and where it ends; None for one that is cut or goes in a circle."""
    labels: list[str] = []
    end = 0
    for _ in range(MAX_LABELS):
        length = message[start] if start < len(message) else -1
        if length == 0:
            return ".".join(labels), end or start + 1
        if length >= _POINTER and start + 1 < len(message):
            end = end or start + 2
            start = (length & ~_POINTER) << 8 | message[start + 1]
        elif 0 < length < _POINTER >> 1 and start + length < len(message):
            labels.append(message[start + 1 : start + 1 + length].decode("latin-1").lower())
            start += 1 + length
        else:
            return None
    return None


def _chain(name: str, aliases: dict[str, str]) -> dict[str, None]:
    """Return a name and, in turn, the names that it is an alias of."""
    names = {name: None}
    while name in aliases and aliases[name] not in names:
        name = aliases[name]
        names[name] = None
    return names


class HostNames:
    """The names that addresses were looked up by, the latest first. `now` is in seconds."""

    def __init__(self) -> None:
        self._names: Ageing[bytes, tuple[str, ...]] = Ageing(MAX_ADDRESSES, KEPT_S)

    def __len__(self) -> int:
        return len(self._names)

    def learn(self, message: bytes, now: float) -> None:
        """Take a DNS message that went by, whatever it says."""
        answer = read_answer(message)
        for address in answer.addresses if answer else ():
            assert answer is not None
            before = self._names.get(address, now) or ()
            names = tuple(dict.fromkeys((*answer.names, *before)))[:MAX_NAMES]
            self._names.put(address, names, now)

    def of(self, address: bytes, now: float) -> tuple[str, ...]:
        """Return the names of a packed address; none when they are not known."""
        return self._names.get(address, now) or ()
