"""Owners where there is no better way: psutil's connection table, on macOS, BSD and others.

Every answer reads the whole table (tens to hundreds of ms) and nothing of it is kept. psutil names
one process for each socket, so who else holds it is not known. The grades:
- `exact` the one row with these two ends (for a listener: this local end);
- `wildcard` an unconnected UDP socket bound to the port that is the only one to fit;
- `ambiguous` several rows fit equally well and name different processes;
- `denied` the row, or some process, may not be looked at; `closed` TIME_WAIT and its like;
- `absent` no row, and nothing was refused.

A process is believed after it was asked for the socket again: its pid may have been reused.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tunowner.backends.base import Check
from tunowner.core.model import (
    TCP,
    UDP,
    Connection,
    FlowKey,
    Grade,
    Owner,
    Process,
    ProcessDetails,
    SocketHolder,
    unmapped,
)
from tunowner.errors import BackendError

try:
    import psutil
except ImportError as error:
    raise BackendError(
        "on this system owners are looked up by psutil, which is not installed",
        hint="pip install 'tunowner[portable]'",
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tunowner.backends.base import (
        DataPlane,
        DnsTap,
        EbpfSettings,
        GateSettings,
        OwnerSource,
        SocketDeaths,
        TableQuery,
    )

BACKEND = "psutil"
_CLOSING = ("TIME_WAIT", "CLOSE", "FIN_WAIT1", "FIN_WAIT2", "LAST_ACK", "CLOSING", "DELETE_TCB")


class Row(NamedTuple):
    """One row of psutil's table. `remote_port` is 0 for an unconnected socket."""

    protocol: int
    version: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    status: str
    pid: int | None
    fd: int | None


class Table(NamedTuple):
    """What psutil could read; `refused` if some process kept its sockets from us."""

    rows: list[Row]
    refused: bool = False


def read_table() -> Table:
    """Read every TCP and UDP socket. macOS gives all of them to root only, others' are left out."""
    try:
        found = psutil.net_connections("inet")
    except psutil.AccessDenied:
        return _read_processes()
    except (psutil.Error, OSError) as error:
        what = f"the connection table cannot be read: {error}"
        raise BackendError(what, where=BACKEND) from error
    return Table([_row(it, it.pid) for it in found])


def _read_processes() -> Table:
    rows, refused = [], False
    for pid in psutil.pids():
        try:
            rows += [_row(it, pid) for it in psutil.Process(pid).net_connections("inet")]
        except psutil.AccessDenied:
            refused = True
        except (psutil.Error, OSError):
            continue
    return Table(rows, refused)


def _row(found: Any, pid: int | None) -> Row:
    version = 6 if found.family == socket.AF_INET6 else 4
    local, local_port = _end(found.laddr, version)
    remote, remote_port = _end(found.raddr, version)
    protocol = TCP if found.type == socket.SOCK_STREAM else UDP
    fd = found.fd if found.fd is not None and found.fd >= 0 else None
    return Row(protocol, version, local, local_port, remote, remote_port, found.status, pid, fd)


def _end(address: Any, version: int) -> tuple[bytes, int]:
    """Return a packed address and a port. An absent one is the wildcard; a scope is left out."""
    if not address:
        return bytes(4 if version == 4 else 16), 0
    text = address.ip.partition("%")[0]
    return ip_address(text).packed if text else bytes(4 if version == 4 else 16), address.port


def fit(row: Row, local: bytes | None, port: int, remote: tuple[bytes, int] | None) -> int | None:
    """How well a row fits a question: 0 is best, None not at all.

    0 both ends, 1 the local address, 2 the wildcard of its family, 3 the IPv6 wildcard, which may
    serve IPv4 too. Without `remote` listeners and unconnected sockets go before connections.
    """
    if row.local_port != port:
        return None
    place = 1 if local is None else _local_fit(row, local)
    if place is None:
        return None
    if remote is None:
        return place + 4 * bool(row.remote_port)
    if row.remote_port:
        same = (unmapped(row.remote), row.remote_port) == remote
        return 0 if same and place == 1 else None
    return place if row.protocol == UDP else None


