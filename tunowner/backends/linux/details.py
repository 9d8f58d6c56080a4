"""What else is known of a process: command line, parents, unit, container, package, hash.

Each process is opened once and read through that descriptor (see procfs). An answer is believed
only if the process was the same one before and after: start time, executable and the place of its
stack, which exec(2) chooses anew (proc(5), stat field 28; hidden from those who may not look).
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from cachetools import LRUCache, TTLCache

from tunowner.backends.linux.cgroup_names import Group, parse_groups
from tunowner.backends.linux.packages import (
    Dpkg,
    appimage_of_environment,
    flatpak_of_info,
    is_in_appimage,
    package_of_group,
    snap_of_path,
)
from tunowner.backends.linux.process import OpenProcess, Version
from tunowner.backends.linux.procfs import UserNames
from tunowner.backends.linux.rpm import Rpm
from tunowner.core.model import Process, ProcessDetails

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = 5.0
"""How long details are kept. The command line and the group may change during a process's life."""
PROCESSES = 1024
HASHES = 1024


class Lineage(NamedTuple):
    """The parents of a process; `whole` if none is missing."""

    parents: tuple[Process, ...]
    whole: bool


class LinuxInspector:
    """An `Inspector`. `timer` gives the seconds by which kept details grow old."""

    def __init__(
        self,
        timer: Callable[[], float] = time.monotonic,
        dpkg: Dpkg | None = None,
        rpm: Rpm | None = None,
    ) -> None:
        self._lock = Lock()
        self._kept: TTLCache[tuple[Process, Version], ProcessDetails] = TTLCache(
            PROCESSES, SECONDS, timer
        )
        self._hashes: LRUCache[tuple[int, ...], str] = LRUCache(HASHES)
        self._users = UserNames()
        self._dpkg = dpkg or Dpkg()
        self._rpm = rpm or Rpm()

    def process(self, pid: int) -> Process | None:
        opened = OpenProcess.open(pid) if pid > 0 else None
        return None if opened is None else opened.describe(self._users)

    def details(self, process: Process, *, sha256: bool = False) -> ProcessDetails | None:
        """See Inspector.details. What was read while the program was replaced is not believed."""
        opened = OpenProcess.open(process.pid)
        if opened is None or opened.start != process.start:
            return None
        task = opened.task()
        version = opened.version(task)
        if version is None or not _same_program(opened, task, process):
            return None
        with self._lock:
            known = self._kept.get((process, version))
        details = known or self._read(opened, task, process)
        digest = self._sha256(opened, task) if sha256 else None
        if opened.version(task) != version:
            return None
        if known is None:
            with self._lock:
                self._kept[process, version] = details
        return replace(details, sha256=digest) if sha256 else details

    def _read(self, opened: OpenProcess, task: bytes, process: Process) -> ProcessDetails:
        groups = opened.whole(b"cgroup")
        group = None if groups is None else parse_groups(os.fsdecode(groups))
        lineage = lineage_of(opened, self._users)
        return ProcessDetails(
            process,
            started_at(process.start),
            opened.file(task),
            _command_line(opened, task),
            lineage.parents,
            lineage.whole,
            cgroup=group and group.path,
            unit=group and group.unit,
            user_unit=group and group.user_unit,
            slice=group and group.slice,
            container=group and group.container,
            package=self._package(opened, task, process, group or Group()),
            directory=_directory(opened, task),
        )

    def _package(
        self, opened: OpenProcess, task: bytes, process: Process, group: Group
    ) -> str | None:
        """Return the package, best evidence first: what the sandbox says goes before the path."""
        told = package_of_group(group) or _flatpak(opened, task)
        if told:
            return told
        if process.path is None or told is None:
            return None
        return (
            snap_of_path(process.path)
            or _appimage(opened, process.path)
            or self._distribution(opened, task, process)
        )

    def _distribution(self, opened: OpenProcess, task: bytes, process: Process) -> str | None:
        """Ask dpkg and rpm, if the path means the same file here and there: a container has its own."""
        assert process.path is not None
        if not _is_here(opened, task, process):
            return None
        debian = self._dpkg.owner(process.path)
        if debian:
            return f"deb:{debian}"
        other = self._rpm.owner(process.path)
        if other:
            return f"rpm:{other}"
        return None if debian is None and other is None else ""

    def _sha256(self, opened: OpenProcess, task: bytes) -> str | None:
        """Hash the file that runs, which the link `exe` opens even when another has its name.

        st_ctime belongs to the key: unlike st_mtime nobody can set it back (inode(7)).
        """
        descriptor = opened.open_file(task + b"exe")
        if descriptor is None:
            return None
        with os.fdopen(descriptor, "rb") as file:
            key = _content_key(descriptor)
            with self._lock:
                known = self._hashes.get(key)
            if known is not None:
                return known
            try:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError:
                return None
            if _content_key(descriptor) != key:
                return None
        with self._lock:
            self._hashes[key] = digest
        return digest


