"""The owner of one socket for a person, who may leave out addresses."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from tunowner.backends.linux.owners import LinuxOwners
from tunowner.backends.linux.sockdiag import ANY4, ANY6, LISTEN
from tunowner.core.model import PROTOCOL_NAMES, TCP, FlowKey, unmapped
from tunowner.errors import TunOwnerError

if TYPE_CHECKING:
    from tunowner.backends.linux.sockdiag import SocketRow
    from tunowner.core.model import Owner


def find_process(
    protocol: str,
    ip: str,
    port: int,
    remote: tuple[str, int] | None = None,
    *,
    source: LinuxOwners | None = None,
) -> Owner:
    """Return the owner of one local socket, which may be a listener; for people, not per packet.

    An empty `ip` or `*` is any local address. Without `remote` a listener goes before its
    connections, an address of its own before the wildcard; several equally good sockets of
    different programs are `ambiguous`. With a `source`, call it on the thread that walks.
    """
    number = {name: value for value, name in PROTOCOL_NAMES.items()}.get(protocol)
    if number is None:
        raise TunOwnerError(f"{protocol!r} is not tcp or udp")
    local = None if ip in ("", "*") else _packed(ip)
    far = None if remote is None else (_packed(remote[0]), remote[1])
    if source is not None:
        return _find(source, number, local, port, far)
    with LinuxOwners() as own:
        return _find(own, number, local, port, far)


def _find(
    source: LinuxOwners,
    protocol: int,
    local: bytes | None,
    port: int,
    remote: tuple[bytes, int] | None,
) -> Owner:
    if local is not None and remote is not None:
        flow = FlowKey(protocol, local, port, *remote)
        return source.quick(flow) or next(owner for _, owner in source.walk([flow]))
    ranked = [
        (place, row)
        for row in source.sockets(protocol, port)
        if (place := _fit(row, local, remote)) is not None
    ]
    best = min((place for place, _ in ranked), default=None)
    return source.holders([row for place, row in ranked if place == best])


def _fit(
    row: SocketRow, local: bytes | None, remote: tuple[bytes, int] | None
) -> tuple[bool, bool, int] | None:
    """How well a socket fits a question for a person: smaller is better, None is not at all."""
    if remote is not None and (unmapped(row.remote), row.remote_port) != remote:
        return None
    bound = unmapped(row.local)
    wildcard = bound in (ANY4, ANY6)
    if local is not None and bound != local:
        covers = len(bound) == len(local) or (bound == ANY6 and not row.v6only)
        if not wildcard or not covers:
            return None
    away = 0 if local is None or bound == local else 1
    return not row.inode, row.protocol == TCP and row.state != LISTEN, away


def _packed(ip: str) -> bytes:
    try:
        return unmapped(ip_address(ip).packed)
    except ValueError:
        raise TunOwnerError(f"{ip!r} is not an IP address") from None