def _local_fit(row: Row, local: bytes) -> int | None:
    bound = unmapped(row.local)
    if bound == local:
        return 1
    if any(bound):
        return None
    if len(bound) == len(local):
        return 2
    return 3 if len(bound) == 16 else None


class PortableOwners:
    """An `OwnerSource`. Nothing is quick here, so `quick` never knows."""

    def quick(self, flow: FlowKey, since: float | None = None) -> Owner | None:  # noqa: ARG002
        return None

    def walk(self, flows: Sequence[FlowKey]) -> Iterator[tuple[FlowKey, Owner]]:
        begun = time.monotonic()
        table = None
        with suppress(BackendError):
            table = read_table()
        for flow in dict.fromkeys(flows):
            ends = (flow.local, flow.local_port, (flow.remote, flow.remote_port))
            yield flow, _owner(table, flow.protocol, *ends, begun)

    def close(self) -> None:
        """Nothing is open."""


def find_process(protocol: str, ip: str, port: int, remote: tuple[str, int] | None) -> Owner:
    """See `Backend.find_process`."""
    begun = time.monotonic()
    number = TCP if protocol == "tcp" else UDP
    local = None if ip in ("", "*") else _packed(ip)
    far = None if remote is None else (_packed(remote[0]), remote[1])
    return _owner(read_table(), number, local, port, far, begun)


def _packed(ip: str) -> bytes:
    return unmapped(ip_address(ip.partition("%")[0]).packed)


def _owner(
    table: Table | None,
    protocol: int,
    local: bytes | None,
    port: int,
    remote: tuple[bytes, int] | None,
    begun: float,
) -> Owner:
    if table is None:
        return _made(Grade.DENIED, begun)
    rows = _best(
        (place, row)
        for row in table.rows
        if row.protocol == protocol and (place := fit(row, local, port, remote)) is not None
    )
    if not rows:
        return _made(Grade.DENIED if table.refused else Grade.ABSENT, begun)
    pids = {row.pid for row in rows}
    if None in pids or 0 in pids:
        closed = all(row.status in _CLOSING for row in rows)
        return _made(Grade.CLOSED if closed else Grade.DENIED, begun)
    processes = [_holder(row) for row in rows]
    found = tuple(dict.fromkeys(process for process in processes if process is not None))
    if len(pids) > 1:
        return _made(Grade.AMBIGUOUS, begun, found)
    if not found:
        return _made(Grade.CLOSED, begun)
    sure = protocol == TCP or bool(rows[0].remote_port)
    return _made(Grade.EXACT if sure else Grade.WILDCARD, begun, found)


def _best(ranked: Iterable[tuple[int, Row]]) -> list[Row]:
    """Return the rows of the best place, for UDP without a connection those of every place.

    Any unconnected socket of the port may be the sender.
    """
    places = sorted(ranked, key=lambda item: item[0])
    if not places:
        return []
    best, first = places[0]
    wide = first.protocol == UDP and not first.remote_port
    return [row for place, row in places if place == best or (wide and not row.remote_port)]


def _made(grade: Grade, begun: float, candidates: tuple[Process, ...] = ()) -> Owner:
    now = time.monotonic()
    lookup_us = int((now - begun) * 1e6)
    return Owner(grade, candidates, backend=BACKEND, resolved_at=now, lookup_us=lookup_us)


def _holder(row: Row) -> Process | None:
    """Describe the process of a row if, asked again, it has the socket."""
    if row.pid is None:
        return None
    try:
        process = psutil.Process(row.pid)
        described = describe(process)
        now = [_row(it, row.pid) for it in process.net_connections("inet")]
    except (psutil.Error, OSError):
        return None
    ends = row[:6]
    return described if any(it[:6] == ends for it in now) and process.is_running() else None


def describe(process: psutil.Process) -> Process:
    """Describe a process. `start` is its creation time in hundredths of a second."""
    with process.oneshot():
        uid = process.uids().effective if hasattr(process, "uids") else None
        return Process(
            process.pid,
            int(process.create_time() * 100),
            _or_none(process.exe) or None,
            uid,
            _or_none(process.username),
        )


def _or_none(read: Any) -> Any:
    try:
        return read()
    except (psutil.Error, OSError):
        return None


