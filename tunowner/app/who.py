"""Who holds this socket, and what is known of that process? For people and scripts that ask once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunowner.app.find import check_question
from tunowner.app.sockets import Wanted, list_sockets
from tunowner.backends import open_backend
from tunowner.backends.base import TableQuery
from tunowner.core.model import TCP, UDP, ProcessDetails

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunowner.backends.base import Backend
    from tunowner.core.model import Connection, Owner, Process

    Endpoint = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """The owner of one socket, the socket if it is a single one, and its holders' details."""

    protocol: str
    owner: Owner
    socket: Connection | None = None
    details: list[ProcessDetails] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ProcessAnswer:
    """One process and the sockets it holds."""

    details: ProcessDetails
    sockets: list[Connection]


def who(
    protocols: Sequence[str],
    local: Endpoint,
    remote: Endpoint | None = None,
    *,
    sha256: bool = False,
    backend: Backend | None = None,
) -> list[Answer]:
    """Return the owner of a socket for each protocol, if any has one only for those.

    Raises TunOwnerError for what cannot be asked.
    """
    backend = backend or open_backend()
    owners = {}
    for protocol in protocols:
        check_question(protocol, *local, remote)
        owners[protocol] = backend.find_process(protocol, *local, remote)
    found = {protocol: owner for protocol, owner in owners.items() if owner.candidates}
    return [
        Answer(
            protocol,
            owner,
            _socket(backend, protocol, local[1], owner),
            _details(backend, owner.candidates, sha256=sha256),
        )
        for protocol, owner in (found or owners).items()
    ]


def _socket(backend: Backend, protocol: str, port: int, owner: Owner) -> Connection | None:
    """Return the socket an answer is about, as the table shows it."""
    if owner.cookie is None:
        return None
    query = TableQuery((TCP if protocol == "tcp" else UDP,), port, holders=False)
    return next((it for it in backend.connections(query) if it.cookie == owner.cookie), None)


def _details(
    backend: Backend, processes: Sequence[Process], *, sha256: bool
) -> list[ProcessDetails]:
    """Return the details of each process; those of one that went away are not known."""
    inspector = backend.open_inspector() if processes else None
    return [
        (inspector and inspector.details(process, sha256=sha256)) or ProcessDetails(process)
        for process in processes
    ]


def who_is(
    pid: int, *, sha256: bool = False, backend: Backend | None = None
) -> ProcessAnswer | None:
    """Return what is known of a process and its sockets, None when there is none of that pid."""
    backend = backend or open_backend()
    inspector = backend.open_inspector()
    process = inspector.process(pid)
    details = process and inspector.details(process, sha256=sha256)
    if details is None:
        return None
    sockets = [
        row
        for row in list_sockets(Wanted(pid=pid), backend)
        if any(holder.process[:2] == details.process[:2] for holder in row.holders)
    ]
    return ProcessAnswer(details, sockets)


def details_fields(details: ProcessDetails) -> dict[str, Any]:
    """Return a process and all that is known of it; None is unknown, "" known to be nothing."""
    it = details
    return {
        **_identity(it.process),
        "deleted": it.process.deleted,
        "uid": it.process.uid,
        "user": it.process.user,
        "started_at": it.started_at,
        "file": it.file and {"device": it.file[0], "inode": it.file[1]},
        "command_line": it.command_line and list(it.command_line),
        "parents": [_identity(parent) for parent in it.parents],
        "parents_whole": it.parents_whole,
        "cgroup": it.cgroup,
        "unit": it.unit,
        "user_unit": it.user_unit,
        "slice": it.slice,
        "container": it.container,
        "package": it.package,
        "sha256": it.sha256,
        "directory": it.directory,
    }


def _identity(process: Process) -> dict[str, Any]:
    return {
        "pid": process.pid,
        "start": process.start,
        "name": process.name,
        "path": process.path,
    }
