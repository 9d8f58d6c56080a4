"""Who holds which socket, told by the kernel for all processes at once: table.bpf.c, put in and read.

/proc tells the same at 3 us for each descriptor of the machine, this at 0.3 us.
"""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack, suppress
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tunowner.backends.linux.bpf.loading import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FILE = Path(__file__).with_name("table.bpf.load")
IN_THREAD = 1 << 31
_HOLDING_WORDS = 3
"""`struct holding`: inode, pid, descriptor."""
_PROGRAM = struct.Struct("=QQII")
_READ_SIZE = 1 << 16
"""The kernel fills 32 KiB at a time (bpf_seq_read() in kernel/bpf/bpf_iter.c)."""
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""PROC_PID_INIT_INO in <linux/proc_ns.h>."""


class Held(NamedTuple):
    """Descriptors of sockets, column by column. None: that of a thread with a table of its own."""

    inodes: list[int]
    pids: list[int]
    descriptors: Sequence[int | None]

    def of(self, wanted: set[int]) -> Held:
        """Return those of the wanted sockets."""
        return self._chosen(map(wanted.__contains__, self.inodes))

    def by(self, pids: set[int]) -> Held:
        """Return those of some processes."""
        return self._chosen(map(pids.__contains__, self.pids))

    def _chosen(self, which: Iterable[bool]) -> Held:
        chosen = list(which)
        if all(chosen):
            return self
        return Held._make(list(compress(column, chosen)) for column in self)


def open_holdings() -> Holdings | None:
    """Put the iterators in; None where that is refused, or pids here are not those of the kernel."""
    with suppress(OSError):
        if Path("/proc/self/ns/pid").stat().st_ino == _INITIAL_PID_NAMESPACE:
            return Holdings()
    return None


class Holdings:
    """Two iterators, ready to be read; gone with the last reference to them, as open files are.

    Raises OSError where there are none: no privilege, Linux older than 5.17, no BTF.
    """

    def __init__(self) -> None:
        self._undo = ExitStack()
        self._kernel = Kernel()
        with ExitStack() as programs:
            made = self._kernel.load(FILE, 2)
            for program in made:
                programs.callback(os.close, program)
            self._holdings, self._programs = (self._link(program) for program in made)

    def __del__(self) -> None:
        self._undo.close()

    def _link(self, program: int) -> int:
        link = self._kernel.iterator(program)
        self._undo.callback(os.close, link)
        return link

    def held(self) -> Held:
        """Return the descriptors of all sockets, ordered by process, the lowest first."""
        words = memoryview(self._read(self._holdings)).cast("I")
        inodes, pids, fds = (words[place::_HOLDING_WORDS].tolist() for place in range(3))
        if max(fds, default=0) < IN_THREAD:
            return Held(inodes, pids, fds)
        return Held(inodes, pids, [None if fd >= IN_THREAD else fd for fd in fds])

    def programs(self) -> dict[int, tuple[int, int, int]]:
        """Return what tells the program that each process runs from any other, by pid.

        Equal before and after means that it was that program all the time in between.
        """
        found = _PROGRAM.iter_unpack(self._read(self._programs))
        return {pid: (start, space, exec_id) for start, space, pid, exec_id in found}

    def _read(self, link: int) -> bytes:
        file = self._kernel.open_iterator(link)
        with os.fdopen(file, "rb", buffering=0) as opened:
            return b"".join(iter(lambda: opened.read(_READ_SIZE), b""))