class PortableInspector:
    """An `Inspector` by psutil: no control groups, units or packages here."""

    def process(self, pid: int) -> Process | None:
        try:
            return describe(psutil.Process(pid))
        except (psutil.Error, OSError, ValueError):
            return None

    def details(self, process: Process, *, sha256: bool = False) -> ProcessDetails | None:
        try:
            found = psutil.Process(process.pid)
            if describe(found)[:3] != process[:3]:
                return None
            details = self._read(found, process, sha256=sha256)
        except (psutil.Error, OSError, ValueError):
            return None
        return details if found.is_running() else None

    def _read(self, found: psutil.Process, process: Process, *, sha256: bool) -> ProcessDetails:
        parents = _or_none(found.parents)
        command_line = _or_none(found.cmdline)
        file = _unchanged_file(process.path, found.create_time())
        return ProcessDetails(
            process,
            found.create_time(),
            file,
            None if command_line is None else tuple(command_line),
            tuple(map(describe, parents or ())),
            parents_whole=parents is not None and bool(parents) and parents[-1].pid in (0, 1),
            sha256=_sha256(process.path) if sha256 and file else None,
        )


def _unchanged_file(path: str | None, since: float) -> tuple[int, int] | None:
    """Return (device, inode) of a path, unless the file changed after the process started.

    There is no way to reach the running file itself, so this is what can be said of it.
    """
    if path is None:
        return None
    found = Path(path).stat()
    return (found.st_dev, found.st_ino) if found.st_ctime <= since else None


def _sha256(path: str | None) -> str | None:
    import hashlib  # noqa: PLC0415 - seldom asked for

    if path is None:
        return None
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class PortableBackend:
    """See tunowner.backends.base.Backend. It names owners; it cannot intercept."""

    def open_data_plane(self, settings: GateSettings) -> DataPlane:  # noqa: ARG002
        raise _only_owners("intercept flows")

    def open_deaths(self, owners: OwnerSource | None = None) -> SocketDeaths:  # noqa: ARG002
        raise _only_owners("tell of sockets that close")

    def open_owners(
        self,
        interface_index: int = 0,  # noqa: ARG002
        ebpf: EbpfSettings | None = None,  # noqa: ARG002
    ) -> PortableOwners:
        return PortableOwners()

    def find_process(
        self,
        protocol: str,
        ip: str,
        port: int,
        remote: tuple[str, int] | None,
        source: OwnerSource | None = None,  # noqa: ARG002 - nothing is kept open
    ) -> Owner:
        return find_process(protocol, ip, port, remote)

    def open_inspector(self) -> PortableInspector:
        return PortableInspector()

    def open_dns_tap(self) -> DnsTap:
        raise _only_owners("see DNS answers")

    def interface_of(self, flow: FlowKey) -> str | None:  # noqa: ARG002
        return None  # psutil knows no routes

    def connections(self, query: TableQuery) -> list[Connection]:
        """Return the table as psutil has it: one holder for each socket."""
        rows = [
            row
            for row in read_table().rows
            if row.protocol in query.protocols and query.port in (0, row.local_port)
        ]
        inspector = PortableInspector()
        pids = {row.pid for row in rows if row.pid and query.holders}
        known = {pid: inspector.process(pid) for pid in pids}
        return [_connection(row, known.get(row.pid or 0)) for row in rows]

    def doctor(self) -> list[Check]:
        root = not hasattr(os, "geteuid") or os.geteuid() == 0
        return [
            Check(BACKEND, ok=True, detail=f"{psutil.__version__}, owners of sockets"),
            Check("root", root, "to see other users' sockets", "run with sudo", needed=False),
            Check("intercept", ok=False, detail="not on this system", hint="use Linux"),
        ]


def _connection(row: Row, process: Process | None) -> Connection:
    closed = Grade.CLOSED if row.status in _CLOSING else Grade.DENIED
    return Connection(
        *(row.protocol, row.version, row.local, row.local_port, row.remote, row.remote_port),
        status=row.status,
        grade=closed if process is None else Grade.EXACT,
        holders=() if process is None else (SocketHolder(process, row.fd),),
    )


def _only_owners(what: str) -> BackendError:
    hint = "tunowner runs on Linux for now"
    return BackendError(f"there is no way to {what} on this system yet", hint=hint)
