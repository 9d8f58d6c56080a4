"""Processes as /proc shows them (proc(5)). Nothing here raises for a process that went away.

A pid names one process now and another one later; an open directory `/proc/PID` stays with the
process it was opened for and every read through it fails once that process is gone
(proc_pid_lookup() in fs/proc/base.c). So each process is opened once and all else is relative.
"""

from __future__ import annotations

import errno
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tunowner.core.model import Process

if TYPE_CHECKING:
    from typing import Self

DELETED = b" (deleted)"
"""Appended to a link's text by d_path() in fs/d_path.c when the file has no name any more."""

_READ_SIZE = 4096
_REFUSED = (errno.EACCES, errno.EPERM)
_CHILDREN_LIMIT = 1 << 14


class Stat(NamedTuple):
    """Fields 3, 4, 20 and 22 of /proc/PID/stat."""

    state: bytes
    parent: int
    threads: int
    start: int


class Listing(NamedTuple):
    """The numbers in a directory, largest first; `denied` when the kernel refused to tell."""

    numbers: tuple[int, ...] = ()
    denied: bool = False


def parse_stat(text: bytes) -> Stat | None:
    """Read /proc/PID/stat. The name in field 2 may hold spaces and parentheses; none follow it."""
    fields = text.rpartition(b")")[2].split()
    try:
        return Stat(fields[0], int(fields[1]), int(fields[17]), int(fields[19]))
    except (IndexError, ValueError):
        return None


def socket_inode(link: bytes | None) -> int:
    """Return N for the link text `socket:[N]`, 0 for any other."""
    if link is None or not link.startswith(b"socket:["):
        return 0
    number = link[8:-1]
    return int(number) if number.isdigit() else 0


class ProcessDir:
    """An open /proc/PID. It is closed when nobody refers to it any more.

    There is no close() on purpose: threads share these, and a closed descriptor's number is given
    to the next file opened, so that a late reader would read about another process.
    """

    __slots__ = ("_fd", "parent", "pid", "start", "threads")

    def __init__(self, pid: int, fd: int) -> None:
        self._fd = fd
        self.pid = pid
        self.start = 0
        self.parent = 0
        self.threads = 0

    def __del__(self) -> None:
        os.close(self._fd)

    @classmethod
    def open(cls, pid: int) -> Self | None:
        """Open the process that has `pid` now; None when there is none or it is hidden."""
        try:
            opened = cls(pid, os.open(b"/proc/%d" % pid, os.O_RDONLY))
        except OSError:
            return None
        stat = opened.stat()
        if stat is None:
            return None
        opened.start, opened.parent, opened.threads = stat.start, stat.parent, stat.threads
        return opened

    def alive(self) -> bool:
        """Whether this process is still there, be it as a zombie."""
        try:
            os.stat(b"stat", dir_fd=self._fd)
        except OSError:
            return False
        return True

    def stat(self) -> Stat | None:
        text = self.read(b"stat")
        return None if text is None else parse_stat(text)

    def link(self, name: bytes) -> bytes | None:
        """Return the text of a link below the process, None when there is none to be read."""
        try:
            return os.readlink(name, dir_fd=self._fd)
        except OSError:
            return None

    def refuses(self, name: bytes) -> bool:
        """Whether a link is there that may not be read.

        A table can be listed by its owner, its links be read only by who might trace the process
        (proc_fd_permission() and proc_fd_access_allowed() in fs/proc): that takes all of its
        capabilities, so that even root may be refused.
        """
        try:
            os.readlink(name, dir_fd=self._fd)
        except OSError as error:
            return error.errno in _REFUSED
        return False

    def read(self, name: bytes, limit: int = _READ_SIZE) -> bytes | None:
        try:
            file = os.open(name, os.O_RDONLY, dir_fd=self._fd)
        except OSError:
            return None
        try:
            return os.read(file, limit)
        except OSError:
            return None
        finally:
            os.close(file)

    def numbers(self, name: bytes) -> Listing:
        """List `fd`, `task` or `task/TID/fd`, the largest number first."""
        try:
            directory = os.open(name, os.O_RDONLY, dir_fd=self._fd)
        except OSError as error:
            return Listing(denied=error.errno in _REFUSED)
        try:
            return Listing(_numbers(os.listdir(directory)))  # noqa: PTH208 - a descriptor, no path
        except OSError as error:
            return Listing(denied=error.errno in _REFUSED)
        finally:
            os.close(directory)

    def descriptor_count(self) -> int:
        """Return the number of open descriptors, 0 when unknown.

        The kernel gives it as the size of /proc/PID/fd since 6.2 (proc_fd_getattr() in fs/proc/fd.c).
        """
        try:
            return os.stat(b"fd", dir_fd=self._fd).st_size
        except OSError:
            return 0

    def relatives(self) -> tuple[int, ...]:
        """Return the pids of the parent and of the children that the first thread forked.

        The parent is the one there was at `open`: only it can have been forked from.
        Children need CONFIG_PROC_CHILDREN; without it only the parent is told.
        """
        children = self.read(b"task/%d/children" % self.pid, _CHILDREN_LIMIT) or b""
        return (self.parent, *(int(word) for word in children.split()))

    def holds(self, link: bytes, inode: int) -> bool:
        """Whether `link`, such as `fd/12`, is the socket `inode` at this moment."""
        return self.link(link) == b"socket:[%d]" % inode

    def user_holding(self, link: bytes, inode: int, executable: bytes) -> int | None:
        """Return `uid` if the process `holds` the socket and its link `exe` says `executable`."""
        try:
            if os.readlink(link, dir_fd=self._fd) != b"socket:[%d]" % inode:
                return None
            if os.readlink(b"exe", dir_fd=self._fd) != executable:
                return None
            return os.fstat(self._fd).st_uid
        except OSError:
            return None

    def uid(self) -> int | None:
        """Return the effective user. The directory itself belongs to it, dumpable or not.

        task_dump_owner() in fs/proc/base.c makes that exception for mode 0555 directories.
        """
        try:
            return os.fstat(self._fd).st_uid
        except OSError:
            return None

    def executable(self, task: bytes = b"") -> tuple[str | None, bool]:
        """Return (path, deleted). `task` is `task/TID/` for one thread; a dead first thread has none."""
        text = self.link(task + b"exe")
        if text is None:
            return None, False
        if text.endswith(DELETED) and not self._is_literal(task, text):
            return os.fsdecode(text[: -len(DELETED)]), True
        return os.fsdecode(text), False

    def _is_literal(self, task: bytes, text: bytes) -> bool:
        """Whether the file is really called "... (deleted)": the name then leads to the same file."""
        try:
            named, running = Path(os.fsdecode(text)).stat(), os.stat(task + b"exe", dir_fd=self._fd)
        except OSError:
            return False
        return os.path.samestat(named, running)

    def program(self) -> tuple[object, ...] | None:
        """Return what makes two processes the same program: executable, user and command line.

        The command line belongs to it, because one interpreter runs many programs.
        """
        try:
            file = os.stat(b"exe", dir_fd=self._fd)
        except OSError:
            return None
        return file.st_dev, file.st_ino, self.uid(), self.read(b"cmdline")


