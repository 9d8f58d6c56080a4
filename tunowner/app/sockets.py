"""The connection table: which part of it is wanted, and how every door words a row."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from tunowner.backends import open_backend
from tunowner.backends.base import TableQuery
from tunowner.core.model import PROTOCOL_NAMES, TCP, UDP
from tunowner.errors import TunOwnerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunowner.backends.base import Backend
    from tunowner.core.model import Connection, Process, SocketHolder

    Test = Callable[[Process], bool]


TCP_STATES = (
    *("ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT"),
    *("CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING"),
)
"""By the names that a row's `status` has."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which sockets are wanted; what is None is not asked for.

    `listening`: TCP listeners and UDP sockets without a remote end. `app` is written as in a rule:
    a name, a path, a folder with `/` at its end; with `*`, or a regular expression after `re:`.
    `port` is that of either end. `state` is one of TCP_STATES, whatever its case, with `-` or `_`.
    """

    protocols: tuple[int, ...] = (TCP, UDP)
    listening: bool = False
    pid: int | None = None
    app: str | None = None
    port: int | None = None
    state: str | None = None


def list_sockets(wanted: Wanted, backend: Backend | None = None) -> list[Connection]:
    """Return the wanted sockets in the order of protocol, port and address.

    Raises TunOwnerError for an `app` that is no pattern and a `state` that is none, BackendError
    where there is no table.
    """
    if wanted.state is not None:
        wanted = replace(wanted, state=state_name(wanted.state))
    app = None if wanted.app is None else app_test(wanted.app)
    rows = (backend or open_backend()).connections(TableQuery(wanted.protocols))
    if wanted != Wanted(wanted.protocols):
        rows = [row for row in rows if _is_wanted(row, wanted) and _is_held(row, wanted.pid, app)]
    by_port_and_address = itemgetter(0, 3, 1, 2, 4, 5)
    return sorted(rows, key=by_port_and_address)


def _is_wanted(row: Connection, wanted: Wanted) -> bool:
    if wanted.listening and not (row.status == "LISTEN" or row.protocol == UDP > row.remote_port):
        return False
    if wanted.port is not None and wanted.port not in (row.local_port, row.remote_port):
        return False
    return wanted.state is None or row.status == wanted.state


def _is_held(row: Connection, pid: int | None, app: Test | None) -> bool:
    if pid is None and app is None:
        return True
    return any(
        pid in (None, holder.process.pid) and (app is None or app(holder.process))
        for holder in row.holders
    )


def state_name(text: str) -> str:
    """Return the TCP state as rows name it. Raises TunOwnerError for what is none."""
    name = text.upper().replace("-", "_")
    if name not in TCP_STATES:
        raise TunOwnerError(f"{text!r} is no TCP state", hint=f"One of {', '.join(TCP_STATES)}")
    return name


def app_test(text: str) -> Test:
    """Return what tells whether a process runs an app, written as in a rule."""
    from tunowner.core.rules.findings import BadValueError  # noqa: PLC0415 - PyYAML comes with it
    from tunowner.core.rules.patterns import Pattern  # noqa: PLC0415

    if not text:
        raise TunOwnerError("an app has a name or a path")
    try:
        if text.startswith("re:"):
            pattern = Pattern.expression(text)
        else:
            folder = text + "**" if text.endswith("/") else text
            pattern = Pattern.glob(folder, on_name="/" not in text)
    except BadValueError as error:
        raise TunOwnerError(f"{text!r} is no app: {error}") from None

    def test(process: Process) -> bool:
        subject = process.name if pattern.on_name else process.path
        return subject is not None and pattern.fits(subject)

    return test


def connection_fields(row: Connection) -> dict[str, Any]:
    """Return a row for machines: gopsutil's ConnectionStat, and what it lacks.

    `family` and `type` are the numbers of this system's <sys/socket.h>. `fd`, `pid`, `uids` and
    so on are those of the first holder, `pids` are all.
    """
    holder = row.holders[0] if row.holders else None
    return {
        "proto": PROTOCOL_NAMES[row.protocol],
        "fd": holder and holder.fd,
        "family": int(socket.AF_INET if row.version == 4 else socket.AF_INET6),
        "type": int(socket.SOCK_STREAM if row.protocol == TCP else socket.SOCK_DGRAM),
        "local": {"ip": address_text(row.local), "port": row.local_port},
        "remote": {"ip": address_text(row.remote), "port": row.remote_port}
        if row.remote_port
        else None,
        "status": row.status,
        "uid": row.uid,
        "grade": str(row.grade),
        **_holder_fields(holder),
        "pids": [it.process.pid for it in row.holders],
    }


def address_text(packed: bytes) -> str:
    """Return an address as text, ten times as fast as `ipaddress`: tables are long."""
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def _holder_fields(holder: SocketHolder | None) -> dict[str, Any]:
    if holder is None:
        return {"pid": None, "start": None, "name": None, "path": None, "uids": [], "user": None}
    process = holder.process
    return {
        "pid": process.pid,
        "start": process.start,
        "name": process.name,
        "path": process.path,
        "uids": list(holder.uids),
        "user": process.user,
    }
