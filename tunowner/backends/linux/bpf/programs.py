"""From the kernel's note of a program to what /proc and the file system say of it now."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tunowner.backends.linux.holders import Lru
from tunowner.backends.linux.procfs import ProcessDir, pids
from tunowner.core.model import Process

if TYPE_CHECKING:
    from tunowner.backends.linux.bpf.loader import BootClock
    from tunowner.backends.linux.bpf.records import User
    from tunowner.backends.linux.procfs import Names

OPEN = 64
"""Programs whose process is remembered, its directory open."""
SEEN = 1024
"""Programs whose path is remembered."""
_MINOR_BITS = 20
"""MINORBITS in <linux/kdev_t.h>: `s_dev` is major << 20 | minor."""


class Seen(NamedTuple):
    """A process that runs the program of a note: the text of /proc/PID/exe, and what was made of it."""

    directory: ProcessDir
    link: bytes
    process: Process


class Programs:
    """Finds the process of a note, and tells whether it runs the same program still.

    Threads may share it. A process that is gone leaves its path behind, by the file's number.
    """

    def __init__(self, clock: BootClock) -> None:
        self._clock = clock
        self._seen: Lru[tuple[int, int, int], Seen] = Lru(OPEN)
        self._paths: Lru[tuple[int, int], str] = Lru(SEEN)
        self._living: dict[int, str] = {}

    def clear(self) -> None:
        self._seen.clear()

    def survey(self) -> None:
        """Look where the programs of all living processes lie: one that has gone may be among them.

        Takes 10 us a process, so it is not for the packet loop.
        """
        living: dict[int, str] = {}
        for pid in pids().numbers:
            exe = Path(f"/proc/{pid}/exe")
            with suppress(OSError):
                living[exe.stat().st_ino] = str(exe.readlink())
        self._living = living

    def process(self, user: User) -> ProcessDir | None:
        """Return the process of the note, None when it has gone. Reads of it fail once it does."""
        seen = self._seen.get(user.program)
        directory = ProcessDir.open(user.pid) if seen is None else seen.directory
        return directory if directory and self._was_there(directory, user) else None

    def _was_there(self, process: ProcessDir, user: User) -> bool:
        """Whether it is the very process. Without BTF: it started before, so it had the pid then.

        A start in the same tick (10 ms) as the note leaves that open, and is not believed.
        """
        if user.start:
            return process.start == self._clock.ticks(user.start)
        return process.start < self._clock.ticks(user.time)

    def _look(self, user: User, names: Names) -> Seen | None:
        """Look up the process; None when it has gone or replaced its program since."""
        directory = self.process(user)
        if directory is None:
            return None
        link, (path, deleted) = directory.link(b"exe"), directory.executable()
        if link is None or not _runs(directory, user):  # after the reads, which it vouches for
            return None
        process = Process(user.pid, directory.start, path, user.uid, names.name(user.uid), deleted)
        seen = Seen(directory, link, process)
        if user.inode:  # otherwise the next program of this process could not be told from this
            self._seen.put(user.program, seen)
            if path is not None and not deleted:
                self._paths.put((user.device, user.inode), path)
        return seen

    def _running(self, user: User, names: Names) -> Seen | None:
        """As `_look`, by a single read for a program that was looked up before."""
        seen = self._seen.get(user.program)
        if seen is not None and seen.directory.link(b"exe") == seen.link:
            return seen
        return self._look(user, names)

    def opener(self, user: User, names: Names) -> Process | None:
        """Describe the program of the note, be it gone; None when the note does not say enough."""
        if not user.start:
            return None
        seen = self._running(user, names)
        if seen is not None:
            return self._as_user(user, seen, user.uid, names)
        start, path = self._clock.ticks(user.start), self._path(user)
        return Process(user.pid, start, path, user.uid, names.name(user.uid))

    def holder(self, user: User, link: bytes, inode: int, names: Names) -> Process | None:
        """Describe the program of the note if it holds the socket at `link`, as it is now."""
        seen = self._seen.get(user.program) or self._look(user, names)
        if seen is None:
            return None
        uid = seen.directory.user_holding(link, inode, seen.link)
        return None if uid is None else self._as_user(user, seen, uid, names)

    def _as_user(self, user: User, seen: Seen, uid: int, names: Names) -> Process:
        process = seen.process
        if process.uid == uid and process.user is not None:
            return process
        process = process._replace(uid=uid, user=names.name(uid))
        if user.inode and process.user is not None:
            self._seen.put(user.program, seen._replace(process=process))
        return process

    def _path(self, user: User) -> str | None:
        """Find the executable of a process that has gone: the file with the number noted.

        Where to look: where it was seen before, where the last survey saw a file of that number, and
        in PATH by `comm`, which is often its name.
        """
        seen = (self._paths.get((user.device, user.inode)), self._living.get(user.inode))
        guesses = [path for path in seen if path is not None]
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
