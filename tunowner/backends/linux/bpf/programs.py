"""From the kernel's note of a program to what /proc and the file system say of it now."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tunowner.backends.linux.holders import Lru
from tunowner.backends.linux.procfs import ProcessDir
from tunowner.core.model import Process

if TYPE_CHECKING:
    from tunowner.backends.linux.bpf.loader import BootClock
    from tunowner.backends.linux.bpf.records import User
    from tunowner.backends.linux.procfs import Names

OPEN = 64
"""Directories of processes that are kept open."""
SEEN = 1024
"""Programs whose path is remembered."""
_MINOR_BITS = 20
"""MINORBITS in <linux/kdev_t.h>: `s_dev` is major << 20 | minor."""


class Seen(NamedTuple):
    """A program's path, and the text of /proc/PID/exe that it was made of."""

    link: bytes
    path: str | None
    deleted: bool


class Programs:
    """Finds the process of a note, and tells whether it runs the same program still.

    Threads may share it. A process that is gone leaves its path behind, by the file's number.
    """

    def __init__(self, clock: BootClock) -> None:
        self._clock = clock
        self._open: Lru[tuple[int, int], ProcessDir] = Lru(OPEN)
        self._seen: Lru[tuple[int, int, int], Seen] = Lru(SEEN)
        self._paths: Lru[tuple[int, int], str] = Lru(SEEN)

    def clear(self) -> None:
        self._open.clear()

    def process(self, user: User) -> ProcessDir | None:
        """Return the process of the note, None when it has gone. Reads of it fail once it does."""
        key = (user.pid, user.start)
        process = self._open.get(key)
        if process is not None:
            return process
        process = ProcessDir.open(user.pid)
        if process is None or not self._was_there(process, user):
            return None
        if user.start:
            self._open.put(key, process)
        return process

    def _was_there(self, process: ProcessDir, user: User) -> bool:
        """Whether it is the very process. Without BTF: it started before, so it had the pid then.

        A start in the same tick (10 ms) as the note leaves that open, and is not believed.
        """
        if user.start:
            return process.start == self._clock.ticks(user.start)
        return process.start < self._clock.ticks(user.time)

    def running(self, user: User, process: ProcessDir) -> Seen | None:
        """Return the program if `process` has not replaced it since; None when it has, or is gone."""
        link = process.link(b"exe")
        seen = self._seen.get(user.program)
        if seen is not None and seen.link == link:
            return seen
        path, deleted = process.executable()
        if link is None or not _runs(process, user):  # after the reads, which it vouches for
            return None
        seen = Seen(link, path, deleted)
        if user.inode:  # otherwise the next program of this process could not be told from this
            self._seen.put(user.program, seen)
            if path is not None and not deleted:
                self._paths.put((user.device, user.inode), path)
        return seen

    def opener(self, user: User, names: Names) -> Process | None:
        """Describe the program of the note, be it gone; None when the note does not say enough."""
        process = self.process(user)
        seen = None if process is None else self.running(user, process)
        if process is not None and seen is not None:
            return _described(user, process.start, seen, names)
        if not user.start:
            return None
        gone = Seen(b"", self._path(user), deleted=False)
        return _described(user, self._clock.ticks(user.start), gone, names)

    def holder(self, user: User, link: bytes, inode: int, names: Names) -> Process | None:
        """Describe the program of the note if it holds the socket at `link`, as it is now."""
        process = self.process(user)
        if process is None or not process.holds(link, inode):
            return None
        seen, uid = self.running(user, process), process.uid()
        if seen is None or uid is None:
            return None
        return Process(user.pid, process.start, seen.path, uid, names.name(uid), seen.deleted)

    def _path(self, user: User) -> str | None:
        """Find the executable of a process that has gone: the file with the number noted.

        Where to look: where it was seen before, and in PATH by `comm`, which is often its name.
        """
        remembered = self._paths.get((user.device, user.inode))
        guesses = [] if remembered is None else [remembered]
        guesses += [str(Path(folder, user.comm)) for folder in os.get_exec_path() if user.comm]
        for guess in guesses:
            if self._is_executable_of(guess, user):
                path = os.path.realpath(guess)
                self._paths.put((user.device, user.inode), path)
                return path
        return None

    def _is_executable_of(self, path: str, user: User) -> bool:
        """Whether it is the file, unchanged since: a number is given again after a deletion."""
        try:
            file = Path(path).stat()
        except (OSError, ValueError):
            return False
        now = self._clock.wall_time(user.time)
        return _same_file(user, file.st_dev, file.st_ino) and file.st_ctime_ns <= now


def _described(user: User, start: int, seen: Seen, names: Names) -> Process:
    return Process(user.pid, start, seen.path, user.uid, names.name(user.uid), seen.deleted)


def _runs(process: ProcessDir, user: User) -> bool:
    if not user.inode:
        return True  # it cannot be told
    program = process.program()
    return program is not None and _same_file(user, *program[:2])


def _same_file(user: User, device: object, inode: object) -> bool:
    """Compare `s_dev` and `i_ino` with what stat(2) says.

    They are the same but on file systems without a block device, whose stat() may give a number
    for each subvolume or layer (btrfs_getattr(), ovl_getattr()): there the inode has to do.
    """
    if not isinstance(device, int) or user.inode != inode:
        return False
    major, minor = user.device >> _MINOR_BITS, user.device & ((1 << _MINOR_BITS) - 1)
    return 0 in (major, os.major(device)) or (os.major(device), os.minor(device)) == (major, minor)
