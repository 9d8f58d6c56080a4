"""Conditions on the flow itself, and on how well its owner is known. They are never unknown."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from tunowner.core.model import PROTOCOL_NAMES, UDP, Grade

from .condition import FlowCondition
from .findings import BadValueError, quoted, suggestion
from .shape import expect_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .logic import Truth
    from .nodes import Scalar
    from .subject import Subject

Network = IPv4Network | IPv6Network

QUIC_PORT = 443
"""RFC 9114: HTTP/3, which is nearly all QUIC there is, has no other port by default."""
_PORTS = range(1, 65536)
UNKNOWN_OWNER = "unknown"


class _Prefixes(NamedTuple):
    """All networks of one family and prefix length: the address shifted right -> the network."""

    shift: int
    networks: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Ip(FlowCondition):
    """`ip:` the remote address or its network."""

    key: ClassVar[str] = "ip"
    value: ClassVar[Mapping[str, Any]] = {"type": "string"}
    cost: ClassVar[int] = 3
    written: str
    values: tuple[Network, ...]
    families: Mapping[int, tuple[_Prefixes, ...]]
    """By the length of a packed address: 4 or 16 bytes."""

    @staticmethod
    def parse(node: Scalar) -> Network:
        text = expect_text(node)
        address, _, length = text.partition("/")
        # ip_network() also takes masks, inverted masks and scopes; one way to say it is enough.
        if "%" in address or ("/" in text and not length.isdecimal()):
            raise _not_an_address(text)
        try:
            return ip_network(text)
        except ValueError:
            pass
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            raise _not_an_address(text) from None
        message = f"{quoted(text)} has bits set after the first {network.prefixlen}"
        raise BadValueError("E104", message, f"the network is {network}")

    @classmethod
    def build(cls, written: str, values: Sequence[Network]) -> Self:
        tables: dict[tuple[int, int], dict[int, str]] = defaultdict(dict)
        for network in values:
            shift = network.max_prefixlen - network.prefixlen
            number = int(network.network_address) >> shift
            tables[network.max_prefixlen // 8, shift][number] = _network_text(network)
        families: dict[int, tuple[_Prefixes, ...]] = {}
        for (length, shift), table in sorted(tables.items()):
            families[length] = (*families.get(length, ()), _Prefixes(shift, table))
        return cls(written, tuple(values), families)

    def test(self, subject: Subject, /) -> Truth:
        remote = subject.flow.remote
        number = int.from_bytes(remote, "big")
        for shift, networks in self.families.get(len(remote), ()):
            if number >> shift in networks:
                return True
        return False

    def because(self, subject: Subject, /) -> str:
        remote = subject.flow.remote
        address = str(ip_address(remote))
        number = int.from_bytes(remote, "big")
        tables = self.families[len(remote)]
        network = next(table[key] for shift, table in tables if (key := number >> shift) in table)
        return f"ip {address}" if network == address else f"ip {address} is in {network}"

    def seen(self, subject: Subject, /) -> str:
        return str(ip_address(subject.flow.remote))


def _not_an_address(text: str) -> BadValueError:
    hint = "write 192.0.2.7, 192.0.2.0/24, 2001:db8::7 or 2001:db8::/32"
    return BadValueError("E103", f"{quoted(text)} is no address and no network", hint)


def _network_text(network: Network) -> str:
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address if single else network)


@dataclass(frozen=True, slots=True)
class Port(FlowCondition):
    """`port:` the remote port; numbers and ranges, both ends included."""

    key: ClassVar[str] = "port"
    value: ClassVar[Mapping[str, Any]] = {
        "anyOf": [
            {"type": "integer", "minimum": 1, "maximum": 65535},
            {"type": "string", "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$"},
        ]
    }
    cost: ClassVar[int] = 1
    written: str
    values: tuple[range, ...]
    starts: tuple[int, ...]
    """Sorted, of ranges that neither overlap nor touch; `ends[i]` belongs to `starts[i]`."""
    ends: tuple[int, ...]

    @staticmethod
    def parse(node: Scalar) -> range:
        """Return the ports as a range."""
        if isinstance(node.value, int) and not isinstance(node.value, bool):
            return _ports(node.text, node.value, node.value)
        first, dash, last = node.text.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise _not_a_port(node.text)
        return _ports(node.text, int(first[:6]), int((last if dash else first)[:6]))

    @classmethod
    def build(cls, written: str, values: Sequence[range]) -> Self:
        merged: list[list[int]] = []
        for ports in sorted(values, key=lambda ports: ports.start):
            if merged and ports.start <= merged[-1][1] + 1:
                merged[-1][1] = max(merged[-1][1], ports[-1])
            else:
                merged.append([ports.start, ports[-1]])
        return cls(
            written,
            tuple(values),
            tuple(low for low, _ in merged),
            tuple(high for _, high in merged),
        )

    def test(self, subject: Subject, /) -> Truth:
        port = subject.flow.remote_port
        index = bisect_right(self.starts, port)
        return index > 0 and port <= self.ends[index - 1]

    def because(self, subject: Subject, /) -> str:
        return f"port {subject.flow.remote_port}"

    def seen(self, subject: Subject, /) -> str:
        return str(subject.flow.remote_port)


def _ports(text: str, low: int, high: int) -> range:
    if low not in _PORTS or high not in _PORTS:
        raise _not_a_port(text)
    if low > high:
        raise BadValueError("E105", f"range {low}-{high} is empty", f"write {high}-{low}")
    return range(low, high + 1)


def _not_a_port(text: str) -> BadValueError:
    hint = "write 443 or 1000-2000, each from 1 to 65535"
    return BadValueError("E105", f"{quoted(text)} is no port", hint)


class _Protocol(NamedTuple):
    """A protocol's number, and the one remote port that it is told by (None: any)."""

    number: int
    port: int | None = None


