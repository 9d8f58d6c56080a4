"""The connection table: every TCP and UDP socket of this network namespace and who holds it.

One sock_diag dump for each protocol and family, one pass over the descriptor tables in /proc. The
two are not one moment: a socket whose holder is not found is asked for again before it is said to
belong to the kernel.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import partial
from itertools import repeat
from operator import itemgetter
from socket import ntohs
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tunowner.backends.base import TableQuery
from tunowner.backends.linux.owners import age
from tunowner.backends.linux.process import OpenProcess
from tunowner.backends.linux.procfs import UserNames, owner_of, pids
from tunowner.backends.linux.sockdiag import AF_INET, AF_INET6, CLOSE_WAIT, ESTABLISHED, SYN_RECV
from tunowner.backends.linux.sockdiag_table import TableDiag, TableRow
from tunowner.core.model import TCP, Connection, Grade, SocketHolder
from tunowner.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from tunowner.core.model import Process

    _Found = dict[int, tuple[SocketHolder, ...]]

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
STATE: Final = 5
SPORT: Final = 6
COOKIE: Final = 10
INODE: Final = 12
"""Places in a TableRow."""
BUFFER = 1 << 16
"""The kernel fills 32 KiB at a time (netlink_dump() in net/netlink/af_netlink.c)."""
LISTINGS = 3
"""So often new processes are looked for: a socket may be inherited while we read."""
_SYS_KCMP = {"x86_64": 312}
"""kcmp(2) in <asm/unistd.h>; elsewhere 272, <asm-generic/unistd.h>."""
_KCMP_FILES = 2


def connections(query: TableQuery) -> list[Connection]:
    """Return each socket once. Raises BackendError when the kernel does not tell its sockets."""
    try:
        return _Table(query).connections()
    except OSError as error:
        raise BackendError(
            f"the kernel refused to list sockets: {error.strerror}", where="sock_diag"
        ) from error


class _Group(NamedTuple):
    """The sockets of one protocol and family."""

    protocol: int
    family: int
    rows: list[TableRow]


class _Table:
    """One reading of the table."""

    def __init__(self, query: TableQuery) -> None:
        self._groups = _dump(query)
        rows = [row for group in self._groups for row in group.rows] if query.holders else []
        self._holders = _Holders(row[INODE] for row in rows if row[INODE])

    def connections(self) -> list[Connection]:
        found = self._holders.find()
        return [
            connection
            for group in self._groups
            for connection in self._described(group, found, self._alive(group))
        ]

    def _alive(self, group: _Group) -> frozenset[int]:
        """Return the inodes of sockets that live without a holder; none when it is no use."""
        missing = self._holders.missing
        ports = {ntohs(row[SPORT]) for row in group.rows if row[INODE] in missing}
        if not ports or self._holders.denied:
            return frozenset()
        port = ports.pop() if len(ports) == 1 else 0
        again = _dump(TableQuery((group.protocol,), port))
        return missing.intersection(row[INODE] for it in again for row in it.rows)

    def _described(
        self, group: _Group, found: _Found, alive: frozenset[int]
    ) -> Iterator[Connection]:
        """Make the rows for the outside: first those with holders, then the others."""
        held = [row for row in group.rows if row[INODE] in found]
        holders = [found[row[INODE]] for row in held]
        yield from _connections(group, held, repeat(Grade.EXACT), holders)
        others = [row for row in group.rows if row[INODE] not in found]
        grades = [self._unheld(row, alive) for row in others]
        yield from _connections(group, others, grades, repeat(()))

    def _unheld(self, row: TableRow, alive: frozenset[int]) -> Grade:
        """Say why nobody holds a socket; see `owners` for what the grades mean."""
        if not row[INODE]:
            waits = row[STATE] in (ESTABLISHED, SYN_RECV, CLOSE_WAIT)
            return Grade.KERNEL if waits else Grade.CLOSED
        if self._holders.denied:
            return Grade.DENIED
        return Grade.KERNEL if row[INODE] in alive else Grade.CLOSED


class _Holders:
    """One pass over the processes for the holders of sockets (inodes)."""

    def __init__(self, inodes: Iterable[int]) -> None:
        self._wanted = {f"socket:[{inode}]": inode for inode in inodes}
        self._users = UserNames()
        self._found: _Found = {}
        self._threaded: list[int] = []
        self.denied = False

    @property
    def missing(self) -> frozenset[int]:
        """The sockets that nobody was seen holding."""
        return frozenset(self._wanted.values() - self._found.keys())

    def find(self) -> _Found:
        """Read the table of each process, then, if some are missing, those of single threads."""
        read: set[int] = set()
        for _ in range(LISTINGS):
            new = [pid for pid in self._pids() if pid not in read]
            for pid in new:
                self._read_process(pid)
            read.update(new)
            if len(self._found) == len(self._wanted):
                return self._found
        for pid in self._threaded:
            self._read_threads(pid)
        return self._found

    def _pids(self) -> Sequence[int]:
        listing = pids()
        self.denied |= listing.denied
        return listing.numbers

    def _read_process(self, pid: int) -> None:
        process = self._open(pid)
        if process is not None and self._add(process, "fd") and process.threads > 1:
            self._threaded.append(pid)

    def _read_threads(self, pid: int) -> None:
        process = self._open(pid)
        if process is None:
            return
        same_files = _comparison()
        for thread in process.numbers(b"task").numbers:
            if thread != pid and not same_files(pid, thread):
                self._add(process, f"task/{thread}/fd")

    def _open(self, pid: int) -> OpenProcess | None:
        process = OpenProcess.open(pid)
        if process is None and owner_of(pid) is not None:
            self.denied = True
        return process

    def _add(self, process: OpenProcess, table: str) -> bool:
        """Read one table; return whether that is allowed.

        Again, if the program was replaced meanwhile: its sockets may be closed.
        """
        for _ in range(3):
            before = process.link(b"exe")
            try:
                fds, inodes = process.find_links(table, self._wanted)
            except OSError:
                self.denied = True
                return False
            if not inodes:
                return True
            described = process.describe(self._users)
            if described is not None and process.link(b"exe") == before:
                places = fds if table == "fd" else [None] * len(fds)
                self._note(described, places, inodes, process.uids())
                return True
        return True

    def _note(
        self,
        process: Process,
        fds: Sequence[int | None],
        inodes: Sequence[int],
        uids: tuple[int, ...],
    ) -> None:
        """Add a holder to each of its sockets, once, and keep them in the order of `owners.age`."""
        fields = zip(repeat(process), fds, repeat(uids), strict=False)
        made = list(map(partial(tuple.__new__, SocketHolder), fields))
        if self._found.keys().isdisjoint(inodes) and len(set(inodes)) == len(inodes):
            self._found.update(zip(inodes, zip(made, strict=True), strict=True))
            return
        for inode, holder in zip(inodes, made, strict=True):
            others = self._found.get(inode, ())
            if all(other.process != process for other in others):
                self._found[inode] = tuple(
                    sorted((*others, holder), key=lambda it: age(it.process))
                )


def _connections(
    group: _Group,
    rows: list[TableRow],
    grades: Iterable[Grade],
    holders: Iterable[tuple[SocketHolder, ...]],
) -> Iterator[Connection]:
    """Put rows together column by column: all steps of it are done in C."""
    if not rows:
        return iter(())
    columns: list[tuple[Any, ...]] = list(zip(*rows, strict=True))
    _, _, _, _, _, states, sports, dports, locals_, remotes, cookies, uids, inodes = columns
    version, size = (4, slice(4)) if group.family == AF_INET else (6, slice(16))
    status = STATES if group.protocol == TCP else _NO_STATES
    fields = zip(
        repeat(group.protocol),
        repeat(version),
        map(itemgetter(size), locals_),
        map(ntohs, sports),
        map(itemgetter(size), remotes),
        map(ntohs, dports),
        map(status.__getitem__, states),
        uids if all(inodes) else _uids(uids, inodes),
        cookies if sys.byteorder == "little" else map(_swapped, cookies),
        grades,
        holders,
        strict=False,  # some have no end
    )
    return map(partial(tuple.__new__, Connection), fields)


def _uids(uids: Iterable[int], inodes: Iterable[int]) -> list[int | None]:
    """Leave out the user of a socket without a file: the kernel says 0, whoever it was."""
    return [uid if inode else None for uid, inode in zip(uids, inodes, strict=True)]


def _swapped(cookie: int) -> int:
    return cookie >> 32 | (cookie & 0xFFFFFFFF) << 32


def _dump(query: TableQuery) -> list[_Group]:
    """Ask for every socket. One that changed its state meanwhile is told of once, as it is now."""
    diag = TableDiag(buffer_size=BUFFER)
    try:
        diag.self_check()
        return [
            _Group(protocol, family, _unique(diag.table(protocol, family, query.port)))
            for protocol in query.protocols
            for family in (AF_INET, AF_INET6)
        ]
    finally:
        diag.close()


def _unique(rows: list[TableRow]) -> list[TableRow]:
    return list({row[COOKIE]: row for row in rows}.values())


def _comparison() -> Callable[[int, int], bool]:
    """Return what tells if a thread shares the descriptor table of the first one. False: unknown.

    A process of 500 threads and 10,000 descriptors would else be read 500 times.
    """
    syscall = ctypes.CDLL(None).syscall
    number = _SYS_KCMP.get(os.uname().machine, 272)
    return lambda pid, thread: bool(syscall(number, pid, thread, _KCMP_FILES, 0, 0) == 0)
