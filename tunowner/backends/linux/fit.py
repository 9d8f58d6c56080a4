"""How well a socket fits the question of a person, who may leave out addresses."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

from tunowner.backends.linux.sockdiag import ANY4, ANY6, LISTEN, unmapped
from tunowner.core.model import TCP
from tunowner.errors import TunOwnerError

if TYPE_CHECKING:
    from tunowner.backends.linux.sockdiag import SocketRow


def fit(
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


def packed(ip: str) -> bytes:
    try:
        return unmapped(ip_address(ip).packed)
    except ValueError:
        raise TunOwnerError(f"{ip!r} is not an IP address") from None