_PROTOCOLS = {name: _Protocol(number) for number, name in PROTOCOL_NAMES.items()} | {
    "quic": _Protocol(UDP, QUIC_PORT)
}


@dataclass(frozen=True, slots=True)
class Protocol(FlowCondition):
    """`protocol:` tcp, udp, or quic, which is taken to be UDP to port 443."""

    key: ClassVar[str] = "protocol"
    value: ClassVar[Mapping[str, Any]] = {"enum": [*_PROTOCOLS]}
    cost: ClassVar[int] = 1
    written: str
    values: tuple[_Protocol, ...]
    protocols: frozenset[_Protocol]

    @staticmethod
    def parse(node: Scalar) -> _Protocol:
        name = expect_text(node)
        if name in _PROTOCOLS:
            return _PROTOCOLS[name]
        hint = suggestion(name, _PROTOCOLS, "protocols")
        raise BadValueError("E106", f"{quoted(name)} is no protocol", hint)

    @classmethod
    def build(cls, written: str, values: Sequence[_Protocol]) -> Self:
        return cls(written, tuple(values), frozenset(values))

    def test(self, subject: Subject, /) -> Truth:
        flow = subject.flow
        return any(
            flow.protocol == number and port in (None, flow.remote_port)
            for number, port in self.protocols
        )

    def because(self, subject: Subject, /) -> str:
        return f"protocol {self.seen(subject)}"

    def seen(self, subject: Subject, /) -> str:
        flow = subject.flow
        quic = flow.protocol == UDP and flow.remote_port == QUIC_PORT
        return f"udp to port {QUIC_PORT}" if quic else flow.protocol_name


@dataclass(frozen=True, slots=True)
class OwnerGrade(FlowCondition):
    """`owner:` how sure the owner is: a grade, or `unknown`: there is no process to name at all."""

    key: ClassVar[str] = "owner"
    value: ClassVar[Mapping[str, Any]] = {"enum": [UNKNOWN_OWNER, *map(str, Grade)]}
    cost: ClassVar[int] = 1
    written: str
    values: tuple[str, ...]
    grades: frozenset[str]

    @staticmethod
    def parse(node: Scalar) -> str:
        """Return `unknown` or the value of a `Grade`."""
        name = expect_text(node)
        known = (UNKNOWN_OWNER, *(grade.value for grade in Grade))
        if name in known:
            return name
        hint = suggestion(name, known, "values")
        raise BadValueError("E109", f"{quoted(name)} is no owner grade", hint)

    @classmethod
    def build(cls, written: str, values: Sequence[str]) -> Self:
        return cls(written, tuple(values), frozenset(values))

    def test(self, subject: Subject, /) -> Truth:
        owner = subject.owner
        if owner.grade in self.grades:
            return True
        return not owner.candidates and UNKNOWN_OWNER in self.grades

    def because(self, subject: Subject, /) -> str:
        return f"owner {subject.owner.grade}"

    def seen(self, subject: Subject, /) -> str:
        return str(subject.owner.grade)
