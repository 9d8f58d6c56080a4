"""Which processes hold this socket? Read from the descriptor tables in /proc.

Two ways: `Memory` tries what earlier searches saw and costs some 20 us; `Search` goes through the
processes once for any number of sockets. Memory only says where to look: a holder is believed
after its link was read again, so whatever is out of date here is slow, never wrong.

Sockets are shared by fork and by SCM_RIGHTS (unix(7)). A socket that a parent or a child holds too
is never answered from memory, and a search reads the tables of parents and children before it
answers. A holder further away is found when the search happens to pass it first.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from tunowner.backends.linux.procfs import ProcessDir, owner_of, pids, socket_inode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

K = TypeVar("K")
V = TypeVar("V")

COOKIES = 8192
"""Sockets whose holders are remembered; the oldest goes first and costs a search if asked again."""
SOCKETS = 32768
"""Sockets seen in passing by a search, about 250 bytes each."""
RECENT = 8
"""Processes whose tables are tried in `Memory.recall`, that is on the packet loop."""
OPEN = 64
"""Directories kept open: above all the recent processes and their parents."""
READS = 128
"""Links that one `Memory.recall` reads at most when guessing fails: about 130 us."""


class Holder(NamedTuple):
    """A place that held a socket: `link` is `fd/N`, or `task/TID/fd/N` of a thread's own table."""

    pid: int
    link: bytes


class Lru(Generic[K, V]):
    """A dictionary of bounded size that forgets what was used longest ago. Threads may share it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: OrderedDict[K, V] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: K) -> V | None:
        with self._lock:
            value = self._items.get(key)
            if value is not None:
                self._items.move_to_end(key)
            return value

    def put(self, key: K, value: V) -> None:
        with self._lock:
            self._items[key] = value
            self._items.move_to_end(key)
            if len(self._items) > self._limit:
                self._items.popitem(last=False)

    def newest(self) -> list[tuple[K, V]]:
        with self._lock:
            return list(reversed(self._items.items()))

    def clear(self) -> None:
        with self._lock:
            self._items.clear()


class Memory:
    """What earlier searches saw. Shared by the packet loop and the worker."""

    def __init__(self) -> None:
        self._cookies: Lru[int, tuple[Holder, ...]] = Lru(COOKIES)
        self._sockets: Lru[int, tuple[Holder, ...]] = Lru(SOCKETS)
        self._recent: Lru[int, int] = Lru(RECENT)
        self._open: Lru[int, ProcessDir] = Lru(OPEN)

    def clear(self) -> None:
        for table in (self._cookies, self._sockets, self._recent, self._open):
            table.clear()

    def settled(self, cookie: int) -> tuple[Holder, ...]:
        """Return the holders of an earlier answer for this socket, the primary first."""
        return self._cookies.get(cookie) or ()

    def settle(self, cookie: int, holders: tuple[Holder, ...]) -> None:
        self._cookies.put(cookie, holders)

    def seen(self, inode: int, holder: Holder) -> None:
        known = self._sockets.get(inode) or ()
        if holder not in known:
            self._sockets.put(inode, (*known, holder)[-4:])

    def used(self, process: ProcessDir, link: bytes) -> None:
        """Note that `process` opened a socket lately: its next one is probably close by."""
        self._open.put(process.pid, process)
        if link.startswith(b"fd/"):
            self._recent.put(process.pid, int(link[3:]))

    def recent_pids(self) -> list[int]:
        return [pid for pid, _ in self._recent.newest()]

    def holding(self, holder: Holder, inode: int) -> ProcessDir | None:
        """Return the process if it holds the socket there now."""
        known = self._open.get(holder.pid)
        if known is not None and known.holds(holder.link, inode):
            return known
        process = self.opened(holder.pid)
        if process is None or process is known or not process.holds(holder.link, inode):
            return None
        return process

    def opened(self, pid: int) -> ProcessDir | None:
        """Return the process that has `pid` now."""
        process = self._open.get(pid)
        if process is not None and process.alive():
            return process
        process = ProcessDir.open(pid)
        if process is not None:
            self._open.put(pid, process)
        return process

    def recall(self, cookie: int, inode: int) -> tuple[Holder, ...]:
        """Find holders without a search. Empty when unknown, or when relatives may share it."""
        holders = self._still(self.settled(cookie), inode)
        if holders:
            return holders
        holders = self._still(self._sockets.get(inode) or (), inode) or self._guess(inode)
        return () if any(self._is_shared(holder, inode) for holder in holders) else holders

    def _still(self, holders: tuple[Holder, ...], inode: int) -> tuple[Holder, ...]:
        return tuple(holder for holder in holders if self.holding(holder, inode))

    def _is_shared(self, holder: Holder, inode: int) -> bool:
        """Whether a parent or child has the socket too. fork(2) keeps the descriptor's number."""
        process = self._open.get(holder.pid)
        if process is None:
            return True
        kin = process.relatives()
        return any(self.holding(Holder(pid, holder.link), inode) for pid in kin)

    def _guess(self, inode: int) -> tuple[Holder, ...]:
        """Look where recent processes would put a new socket, then through their small tables."""
        recent = [
            (process, number)
            for pid, number in self._recent.newest()
            if (process := self._open.get(pid)) is not None
        ]
        for process, number in recent:
            for guess in (number + 1, number):
                if process.holds(b"fd/%d" % guess, inode):
                    return (Holder(process.pid, b"fd/%d" % guess),)
        return self._read_tables([process for process, _ in recent], inode)

    def _read_tables(self, processes: Sequence[ProcessDir], inode: int) -> tuple[Holder, ...]:
        budget = READS
        for process in processes:
            if process.descriptor_count() > budget:
                continue
            for number in process.numbers(b"fd").numbers[:budget]:
                budget -= 1
                if process.holds(b"fd/%d" % number, inode):
                    return (Holder(process.pid, b"fd/%d" % number),)
        return ()


