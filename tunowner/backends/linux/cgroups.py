"""Which processes are in this control group? A short list to search first; never the only one.

sock_diag names the cgroup v2 of a socket's creator by id, and that id is the inode number of its
directory (cgroup_id() in <linux/cgroup.h>, kernfs). Where there is no cgroup v2, or the group is
hidden by a namespace, the answer is empty.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

ROOT = 1
"""The id of the root group, which holds whatever no other does: not worth a list."""
REFRESH_SECONDS = 1.0
"""The tree is read again at most so often for an unknown id; a few ms on a busy desktop."""
SHORT_LIST = 256
"""A group of more processes is no short list; all processes come later anyway."""


class CgroupPids:
    """Finds the directory of a cgroup v2 id and the processes in it. Used by one thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._paths: dict[int, str] = {}
        self._read_at = -REFRESH_SECONDS

    def pids(self, ids: Collection[int]) -> list[int]:
        """Return the processes of these groups, the largest pid first."""
        wanted = [number for number in ids if number > ROOT]
        if not wanted:
            return []
        if any(number not in self._paths for number in wanted):
            self._refresh()
        found = {pid for number in wanted for pid in _members(self._paths.get(number))}
        return sorted(found, reverse=True) if len(found) <= SHORT_LIST else []

    def _refresh(self) -> None:
        if self._now() - self._read_at < REFRESH_SECONDS:
            return
        self._read_at = self._now()
        self._paths = _directories(_mount_point())


def _mount_point() -> str | None:
    try:
        mounts = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    fields = (line.split(" ") for line in mounts)
    return next((words[1] for words in fields if len(words) > 2 and words[2] == "cgroup2"), None)


def _directories(top: str | None) -> dict[int, str]:
    found: dict[int, str] = {}
    todo = [top] if top else []
    while todo:
        path = todo.pop()
        try:
            with os.scandir(path) as entries:
                folders = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
                found.update((folder.inode(), folder.path) for folder in folders)
        except OSError:
            continue  # removed meanwhile
        todo.extend(folder.path for folder in folders)
    return found


def _members(path: str | None) -> list[int]:
    if path is None:
        return []
    try:
        words = Path(path, "cgroup.procs").read_text().split()
    except OSError:
        return []
    return [int(word) for word in words if word.isdigit() and word != "0"]
