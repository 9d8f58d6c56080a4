"""What is written on the command line, made into values; anything else is a usage error."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address

import click


def endpoint(text: str, *, remote: bool = False) -> tuple[str, int]:
    """Read ADDRESS:PORT. Without an address, or with `*`, any is meant; a `remote` needs one."""
    address, _, port = text.rpartition(":")
    bare = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    host = "" if bare == "*" else bare
    if not ((host or not remote) and is_address(host) and _is_port(port)):
        raise click.UsageError(
            f"{text!r} is not ADDRESS:PORT: an IP address (IPv6 in brackets), a port in 1..65535"
        )
    return host, int(port)


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65536


def is_address(text: str) -> bool:
    """Whether `text` is an IP address, or nothing, which stands for any. No name is looked up."""
    with suppress(ValueError):
        return not text or bool(ip_address(text))
    return False
