"""Tables by what only the details of a process tell: they are asked last (see `index`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .detail_conditions import (
    Cgroup,
    CommandLine,
    Container,
    DetailText,
    Package,
    ScriptFile,
    Service,
    Sha256,
)
from .lookup import FileTable, Table, file_keys
from .patterns import with_slashes
from .process_conditions import App, Path
from .relatives import Ancestor, Parent, Relative

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable

    from tunowner.core.model import Process, ProcessDetails

    from .condition import Condition
    from .patterns import Pattern
    from .subject import Subject

_SPECIAL = "*?["


class ScriptTable(FileTable):
    """By the script that an interpreter runs."""

    conditions = (ScriptFile,)

    @staticmethod
    def keys(condition: Condition) -> Collection[Hashable] | None:
        return file_keys(condition.values)

    def find(self, subject: Subject) -> tuple[list[int], bool]:
        found: list[int] = []
        for process in subject.owner.candidates:
            script = subject.script(process)
            if script is not None:
                self.find_file(script.path or script.name, found)
        return found, self.finds_all(subject)

    def finds_all(self, subject: Subject) -> bool:
        scripts = [subject.script(process) for process in subject.owner.candidates]
        return bool(scripts) and all(it is not None and it.path is not None for it in scripts)


class RelativeTable(FileTable):
    """By the program of the parent, or of an ancestor."""

    relation: type[Relative]

    @staticmethod
    def keys(condition: Condition) -> Collection[Hashable] | None:
        assert isinstance(condition, Relative)
        keys: set[Hashable] = set()
        for alternative in condition.alternatives:
            programs = [it for it in alternative if isinstance(it, App | Path)]
            known = file_keys(programs[0].values) if programs else None
            if known is None:
                return None
            keys.update(known)
        return keys

    def find(self, subject: Subject) -> tuple[list[int], bool]:
        found: list[int] = []
        whole = bool(subject.owner.candidates)
        for process in subject.owner.candidates:
            details = subject.details(process)
            relatives = self.relation.whom(details.parents) if details else ()
            whole = whole and details is not None and self._are_all(details)
            for relative in relatives:
                if relative.path is None:
                    whole = False
                else:
                    self.find_file(with_slashes(relative.path), found)
        return found, whole

    @staticmethod
    def _are_all(details: ProcessDetails) -> bool:
        return details.parents_whole


class ParentTable(RelativeTable):
    """By the parent."""

    conditions = (Parent,)
    relation = Parent

    @staticmethod
    def _are_all(details: ProcessDetails) -> bool:
        return bool(details.parents) or details.parents_whole


class AncestorTable(RelativeTable):
    """By any ancestor."""

    conditions = (Ancestor,)
    relation = Ancestor


class TextTable(Table):
    """By a text of the details, or its start. The key names the condition too."""

    conditions = (CommandLine, Package, Service, Cgroup, Container)

    def __init__(self) -> None:
        super().__init__()
        self._starts: dict[type[DetailText], tuple[int, ...]] = {}

    @staticmethod
    def keys(condition: Condition) -> Collection[Hashable] | None:
        starts = [_start(pattern) for pattern in condition.values]
        return None if None in starts else {(type(condition), start) for start in starts}

    def add(self, key: Hashable, position: int) -> None:
        super().add(key, position)
        assert isinstance(key, tuple)
        condition, text = key
        known = self._starts.setdefault(condition, ())
        if text.endswith("*") and len(text) - 1 not in known:
            self._starts[condition] = (*known, len(text) - 1)

    def find(self, subject: Subject) -> tuple[list[int], bool]:
        found: list[int] = []
        whole = bool(subject.owner.candidates)
        for process in subject.owner.candidates:
            whole = self._find(process, subject, found) and whole
        return found, whole

    def _find(self, process: Process, subject: Subject, found: list[int]) -> bool:
        details = subject.details(process)
        if details is None:
            return False
        texts = [(it, text) for it in self._starts for text in it.texts(details)]
        for condition, text in texts:
            if text is not None:
                found += self.filed.get((condition, text), ())
                for length in self._starts[condition]:
                    found += self.filed.get((condition, text[:length] + "*"), ())
        return all(text is not None for _, text in texts)


def _start(pattern: Pattern) -> str | None:
    """Return the whole text of a literal, or what a glob starts with, with a `*`."""
    if pattern.is_literal:
        return pattern.text
    if pattern.anywhere:
        return None
    start = pattern.text[: min(at for it in _SPECIAL if (at := pattern.text.find(it)) >= 0)]
    return f"{start}*" if start else None


class HashTable(Table):
    """By the hash of the program."""

    conditions = (Sha256,)

    @staticmethod
    def keys(condition: Condition) -> Collection[Hashable] | None:
        return frozenset(condition.values)

    def find(self, subject: Subject) -> tuple[list[int], bool]:
        found: list[int] = []
        whole = bool(subject.owner.candidates)
        for process in subject.owner.candidates:
            known = subject.sha256(process)
            whole = whole and known is not None
            found += self.filed.get(known, ())
        return found, whole


DETAIL_TABLES: tuple[type[Table], ...] = (
    ScriptTable,
    ParentTable,
    AncestorTable,
    TextTable,
    HashTable,
)
