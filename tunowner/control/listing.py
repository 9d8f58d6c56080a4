"""What `sockets` prints. It imports little: start-up is most of the time that a short table takes."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import click

from tunowner.app.sockets import address_text, connection_fields, list_sockets
from tunowner.control.render import clean
from tunowner.core.model import PROTOCOL_NAMES, TCP, UDP, Process
from tunowner.errors import BackendError, TunOwnerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tunowner.app.sockets import Wanted
    from tunowner.core.model import Connection, Grade

    HolderKey = tuple[Process | Grade, int | None]

Key = TypeVar("Key")

HEADINGS = ("PROTO", "STATUS", "LOCAL", "REMOTE", "USER", "PID", "NAME", "PATH")
WIDEST = 46
"""A wider cell pushes its own line only: an IPv6 address with its port is 47 at most."""


def tell_table(wanted: Wanted, *, as_json: bool) -> None:
    """Print the connection table."""
    try:
        rows = list_sockets(wanted)
    except BackendError:
        raise
    except TunOwnerError as error:
        raise click.UsageError(str(error)) from None
    lines = _json_lines(rows) if as_json else sockets_table(rows)
    sys.stdout.writelines(line + "\n" for line in lines)


def protocol_numbers(*, tcp: bool, udp: bool) -> tuple[int, ...]:
    """Return the protocols asked for; both when none is."""
    chosen = tuple(number for number, wanted in ((TCP, tcp), (UDP, udp)) if wanted)
    return chosen or (TCP, UDP)


def _json_lines(rows: Sequence[Connection]) -> Iterator[str]:
    from json import JSONEncoder  # noqa: PLC0415 - people do not need it

    return map(JSONEncoder(ensure_ascii=True).encode, map(connection_fields, rows))


def sockets_table(rows: Sequence[Connection]) -> Iterator[str]:
    """Yield the lines of the connection table, the headings first.

    What rows have in common is worded once: a process has many sockets, a table thousands.
    """
    address = cache(_address)
    kinds = [(row.protocol, row.status) for row in rows]
    holders = [_holder_key(row) for row in rows]
    first, last = _aligned(HEADINGS[:2], kinds, _kind), _aligned(HEADINGS[4:], holders, _holder)
    here = [HEADINGS[2], *(f"{address(row.local)}:{row.local_port}" for row in rows)]
    there = [HEADINGS[3], *(_remote(row, address) for row in rows)]
    left, right = (min(WIDEST, max(map(len, ends))) for ends in (here, there))
    for kind, local, remote, holder in zip(first, here, there, last, strict=True):
        yield f"{kind}  {local:<{left}}  {remote:<{right}}  {holder}".rstrip()


def _aligned(
    headings: Sequence[str], keys: Sequence[Key], word: Callable[[Key], tuple[str, ...]]
) -> list[str]:
    """Return some columns of each line as one text; rows of the same key have the same."""
    cells = {key: word(key) for key in dict.fromkeys(keys)}
    columns = zip(headings, *cells.values(), strict=True)
    line = "  ".join(f"{{:<{min(WIDEST, max(map(len, column)))}}}" for column in columns)
    texts = {key: line.format(*words) for key, words in cells.items()}
    return [line.format(*headings), *map(texts.__getitem__, keys)]


def _address(packed: bytes) -> str:
    text = address_text(packed)
    return text if len(packed) == 4 else f"[{text}]"


def _remote(row: Connection, address: Callable[[bytes], str]) -> str:
    return f"{address(row.remote)}:{row.remote_port}" if row.remote_port else "*"


def _kind(key: tuple[int, str]) -> tuple[str, ...]:
    protocol, status = key
    return PROTOCOL_NAMES[protocol], "-" if status == "NONE" else status


def _holder_key(row: Connection) -> HolderKey:
    held = row.holders
    return (held[0].process, len(held)) if held else (row.grade, row.uid)


def _holder(key: HolderKey) -> tuple[str, ...]:
    """Word the first holder, the others are told by their number. Without one the grade says why."""
    first, number = key
    if not isinstance(first, Process):
        return clean("-" if number is None else number), "-", f"({first})", ""
    more = f" +{number - 1}" if number and number > 1 else ""
    path = clean(first.path or "?") + (" (deleted)" if first.deleted else "")
    user = clean(first.uid if first.user is None else first.user)
    return user, f"{first.pid}{more}", clean(first.name or "?"), path