class Search:
    """One pass over the processes for the sockets `wanted` (inodes).

    Users only order the processes. Afterwards `found` has the holders of each socket, and `denied`
    tells whether some process was not allowed to be looked at.
    """

    def __init__(
        self, memory: Memory, wanted: Iterable[int], *, users: Iterable[int], likely: Iterable[int]
    ) -> None:
        self._memory = memory
        self._missing = set(wanted)
        self._users = frozenset(users)
        self._likely = list(likely)
        self._scanned: set[int] = set()
        self._wanted = frozenset(self._missing)
        self.found: dict[int, list[Holder]] = {}
        self.denied = False

    def run(self) -> Iterator[int]:
        """Yield each wanted socket once, when its holders and their relatives have been read."""
        for scan, order in ((self._scan_family, self._order()), (self._scan_threads, self._all())):
            for pid in order:
                if not self._missing:
                    return
                new = scan(pid) & self._missing
                self._missing -= new
                yield from new

    def _order(self) -> Iterator[int]:
        """Recent pids and those of the socket's control group, then same user first, newest first.

        Listing again catches what was forked meanwhile, perhaps by a process that then exited.
        """
        yield from self._memory.recent_pids()
        yield from self._likely
        for _ in range(3):
            listed = [pid for pid in self._all() if pid not in self._scanned]
            yield from sorted(listed, key=lambda pid: owner_of(pid) not in self._users)

    def _all(self) -> tuple[int, ...]:
        listing = pids()
        self.denied |= listing.denied
        return listing.numbers

    def _scan_family(self, pid: int) -> set[int]:
        """Read a process's table and, if it has a wanted socket, those of its relatives."""
        hits: set[int] = set()
        todo = [pid]
        while todo:
            pid = todo.pop()
            if pid in self._scanned:
                continue
            self._scanned.add(pid)
            process = self._open(pid)
            new = self._read_table(process, b"fd") if process else set()
            if process and new:
                todo.extend(process.relatives())
            hits |= new
        return hits

    def _scan_threads(self, pid: int) -> set[int]:
        """Read the tables of single threads: CLONE_FILES undone, or the first thread has exited."""
        process = self._open(pid)
        hits: set[int] = set()
        if process is not None:
            for thread in process.numbers(b"task").numbers:
                if thread != pid:
                    hits |= self._read_table(process, b"task/%d/fd" % thread)
        return hits

    def _open(self, pid: int) -> ProcessDir | None:
        process = ProcessDir.open(pid)
        if process is None and owner_of(pid) is not None:
            self.denied = True  # the directory is there and may not be entered: hidepid=1
        return process

    def _read_table(self, process: ProcessDir, table: bytes) -> set[int]:
        listing = process.numbers(table)
        self.denied |= listing.denied
        hits: set[int] = set()
        for number in listing.numbers:
            link = b"%s/%d" % (table, number)
            text = process.link(link)
            if text is None and process.refuses(link):
                self.denied = True  # then all of them are refused
                break
            inode = socket_inode(text)
            if inode:
                holder = Holder(process.pid, link)
                self._memory.seen(inode, holder)
                if inode in self._wanted:
                    if not hits:  # the largest number comes first, which mostly is the latest
                        self._memory.used(process, link)
                    self.found.setdefault(inode, []).append(holder)
                    hits.add(inode)
        return hits