def lineage_of(opened: OpenProcess, users: UserNames) -> Lineage:
    """Follow the parents. A pid that was reused is never taken for one.

    A parent is believed if the child still names it after it was opened: then it lived at that
    moment (a child whose parent exits is given another, wait(2)), and it started first.
    """
    parents: list[Process] = []
    seen = {opened.pid}
    child = opened
    while True:
        pid, parent = _parent(child)
        if pid == 0:
            return Lineage(tuple(parents), whole=True)
        described = None if parent is None else parent.describe(users)
        if parent is None or described is None or pid in seen:
            return Lineage(tuple(parents), whole=False)
        seen.add(pid)
        parents.append(described)
        child = parent


def _parent(child: OpenProcess) -> tuple[int, OpenProcess | None]:
    """Return the parent's pid, 0 for none, and the parent unless it cannot be known."""
    for _ in range(4):  # it may exit while we look, and then another takes its place
        before = child.stat()
        if before is None or before.parent == 0:
            return (-1 if before is None else 0), None
        parent = OpenProcess.open(before.parent)
        after = child.stat()
        if after is not None and after.parent == before.parent:
            fits = parent is not None and parent.start <= child.start
            return before.parent, parent if fits else None
    return -1, None


def started_at(ticks: int) -> float:
    """Return when a process started: ticks since boot (proc(5), stat field 22) as epoch seconds."""
    now = time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_BOOTTIME)
    return now + ticks / os.sysconf("SC_CLK_TCK")


def _same_program(opened: OpenProcess, task: bytes, process: Process) -> bool:
    """Whether it still runs the program it is known by; a path that was not known tells nothing."""
    return process.path is None or opened.executable(task)[0] == process.path


def _command_line(opened: OpenProcess, task: bytes) -> tuple[str, ...] | None:
    """Split /proc/PID/cmdline. It is empty for kernel threads and zombies."""
    text = opened.whole(task + b"cmdline")
    if text is None:
        return None
    words = text.removesuffix(b"\0").split(b"\0") if text else []
    return tuple(os.fsdecode(word) for word in words)


def _directory(opened: OpenProcess, task: bytes) -> str | None:
    """Return the working directory, None where that is refused or it was removed."""
    link = opened.link(task + b"cwd")
    return None if link is None or link.endswith(b" (deleted)") else os.fsdecode(link)


def _flatpak(opened: OpenProcess, task: bytes) -> str | None:
    """Look into the process's own root. None when that is refused."""
    name = task + b"root/.flatpak-info"
    exists = opened.exists(name)
    if not exists:
        return None if exists is None else ""
    text = opened.whole(name)
    return None if text is None else flatpak_of_info(text)


def _appimage(opened: OpenProcess, path: str) -> str:
    if not is_in_appimage(path):
        return ""
    return appimage_of_environment(opened.whole(b"environ") or b"")


def _is_here(opened: OpenProcess, task: bytes, process: Process) -> bool:
    """Whether the path, as this process sees it, is the file that runs or, if deleted, was."""
    assert process.path is not None
    if process.deleted:
        return opened.link(task + b"ns/mnt") == _own_mounts()
    try:
        found = os.stat(process.path)  # noqa: PTH116 - the path may hold any bytes
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == opened.file(task)


def _own_mounts() -> bytes | None:
    own = OpenProcess.open(os.getpid())
    return None if own is None else own.link(b"ns/mnt")


def _content_key(descriptor: int) -> tuple[int, ...]:
    it = os.fstat(descriptor)
    return it.st_dev, it.st_ino, it.st_mtime_ns, it.st_ctime_ns, it.st_size
