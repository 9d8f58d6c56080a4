"""Tables that rules are filed in by a value they ask for, and found in by what a flow has.

A rule is filed under keys such that every flow which fits its condition has one of them. A flow's
keys are few: its address cut to the prefix lengths in use, its program's name, path and folders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from typing import TYPE_CHECKING, ClassVar

from .context_conditions import Host, keys_of_host
from .flow_conditions import Ip, Port
from .patterns import with_slashes
from .process_conditions import App, Path, Pid, User

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Iterator

    from tunowner.core.model import Process

    from .condition import Condition
    from .patterns import Pattern
    from .subject import Subject

_SPECIAL = "*?["
_MOST_PATHS = 4_096
"""Programs whose rules are remembered; a machine runs some hundred."""
_DEEP = 3
"""Slashes in a folder that is likely to tell more than the name of a program in it."""


class Table(ABC):
    """One table: the positions of rules by key, in ascending order."""

    conditions: ClassVar[tuple[type[Condition], ...]]
    """What may be filed here."""
    always_known: ClassVar[bool] = False
    """Whether `find` always returns all."""

    def __init__(self) -> None:
        self.filed: defaultdict[Hashable, list[int]] = defaultdict(list)

    def __bool__(self) -> bool:
        return bool(self.filed)

    @staticmethod
    @abstractmethod
    def keys(condition: Condition) -> Collection[Hashable] | None:
        """Return the keys to file a rule with this condition under; None if there are none."""

    def add(self, key: Hashable, position: int) -> None:
        """File a rule. Positions come in ascending order."""
        self.filed[key].append(position)

    @abstractmethod
    def find(self, subject: Subject) -> tuple[list[int], bool]:
        """Return the rules that may fit, and whether these are all.

        Not all: something is not known of the flow, so that other rules may be unknown.
        """

    def finds_all(self, subject: Subject) -> bool:
        """Return what `find` says of itself, where that is all that matters."""
        return self.find(subject)[1]


class IpTable(Table):
    """By remote network."""

    conditions = (Ip,)
    always_known = True

    def __init__(self) -> None:
        super().__init__()
        self._shifts: dict[int, tuple[int, ...]] = {}

    @staticmethod
    def keys(condition: Condition) -> Collection[Hashable] | None:
        assert isinstance(condition, Ip)
        return {
            (length, prefixes.shift, number)
            for length, tables in condition.families.items()
            for prefixes in tables
            for number in prefixes.networks
        }

    def add(self, key: Hashable, position: int) -> None:
        super().add(key, position)
        assert isinstance(key, tuple)
        length, shift, _ = key
        if shift not in self._shifts.get(length, ()):
            self._shifts[length] = (*self._shifts.get(length, ()), shift)

    def find(self, subject: Subject) -> tuple[list[int], bool]:
        remote = subject.flow.remote
        length, number = len(remote), int.from_bytes(remote, "big")
        found: list[int] = []
        for shift in self._shifts.get(length, ()):
            found += self.filed.get((length, shift, number >> shift), ())
        return found, True


class PortTable(Table):
    """By remote port; a range is filed as the aligned blocks that make it up."""

    conditions = (Port,)
    always_known = True

    def __init__(self) -> None:
        super().__init__()
        self._shifts: tuple[int, ...] = ()

    @staticmethod
    def keys(condition: Condition) -> Collection[Hashable] | None:
        assert isinstance(condition, Port)
        ranges = zip(condition.starts, condition.ends, strict=True)
        return {block for low, high in ranges for block in _blocks(low, high)}

    def add(self, key: Hashable, position: int) -> None:
        super().add(key, position)
        assert isinstance(key, tuple)
        if key[0] not in self._shifts:
            self._shifts = (*self._shifts, key[0])

    def find(self, subject: Subject) -> tuple[list[int], bool]:
        port = subject.flow.remote_port
        found: list[int] = []
        for shift in self._shifts:
            found += self.filed.get((shift, port >> shift), ())
        return found, True


def _blocks(low: int, high: int) -> Iterator[tuple[int, int]]:
    """Cut a range into the fewest blocks (shift, number): all ports with `port >> shift == number`."""
    while low <= high:
        shift = 0
        while low >> shift & 1 == 0 and low + (2 << shift) - 1 <= high:
            shift += 1
        yield shift, low >> shift
        low += 1 << shift


class FileTable(Table):
    """By the name of a file, its path, a folder above it, or the start or end of its name."""

    def __init__(self) -> None:
        super().__init__()
        self._starts: tuple[int, ...] = ()
        self._ends: tuple[int, ...] = ()

    def add(self, key: Hashable, position: int) -> None:
        super().add(key, position)
        assert isinstance(key, str)
        length = len(key) - 1
        if key.endswith("*") and length not in self._starts:
            self._starts = (*self._starts, length)
        if key.startswith("*") and length not in self._ends:
            self._ends = (*self._ends, length)

    def find_file(self, path: str, found: list[int]) -> None:
        """Add the rules that may fit a file, of which only the name may be known."""
        filed = self.filed
        end = path.rfind("/")
        name = path[end + 1 :]
        found += filed.get(path, ())
        if name != path:
            found += filed.get(name, ())
        for length in self._starts:
            if length <= len(name):
                found += filed.get(name[:length] + "*", ())
        for length in self._ends:
            if length <= len(name):
                found += filed.get("*" + name[-length:], ())
        while end >= 0:
            found += filed.get(path[: end + 1], ())
            end = path.rfind("/", 0, end)


class AppTable(FileTable):
    """By the program."""

    conditions = (App, Path)

    @staticmethod
    def keys(condition: Condition) -> Collection[Hashable] | None:
        return file_keys(condition.values)

    def __init__(self) -> None:
        super().__init__()
        self._of_path: dict[str | None, list[int]] = {None: []}

    def find(self, subject: Subject) -> tuple[list[int], bool]:
        paths = [process.path for process in subject.owner.candidates]
        if len(paths) == 1:
            return self._find(paths[0]), paths[0] is not None
        found = [position for path in paths for position in self._find(path)]
        return found, bool(paths) and None not in paths

    def _find(self, path: str | None) -> list[int]:
        known = self._of_path.get(path)
        if known is None:
            assert path is not None
            known = []
            self.find_file(with_slashes(path), known)
            if len(self._of_path) > _MOST_PATHS:
                self._of_path = {None: []}
            self._of_path[path] = known
        return known


def file_keys(patterns: Iterable[Pattern]) -> Collection[Hashable] | None:
    """Return the keys of a `FileTable`; None if a pattern has none."""
    keys = {_file_key(pattern) for pattern in patterns}
    return None if None in keys else keys


def _file_key(pattern: Pattern) -> str | None:
    """Return a name, a path, a folder with its `/`, or a part of a name with a `*` for the rest."""
    text = pattern.text
    if pattern.is_literal:
        return text
    if pattern.anywhere:
        return None
    start = text[: min(found for it in _SPECIAL if (found := text.find(it)) >= 0)]
    if pattern.on_name:
        return f"{start}*" if start else _end_key(text)
    folder = start[: start.rfind("/") + 1]
    name = text.rpartition("/")[2]
    literal = name and not any(it in name for it in _SPECIAL)
    if literal and folder.count("/") < _DEEP:
        return name
    return folder or None


def _end_key(glob: str) -> str | None:
    """Return `*` and the text that the glob ends in, None where it ends in anything."""
    end = glob[max(map(glob.rfind, "*?]")) + 1 :]
    return f"*{end}" if end and "[" not in end else None


class UserTable(Table):
    """By uid or by name."""

    conditions = (User,)

    @staticmethod
    def keys(condition: Condition) -> Collection[Hashable] | None:
        assert isinstance(condition, User)
        return condition.uids | condition.names

    def find(self, subject: Subject) -> tuple[list[int], bool]:
        owner = subject.owner
        found: list[int] = []
        whole = True
        who = [(it.uid, it.user) for it in owner.candidates] or [(owner.uid, owner.user)]
        for uid, name in who:
            whole = whole and uid is not None and name is not None
            found += self.filed.get(uid, ())
            found += self.filed.get(name, ())
        return found, whole


class PidTable(Table):
    """By process number."""

    conditions = (Pid,)

    @staticmethod
    def keys(condition: Condition) -> Collection[Hashable] | None:
        assert isinstance(condition, Pid)
        return condition.pids

    def find(self, subject: Subject) -> tuple[list[int], bool]:
        holders: tuple[Process, ...] = subject.owner.candidates
        found: list[int] = []
        for process in holders:
            found += self.filed.get(process.pid, ())
        return found, bool(holders) and all(process.pid for process in holders)


class HostTable(Table):
    """By host name, or by the domain that `*.domain` names."""

    conditions = (Host,)

    @staticmethod
    def keys(condition: Condition) -> Collection[Hashable] | None:
        assert isinstance(condition, Host)
        return None if condition.others else condition.names

    def find(self, subject: Subject) -> tuple[list[int], bool]:
        names = subject.hosts()
        found: list[int] = []
        for name in names:
            for key in keys_of_host(name):
                found += self.filed.get(key, ())
        return found, bool(names)


TABLES: tuple[type[Table], ...] = (AppTable, IpTable, PortTable, HostTable, PidTable, UserTable)
