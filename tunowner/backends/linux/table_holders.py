"""Who holds the sockets of the table: one pass over the descriptors of all processes.

Two ways to the same answer. Many sockets are asked of the kernel's own iterators (bpf.holdings),
where it takes those; else the descriptor tables in /proc are read.
"""

from __future__ import annotations

import os
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING

from tunowner.backends.linux.process import OpenProcess, age
from tunowner.backends.linux.procfs import UserNames, owner_of, pids
from tunowner.core.model import SocketHolder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tunowner.backends.linux.bpf.holdings import Holdings
    from tunowner.core.model import Process

    Known = tuple[Process, tuple[int, ...]]

LISTINGS = 3
"""So often new processes are looked for: a socket may be inherited while we read."""
_SYS_KCMP = {"x86_64": 312}
"""kcmp(2) in <asm/unistd.h>; elsewhere 272, <asm-generic/unistd.h>."""
_KCMP_FILES = 2


class Holders:
    """The holders of sockets (inodes): `find` them, then `found` has them, `denied` some are hidden."""

    def __init__(self, inodes: Iterable[Iterable[int]]) -> None:
        self._wanted = set[int]().union(*inodes)
        self._wanted.discard(0)
        self._links: dict[str, int] = {}
        self._users = UserNames()
        self._threaded: list[int] = []
        self.found: dict[int, tuple[SocketHolder, ...]] = {}
        self.denied = False

    @property
    def wanted(self) -> int:
        """The number of sockets whose holders are sought."""
        return len(self._wanted)

    @property
    def missing(self) -> set[int]:
        """The sockets that nobody was seen holding."""
        return self._wanted - self.found.keys()

    def find(self, told: Holdings | None) -> None:
        """Ask the kernel's iterators if they are there, then search for what they did not tell of."""
        read: set[int] = set()
        untold = self._wanted
        if told is not None:
            read, doubted = self._ask(told)
            untold = self.missing | doubted
        if untold:
            self._links = {f"socket:[{inode}]": inode for inode in untold}
            self._search(read)

    def _ask(self, told: Holdings) -> tuple[set[int], set[int]]:
        """Believe the kernel of each process that ran one program from before to after.

        The others are to be read in /proc: what execve(2) closed is not the new program's.
        Returns the pids that need no more reading, and the sockets of those others.
        """
        before, held = told.programs(), told.held().of(self._wanted)
        known = {pid: it for pid in set(held.pids) if (it := self._described(pid)) is not None}
        after = told.programs()
        kept = {pid for pid in known if pid in before and before[pid] == after.get(pid)}
        certain = held.by(kept)
        self._note(
            certain.inodes,
            map({pid: process for pid, (process, _) in known.items()}.__getitem__, certain.pids),
            certain.descriptors,
            map({pid: uids for pid, (_, uids) in known.items()}.__getitem__, certain.pids),
        )
        rows = zip(held.inodes, held.pids, strict=True)
        doubted = set() if certain is held else {inode for inode, pid in rows if pid not in kept}
        return before.keys() - (set(held.pids) - kept), doubted

    def _described(self, pid: int) -> Known | None:
        process = self._open(pid)
        described = None if process is None else process.describe(self._users)
        if process is None or described is None:
            return None
        return described, process.uids()

    def _search(self, read: set[int]) -> None:
        """Read the table of each process, then, if some are missing, those of single threads."""
        for _ in range(LISTINGS):
            new = [pid for pid in self._pids() if pid not in read]
            for pid in new:
                self._read_process(pid)
            read.update(new)
            if not new or len(self.found) == len(self._wanted):
                break
        if len(self.found) < len(self._wanted):
            for pid in self._threaded:
                self._read_threads(pid)

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
                fds, inodes = process.find_links(table, self._links)
            except OSError:
                self.denied = True
                return False
            if not inodes:
                return True
            described = process.describe(self._users)
            if described is not None and process.link(b"exe") == before:
                places = fds if table == "fd" else [None] * len(fds)
                self._note(inodes, repeat(described), places, repeat(process.uids()))
                return True
        return True

    def _note(
        self,
        inodes: Sequence[int],
        processes: Iterable[Process],
        fds: Sequence[int | None],
        uids: Iterable[tuple[int, ...]],
    ) -> None:
        """Add a holder to each of its sockets, once, and keep them in the order of `age`.

        Column by column in C, but for sockets that are held more than once.
        """
        fields = zip(processes, fds, uids, strict=False)
        made = list(map(partial(tuple.__new__, SocketHolder), fields))
        fresh = dict(zip(inodes, zip(made, strict=True), strict=True))
        rest: list[tuple[int, SocketHolder]] = []
        if len(fresh) < len(made):  # of several descriptors of a process the first one counts
            fresh.update(zip(reversed(inodes), zip(reversed(made), strict=True), strict=True))
            rows = zip(inodes, made, strict=True)
            rest = [(inode, holder) for inode, holder in rows if fresh[inode][0] is not holder]
        known = fresh.keys() & self.found.keys()
        again = [(inode, *fresh.pop(inode)) for inode in known]
        self.found.update(fresh)
        for inode, holder in (*again, *rest):
            self._add_holder(inode, holder)

    def _add_holder(self, inode: int, holder: SocketHolder) -> None:
        others = self.found[inode]
        if all(other.process != holder.process for other in others):
            both = sorted((*others, holder), key=lambda it: age(it.process))
            self.found[inode] = tuple(both)


def _comparison() -> Callable[[int, int], bool]:
    """Return what tells if a thread shares the descriptor table of the first one. False: unknown.

    A process of 500 threads and 10,000 descriptors would else be read 500 times.
    """
    import ctypes  # noqa: PLC0415 - seldom used

    syscall = ctypes.CDLL(None).syscall
    number = _SYS_KCMP.get(os.uname().machine, 272)
    return lambda pid, thread: bool(syscall(number, pid, thread, _KCMP_FILES, 0, 0) == 0)
