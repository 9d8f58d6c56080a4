"""An open process with what details and the connection table read of it, beyond what owners need."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from tunowner.backends.linux.procfs import ProcessDir
from tunowner.core.model import Process

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunowner.backends.linux.procfs import Names

LONGEST = 1 << 21
"""Command lines end at 2 MiB at most in practice: a quarter of the stack limit (execve(2))."""

LAUNCHERS = frozenset({"systemd", "inetd", "xinetd"})
"""Programs that pass sockets to others (sd_listen_fds(3), inetd(8)); last choice as primary."""

Version = tuple[int, int, bytes]
"""What exec(2) changes: the executable's (device, inode) and the address of the stack."""


class OpenProcess(ProcessDir):
    """An open /proc/PID with what only details need."""

    __slots__ = ()

    def task(self) -> bytes:
        """Return `task/TID/` of a thread that lives where the first one has exited, else nothing."""
        if self.link(b"exe") is not None:
            return b""
        threads = (b"task/%d/" % thread for thread in self.numbers(b"task").numbers)
        return next((task for task in threads if self.link(task + b"exe") is not None), b"")

    def file(self, task: bytes) -> tuple[int, int] | None:
        try:
            found = os.stat(task + b"exe", dir_fd=self._fd)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def version(self, task: bytes) -> Version | None:
        """Return what tells one program of this process from the next; None once it is gone."""
        text = self.read(task + b"stat")
        if text is None:
            return None
        fields = text.rpartition(b")")[2].split()
        return (*(self.file(task) or (0, 0)), fields[25] if len(fields) > 25 else b"")

    def whole(self, name: bytes, limit: int = LONGEST) -> bytes | None:
        """Read a file to its end: procfs hands out a page at a time."""
        descriptor = self.open_file(name)
        if descriptor is None:
            return None
        with os.fdopen(descriptor, "rb") as file:
            try:
                return file.read(limit)
            except OSError:
                return None

    def open_file(self, name: bytes) -> int | None:
        """Open a regular file. Below `root` the process decides what it is: a pipe would block."""
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=self._fd)
        except OSError:
            return None
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        return None

    def exists(self, name: bytes) -> bool | None:
        """Whether there is such a file; None when the answer is refused."""
        try:
            os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError:
            return None
        return True

    def describe(self, users: Names) -> Process | None:
        """Describe the process itself, whatever sockets it has."""
        path, deleted = self.executable(self.task())
        uid = self.uid()
        if uid is None or not self.alive():
            return None
        return Process(self.pid, self.start, path, uid, users.name(uid), deleted)

    def find_links(self, table: str, wanted: Mapping[str, int]) -> tuple[list[int], list[int]]:
        """Return descriptors and values of the links in `fd` or `task/TID/fd` that are `wanted`.

        Raises PermissionError where that is refused: to list, or to read what was listed. Tells
        less of a process that goes.
        """
        fds: list[int] = []
        values: list[int] = []
        try:
            directory = os.open(table, os.O_RDONLY, dir_fd=self._fd)
        except (FileNotFoundError, ProcessLookupError):
            return fds, values
        get, readlink = wanted.get, os.readlink
        try:
            for number in os.listdir(directory):  # noqa: PTH208 - a descriptor, no path
                try:
                    value = get(readlink(number, dir_fd=directory))
                except FileNotFoundError:
                    continue
                if value is not None:
                    fds.append(int(number))
                    values.append(value)
        except ProcessLookupError:
            pass
        finally:
            os.close(directory)
        return fds, values

    def uids(self) -> tuple[int, ...]:
        """Return the real, effective, saved and file system user, nothing when unknown."""
        for line in (self.read(b"status") or b"").splitlines():
            if line.startswith(b"Uid:"):
                return tuple(map(int, line.split()[1:5]))
        return ()


def age(process: Process) -> tuple[bool, int, int]:
    """Order holders: the one that opened what the others inherited first, launchers last."""
    hands_on = process.pid == 1 or process.name in LAUNCHERS
    return hands_on, process.start, process.pid