class Names(Protocol):
    """Gives users their names, None for those that have none."""

    def name(self, uid: int | None) -> str | None: ...


class UserNames:
    """Names of users, each asked for once. The one answer kept is bounded by `limit`.

    Asking may take long: nsswitch.conf(5) can name a directory on the network.
    """

    def __init__(self, limit: int = 1024) -> None:
        self._names: dict[int, str | None] = {}
        self._limit = limit

    def name(self, uid: int | None) -> str | None:
        if uid is None:
            return None
        if uid not in self._names:
            if len(self._names) >= self._limit:
                self._names.clear()
            self._names[uid] = _user_name(uid)
        return self._names[uid]

    def knows(self, uid: int) -> bool:
        return uid in self._names


class KnownNames:
    """The names that are known already; `missed` tells that one was not.

    For the packet loop, which must not wait: the directory may be asked over a flow of its own.
    """

    def __init__(self, users: UserNames) -> None:
        self._users = users
        self.missed = False

    def name(self, uid: int | None) -> str | None:
        if uid is None or self._users.knows(uid):
            return self._users.name(uid)
        self.missed = True
        return None


def describe(process: ProcessDir, link: bytes, inode: int, users: Names) -> Process | None:
    """Describe a process that holds the socket `inode` at `link`, or None if it does not.

    The link is read again at the end: a process that replaced its program meanwhile, closing the
    socket, is not described as the new program.
    """
    task = link.rpartition(b"fd/")[0]
    path, deleted = process.executable(task)
    uid = process.uid()
    if uid is None or not process.holds(link, inode):
        return None
    return Process(process.pid, process.start, path, uid, users.name(uid), deleted)


def pids() -> Listing:
    """List the processes that /proc shows, the largest pid first.

    `denied` when process 1 is missing: the mount option `hidepid` hides processes of others.
    """
    try:
        found = _numbers(os.listdir("/proc"))  # noqa: PTH208 - half the time of iterdir()
    except OSError:
        return Listing(denied=True)
    return Listing(found, denied=1 not in found)


def owner_of(pid: int) -> int | None:
    """Return the effective user of a pid, only to order pids by."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return None


def _numbers(names: list[str]) -> tuple[int, ...]:
    return tuple(sorted((int(name) for name in names if name.isdigit()), reverse=True))


def _user_name(uid: int) -> str | None:
    passwords = importlib.import_module("pwd")  # typed for POSIX only; loaded when first needed
    try:
        name: str = passwords.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return None
    return name
