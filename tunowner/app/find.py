"""One question, one answer: who holds this socket?"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from tunowner.backends import open_backend
from tunowner.core.model import unmapped
from tunowner.errors import TunOwnerError

if TYPE_CHECKING:
    from tunowner.core.model import Owner

PROTOCOLS = ("tcp", "udp")


def find_process(protocol: str, ip: str, port: int, remote: tuple[str, int] | None = None) -> Owner:
    """Find the process that holds the local socket (`protocol`, `ip`, `port`).

    `protocol` is "tcp" or "udp"; `ip` is an address of this machine, or "" for any. With `remote`
    (address, port) the one socket of that flow is meant, otherwise whichever is bound there.
    The answer's `grade` says how sure it is; `process` is None where naming one could be wrong.
    An address of another network namespace is looked up there, if that is allowed.

    Raises TunOwnerError for what is no protocol, address or port, and BackendError where this
    system cannot answer at all.
    """
    check_question(protocol, ip, port, remote)
    return open_backend().find_process(protocol, ip, port, remote)


def check_question(protocol: str, ip: str, port: int, remote: tuple[str, int] | None) -> None:
    """Raise TunOwnerError for what cannot be asked."""
    if protocol not in PROTOCOLS:
        raise TunOwnerError(f"protocol {protocol!r} is not one of tcp, udp")
    _check(ip, port)
    if remote is None:
        return
    if not isinstance(remote, tuple | list) or len(remote) != 2:
        raise TunOwnerError(
            f"the remote end {remote!r} is not (address, port)",
            hint="An IPv6 socket's own name has more: give name[:2]",
        )
    _check(*remote)
    if not remote[0]:
        raise TunOwnerError("the remote end needs an address")
    if ip and len(_packed(ip)) != len(_packed(remote[0])):
        raise TunOwnerError(f"{ip} and {remote[0]} are of different IP versions")


def _packed(ip: str) -> bytes:
    return unmapped(ip_address(ip).packed)


def _check(ip: str, port: int) -> None:
    if not isinstance(port, int) or not 0 < port < 65536:
        raise TunOwnerError(f"port {port!r} is not in 1..65535")
    try:
        if ip:
            ip_address(ip)
    except ValueError:
        raise TunOwnerError(
            f"{ip!r} is no IP address", hint="Names are not looked up: give the address"
        ) from None
