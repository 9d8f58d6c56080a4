"""Which package a program came in: flatpak, snap, AppImage, Debian.

Sources: flatpak-metadata(5) and /.flatpak-info, which flatpak puts in every sandbox; snapd's scope
names and its mount points; the variable APPIMAGE, which the AppImage runtime sets, together with
the folder it mounts; dpkg's lists of files (dpkg-query(1), --listfiles).
"""

from __future__ import annotations

import os
import re
from array import array
from bisect import bisect_left
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from cachetools import LRUCache

from tunowner.backends.linux.cgroup_names import unescape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunowner.backends.linux.cgroup_names import Group

_FLATPAK_SCOPE = re.compile(r"app-flatpak-(?P<id>.+?)(?:-\d+)?\.scope")
_SNAP_UNIT = re.compile(r"snap\.(?P<name>[a-z0-9-]+?(?:_[a-z0-9]+)?)\..+\.(?:scope|service)")
_SNAP_PATH = re.compile(r"(?:/var/lib/snapd)?/snap/(?P<name>[^/]+)/[^/]+/.+")
_APPIMAGE_PATH = re.compile(r"(?:/[^/]+)*/\.mount_[^/]+/.+")
_FLATPAK_NAME = re.compile(r"^(?:name|runtime)=(?P<id>[\w.-]+)", re.MULTILINE)

DPKG = Path("/var/lib/dpkg")
SCANS = 3
"""Paths that are searched for in the lists themselves, 20 ms for 760 packages; then an index is
made, which takes the time of four and 8 bytes for each file."""
_HASH_BITS, _PLACE_BITS = 48, 16
_MERGED = re.compile(rb"/usr(/(?:bin|sbin|lib[^/]*)/.+)")
"""Folders that once were at the top and are links now (file-hierarchy(7), "usr merge")."""


def package_of_group(group: Group) -> str:
    """Return the package that a systemd unit is named for, "" for none."""
    for unit in (group.user_unit, group.unit):
        if found := _FLATPAK_SCOPE.fullmatch(unit):
            return f"flatpak:{unescape(found['id'])}"
        if found := _SNAP_UNIT.fullmatch(unit):
            return f"snap:{found['name']}"
    return ""


def snap_of_path(path: str) -> str:
    found = _SNAP_PATH.fullmatch(path)
    return f"snap:{found['name']}" if found else ""


def flatpak_of_info(text: bytes) -> str:
    """Return the application of a /.flatpak-info, "" when it names none."""
    found = _FLATPAK_NAME.search(text.decode(errors="replace"))
    return f"flatpak:{found['id'].removeprefix('runtime/')}" if found else ""


def is_in_appimage(path: str) -> bool:
    """Whether a program runs from where the AppImage runtime mounts one: DIR/.mount_NAMExxxxxx."""
    return _APPIMAGE_PATH.fullmatch(path) is not None


def appimage_of_environment(variables: bytes) -> str:
    """Return the AppImage that /proc/PID/environ names, "" for none. Children inherit it."""
    for variable in variables.split(b"\0"):
        if variable.startswith(b"APPIMAGE=/"):
            return f"appimage:{os.fsdecode(variable[9:])}"
    return ""


class _Diversion(NamedTuple):
    """A file that one package (b":" is the administrator) moved out of the way of its own."""

    path: bytes
    moved_to: bytes
    package: bytes


class Dpkg:
    """Finds the Debian package of a path. Any thread may ask; everything is read when needed."""

    def __init__(self, folder: Path = DPKG) -> None:
        self._folder = folder
        self._lock = Lock()
        self._version = 0
        self._answers: LRUCache[str, str] = LRUCache(1024)
        self._index: _Index | None = None
        self._scans = 0

    def owner(self, path: str) -> str | None:
        """Return the package's name, "" for a file of no package, None without a database."""
        with self._lock:
            try:
                self._notice_change()
                if path not in self._answers:
                    self._answers[path] = self._search(os.fsencode(path))
                return self._answers[path]
            except OSError:
                return None

    def _notice_change(self) -> None:
        version = (self._folder / "info").stat().st_mtime_ns
        if version != self._version:
            self._answers.clear()
            self._index, self._scans, self._version = None, 0, version

    def _search(self, path: bytes) -> str:
        names = set(_names(path))
        for diversion in self._diversions():
            if diversion.moved_to in names:
                return self._listed({diversion.path}, but=diversion.package)
            if diversion.path in names:
                return diversion.package.decode().removeprefix(":")
        return self._listed(names)

    def _listed(self, names: set[bytes], but: bytes = b"") -> str:
        lists = self._candidates(names)
        for name in lists:
            package = name.removesuffix(".list").partition(":")[0]
            if package.encode() != but and self._lists_any(name, names):
                return package
        return ""

    def _candidates(self, names: set[bytes]) -> Iterator[str]:
        """Yield the lists that may hold one of `names`: all of them, until an index pays."""
        if self._index is None and self._scans >= SCANS:
            self._index = _Index(self._folder / "info")
        if self._index is not None:
            yield from self._index.lists(names)
            return
        self._scans += 1
        likely = {f"{os.fsdecode(name.rpartition(b'/')[2])}.list" for name in names}
        yield from sorted(_lists(self._folder / "info"), key=lambda name: name not in likely)

    def _lists_any(self, file: str, names: set[bytes]) -> bool:
        text = _text(self._folder / "info" / file)
        return any(b"\n%s\n" % name in text for name in names)

    def _diversions(self) -> list[_Diversion]:
        """Read the file `diversions`: three lines for each (dpkg-divert(1))."""
        try:
            lines = (self._folder / "diversions").read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return list(map(_Diversion, lines[0::3], lines[1::3], lines[2::3]))


class _Index:
    """All paths of all lists: 48 bits of a hash and 16 of the list's place, sorted."""

    def __init__(self, folder: Path) -> None:
        self._names = _lists(folder)[: 1 << _PLACE_BITS]
        entries = [
            _hashed(line) | place
            for place, name in enumerate(self._names)
            for line in _text(folder / name).split(b"\n")
        ]
        entries.sort()
        self._entries = array("Q", entries)

    def lists(self, paths: set[bytes]) -> Iterator[str]:
        """Yield the lists that may hold one of `paths`."""
        for path in paths:
            first = _hashed(path)
            start = bisect_left(self._entries, first)
            end = bisect_left(self._entries, first + (1 << _PLACE_BITS))
            for entry in self._entries[start:end]:
                yield self._names[entry - first]


def _hashed(path: bytes) -> int:
    return (hash(path) & ((1 << _HASH_BITS) - 1)) << _PLACE_BITS


def _lists(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".list")]  # noqa: PTH208 - names


def _text(file: Path) -> bytes:
    """Return the lines of a list, each between two line ends; none when it went away."""
    try:
        return b"\n%s\n" % file.read_bytes()
    except FileNotFoundError:
        return b""


def _names(path: bytes) -> Iterator[bytes]:
    """Yield the names that a package may list a file by: /bin/ls is /usr/bin/ls nowadays."""
    yield path
    merged = _MERGED.fullmatch(path)
    if merged and _same_file(path, merged[1]):
        yield merged[1]


def _same_file(one: bytes, other: bytes) -> bool:
    try:
        return os.path.samestat(os.stat(one), os.stat(other))  # noqa: PTH116 - bytes
    except OSError:
        return False
