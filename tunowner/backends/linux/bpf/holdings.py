"""Who holds which socket, told by the kernel for all processes at once: table.bpf.c, put in and read.

/proc tells the same at 3 us for each descriptor of the machine. Here it is 0.5 us for each socket,
after 10 ms, once, for the kernel's BTF to be read.
"""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack, suppress
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tunowner.backends.linux.bpf import libbpf
from tunowner.errors import TunOwnerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OBJECT = Path(__file__).with_name("table.bpf.o")
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
    with suppress(TunOwnerError, OSError):
        if Path("/proc/self/ns/pid").stat().st_ino == _INITIAL_PID_NAMESPACE:
            return Holdings()
    return None


class Holdings:
    """Two iterators, ready to be read; gone with the last reference to them, as open files are.

    Raises OSError or BackendError where there are none.
    """

    def __init__(self) -> None:
        self._undo = ExitStack()
        self._library = libbpf.open_library()
        with libbpf.silence(self._library):
            self._links = self._load()

    def __del__(self) -> None:
        self._undo.close()

    def _load(self) -> dict[bytes, int]:
        made = self._library.bpf_object__open_file(bytes(OBJECT), None)
        libbpf.check(made)
        self._undo.callback(self._library.bpf_object__close, made)
        libbpf.check(self._library.bpf_object__load(made))
        links: dict[bytes, int] = {}
        program = self._library.bpf_object__next_program(made, None)
        while program:
            link = libbpf.check(self._library.bpf_program__attach_iter(program, None))
            self._undo.callback(self._library.bpf_link__destroy, link)
            links[self._library.bpf_program__name(program)] = self._library.bpf_link__fd(link)
            program = self._library.bpf_object__next_program(made, program)
        return links

    def held(self) -> Held:
        """Return the descriptors of all sockets, ordered by process, the lowest first."""
        words = memoryview(self._read(b"holdings")).cast("I")
        inodes, pids, fds = (words[place::_HOLDING_WORDS].tolist() for place in range(3))
        if max(fds, default=0) < IN_THREAD:
            return Held(inodes, pids, fds)
        return Held(inodes, pids, [None if fd >= IN_THREAD else fd for fd in fds])

    def programs(self) -> dict[int, tuple[int, int, int]]:
        """Return what tells the program that each process runs from any other, by pid.

        Equal before and after means that it was that program all the time in between.
        """
        found = _PROGRAM.iter_unpack(self._read(b"programs"))
        return {pid: (start, space, exec_id) for start, space, pid, exec_id in found}

    def _read(self, name: bytes) -> bytes:
        file = libbpf.check(self._library.bpf_iter_create(self._links[name]))
        with os.fdopen(file, "rb", buffering=0) as opened:
            return b"".join(iter(lambda: opened.read(_READ_SIZE), b""))
