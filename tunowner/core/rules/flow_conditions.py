"""Conditions on the flow itself, and on how well its owner is known. They are never unknown."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from tunowner.core.model import PROTOCOL_NAMES, FlowKey, Grade, Owner

from .condition import FlowCondition
from .findings import BadValueError, quoted, suggestion
from .shape import expect_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .logic import Truth
    from .nodes import Scalar

Network = IPv4Network | IPv6Network

_PROTOCOLS = {name: number for number, name in PROTOCOL_NAMES.items()}
_PORTS = range(1, 65536)
UNKNOWN_OWNER = "unknown"


class _Prefixes(NamedTuple):
    """All networks of one family and prefix length: the address shifted right -> the network."""

    shift: int
    networks: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Ip(FlowCondition):
    """`ip:` the remote address. One dictionary look-up for each prefix length in use."""

    key: ClassVar[str] = "ip"
    cost: ClassVar[int] = 3
    written: str
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
            network = ip_network(text, strict=False)
        except ValueError:
            raise _not_an_address(text) from None
        if "/" in text and network.network_address != ip_address(address):
            message = f"{quoted(text)} has bits set after the first {network.prefixlen}"
            raise BadValueError("E104", message, f"the network is {network}")
        return network

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
        return cls(written, families)

    def test(self, flow: FlowKey, _owner: Owner, /) -> Truth:
        number = int.from_bytes(flow.remote, "big")
        for shift, networks in self.families.get(len(flow.remote), ()):
            if number >> shift in networks:
                return True
        return False

    def because(self, flow: FlowKey, _owner: Owner, /) -> str:
        address = str(ip_address(flow.remote))
        number = int.from_bytes(flow.remote, "big")
        tables = self.families[len(flow.remote)]
        network = next(table[key] for shift, table in tables if (key := number >> shift) in table)
        return f"ip {address}" if network == address else f"ip {address} is in {network}"


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
    cost: ClassVar[int] = 1
    written: str
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
        return cls(written, tuple(low for low, _ in merged), tuple(high for _, high in merged))

    def test(self, flow: FlowKey, _owner: Owner, /) -> Truth:
        index = bisect_right(self.starts, flow.remote_port)
        return index > 0 and flow.remote_port <= self.ends[index - 1]

    def because(self, flow: FlowKey, _owner: Owner, /) -> str:
        return f"port {flow.remote_port}"


def _ports(text: str, low: int, high: int) -> range:
    if low not in _PORTS or high not in _PORTS:
        raise _not_a_port(text)
    if low > high:
        raise BadValueError("E105", f"range {low}-{high} is empty", f"write {high}-{low}")
    return range(low, high + 1)


def _not_a_port(text: str) -> BadValueError:
    hint = "write 443 or 1000-2000, each from 1 to 65535"
    return BadValueError("E105", f"{quoted(text)} is no port", hint)


@dataclass(frozen=True, slots=True)
class Protocol(FlowCondition):
    """`protocol:` tcp or udp."""

    key: ClassVar[str] = "protocol"
    cost: ClassVar[int] = 1
    written: str
    numbers: frozenset[int]

    @staticmethod
    def parse(node: Scalar) -> int:
        """Return the protocol's number."""
        name = expect_text(node)
        if name in _PROTOCOLS:
            return _PROTOCOLS[name]
        hint = suggestion(name, _PROTOCOLS, "protocols")
        raise BadValueError("E106", f"{quoted(name)} is no protocol", hint)

    @classmethod
    def build(cls, written: str, values: Sequence[int]) -> Self:
        return cls(written, frozenset(values))

    def test(self, flow: FlowKey, _owner: Owner, /) -> Truth:
        return flow.protocol in self.numbers

    def because(self, flow: FlowKey, _owner: Owner, /) -> str:
        return f"protocol {flow.protocol_name}"


@dataclass(frozen=True, slots=True)
class OwnerGrade(FlowCondition):
    """`owner:` how sure the owner is: a grade, or `unknown`: there is no process to name at all."""

    key: ClassVar[str] = "owner"
    cost: ClassVar[int] = 1
    written: str
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
        return cls(written, frozenset(values))

    def test(self, _flow: FlowKey, owner: Owner, /) -> Truth:
        if owner.grade in self.grades:
            return True
        return not owner.candidates and UNKNOWN_OWNER in self.grades

    def because(self, _flow: FlowKey, owner: Owner, /) -> str:
        return f"owner {owner.grade}"
