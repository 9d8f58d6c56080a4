"""The connection table: every TCP and UDP socket of this network namespace and who holds it.

One sock_diag dump for each protocol and family, one pass over the descriptor tables of all
processes. The two are not one moment: a socket whose holder is not found is asked for again before
it is said to belong to the kernel.
"""

from __future__ import annotations

from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple

from tunowner.backends.base import TableQuery
from tunowner.backends.linux.sockdiag import AF_INET, AF_INET6, CLOSE_WAIT, ESTABLISHED, SYN_RECV
from tunowner.backends.linux.sockdiag_table import Columns, TableDiag
from tunowner.backends.linux.table_holders import Holders
from tunowner.core.collector import collector_at_rest
from tunowner.core.model import TCP, Connection, Grade
from tunowner.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tunowner.backends.linux.bpf.holdings import Holdings
    from tunowner.core.model import SocketHolder

    Iterators = Callable[[], Holdings | None]

STATES = (
    "",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "SYN_RECV",
    "BOUND_INACTIVE",
    *("UNKNOWN" for _ in range(242)),
)
"""<net/tcp_states.h> in order."""
_NO_STATES = ("NONE",) * len(STATES)
MANY = 500
"""From so many sockets on it takes longer to read /proc than to make the kernel tell."""
BUFFER = 1 << 16
"""The kernel fills 32 KiB at a time (netlink_dump() in net/netlink/af_netlink.c)."""


def _open_iterators() -> Holdings | None:
    from tunowner.backends.linux.bpf.holdings import open_holdings  # noqa: PLC0415 - seldom used

    return open_holdings()


def connections(
    query: TableQuery, iterators: Iterators = _open_iterators, many: int = MANY
) -> list[Connection]:
    """Return each socket once. Raises BackendError when the kernel does not tell its sockets.

    From `many` sockets on holders are asked of the kernel by `iterators`; /proc is read otherwise, or where it gives None.
    """
    try:
        with collector_at_rest():
            return _Table(query).connections(iterators, many)
    except OSError as error:
        raise BackendError(
            f"the kernel refused to list sockets: {error.strerror}", where="sock_diag"
        ) from error


class _Group(NamedTuple):
    """The sockets of one protocol and family."""

    protocol: int
    family: int
    columns: Columns


class _Table:
    """One reading of the table."""

    def __init__(self, query: TableQuery) -> None:
        self._groups = _dump(query)
        wanted = [group.columns.inodes for group in self._groups] if query.holders else []
        self._holders = Holders(wanted)

    def connections(self, iterators: Iterators, many: int) -> list[Connection]:
        self._holders.find(iterators() if self._holders.wanted >= many else None)
        return [it for group in self._groups for it in self._described(group)]

    def _described(self, group: _Group) -> Iterator[Connection]:
        """Put rows together column by column: all steps of it are done in C."""
        columns = group.columns
        holders = list(map(self._holders.found.get, columns.inodes, repeat(())))
        grades = repeat(Grade.EXACT) if all(holders) else self._grades(group, holders)
        status = STATES if group.protocol == TCP else _NO_STATES
        fields = zip(
            repeat(group.protocol),
            repeat(4 if group.family == AF_INET else 6),
            columns.locals,
            columns.local_ports,
            columns.remotes,
            columns.remote_ports,
            map(status.__getitem__, columns.states),
            columns.uids if all(columns.inodes) else _uids(columns),
            columns.cookies,
            grades,
            holders,
            strict=False,  # some have no end
        )
        return map(partial(tuple.__new__, Connection), fields)

    def _grades(self, group: _Group, holders: list[tuple[SocketHolder, ...]]) -> list[Grade]:
        alive, columns = self._alive(group), group.columns
        grades = [Grade.EXACT] * len(holders)
        for place in [place for place, held in enumerate(holders) if not held]:
            grades[place] = self._unheld(columns.inodes[place], columns.states[place], alive)
        return grades

    def _alive(self, group: _Group) -> set[int]:
        """Return the inodes of sockets that live without a holder; none when it is no use."""
        missing, columns = self._holders.missing, group.columns
        here = missing.intersection(columns.inodes)
        rows = zip(columns.inodes, columns.local_ports, strict=True)
        ports = {port for inode, port in rows if inode in here} if here else set()
        if not ports or self._holders.denied:
            return set()
        port = ports.pop() if len(ports) == 1 else 0
        again = _dump(TableQuery((group.protocol,), port))
        return missing.intersection(inode for it in again for inode in it.columns.inodes)

    def _unheld(self, inode: int, state: int, alive: set[int]) -> Grade:
        """Say why nobody holds a socket; see `owners` for what the grades mean."""
        if not inode:
            waits = state in (ESTABLISHED, SYN_RECV, CLOSE_WAIT)
            return Grade.KERNEL if waits else Grade.CLOSED
        if self._holders.denied:
            return Grade.DENIED
        return Grade.KERNEL if inode in alive else Grade.CLOSED


def _uids(columns: Columns) -> Iterable[int | None]:
    """Leave out the user of a socket without a file: the kernel says 0, whoever it was."""
    rows = zip(columns.uids, columns.inodes, strict=True)
    return [uid if inode else None for uid, inode in rows]


def _dump(query: TableQuery) -> list[_Group]:
    """Ask for every socket. One that changed its state meanwhile is told of once, as it is now."""
    diag = TableDiag(buffer_size=BUFFER)
    try:
        diag.self_check()
        return [
            _Group(protocol, family, diag.table(protocol, family, query.port).once())
            for protocol in query.protocols
            for family in (AF_INET, AF_INET6)
        ]
    finally:
        diag.close()
