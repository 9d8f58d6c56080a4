"""Conditions on what is known of a process beyond its path: each fetches the process's details.

All of it but `sha256` is what the process or its user may have chosen, so it tells honest programs
apart and is no proof.
"""

from __future__ import annotations

import re
import shlex
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .condition import ProcessCondition
from .findings import BadValueError, quoted, shown, suggestion
from .logic import UNKNOWN, Truth
from .moving import doubt_about
from .patterns import REGEX_PREFIX, Pattern, file_pattern, path_pattern, pattern_text
from .regexes import MAX_SUBJECT
from .scripts import NO_SCRIPT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tunowner.core.model import Process, ProcessDetails

    from .nodes import Scalar
    from .subject import Subject

MAX_COMMAND_LINE = 32_768
"""Characters; a longer command line counts as unknown, which bounds what a pattern may cost."""
_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_PACKAGES = ("deb", "rpm", "flatpak", "snap", "appimage")
_CONTAINERS = ("docker", "podman", "containerd", "crio", "lxc", "nspawn")
_UNITS = (
    *("service", "socket", "device", "mount", "automount", "swap"),
    *("target", "path", "timer", "slice", "scope"),
)
"""What the name of a unit ends in, systemd.unit(5)."""
_PACKAGE = "deb:curl or flatpak:org.mozilla.firefox"
_CONTAINER = "docker:0123456789ab or docker:*"
_SHORT_ID = re.compile(r"[a-z]+:[0-9a-f]{12,63}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class DetailText(ProcessCondition):
    """One text, or several of which one must fit. Empty text is known to be nothing."""

    cost: ClassVar[int] = 20
    value: ClassVar[Mapping[str, Any]] = _TEXT
    written: str
    values: tuple[Pattern, ...]

    @classmethod
    def build(cls, written: str, values: Sequence[Pattern]) -> Self:
        return cls(written, tuple(values))

    @staticmethod
    @abstractmethod
    def texts(details: ProcessDetails) -> tuple[str | None, ...]:
        """Return the texts, None for what is not known."""

    def test(self, process: Process, subject: Subject, /) -> Truth:
        details = subject.details(process)
        if details is None:
            return UNKNOWN
        texts = self.texts(details)
        if any(self._fitting(text) for text in texts if text):
            return True
        return UNKNOWN if None in texts or self._unread(texts) else False

    def _unread(self, texts: tuple[str | None, ...]) -> bool:
        """Whether a text is too long to be searched by one of the patterns."""
        longest = max(len(text or "") for text in texts)
        return longest > MAX_SUBJECT and any(it.anywhere for it in self.values)

    def _fitting(self, text: str) -> Pattern | None:
        return next((pattern for pattern in self.values if pattern.fits(text)), None)

    def _known(self, process: Process, subject: Subject) -> list[str]:
        details = subject.details(process)
        return [text for text in self.texts(details) if text] if details else []

    def because(self, process: Process, subject: Subject, /) -> str:
        text = next(it for it in self._known(process, subject) if self._fitting(it))
        return f"{self.key} {quoted(text)}"

    def seen(self, process: Process, subject: Subject, /) -> str:
        return " and ".join(map(quoted, self._known(process, subject))) or "nothing"


@dataclass(frozen=True, slots=True)
class CommandLine(DetailText):
    """`cmdline:` a glob (or `re:`) for the whole command line, quoted as for a shell; `*` is any
    run of characters. The process can fake it.
    """

    key: ClassVar[str] = "cmdline"

    @staticmethod
    def parse(node: Scalar) -> Pattern:
        return Pattern.words(pattern_text(node))

    @staticmethod
    def texts(details: ProcessDetails) -> tuple[str | None, ...]:
        if details.command_line is None:
            return (None,)
        text = shlex.join(details.command_line)
        return (text if len(text) <= MAX_COMMAND_LINE else None,)


@dataclass(frozen=True, slots=True)
class Package(DetailText):
    """`package:` deb:NAME, rpm:NAME, flatpak:ID, snap:NAME or appimage:PATH; globs are fine."""

    key: ClassVar[str] = "package"

    @staticmethod
    def parse(node: Scalar) -> Pattern:
        return _kind_pattern(node, _PACKAGES, "package", _PACKAGE)

    @staticmethod
    def texts(details: ProcessDetails) -> tuple[str | None, ...]:
        return (details.package,)


@dataclass(frozen=True, slots=True)
class Container(DetailText):
    """`container:` docker:ID (12 digits of it will do), podman:ID, lxc:NAME, ..., docker:* or *
    for any.
    """

    key: ClassVar[str] = "container"

    @staticmethod
    def parse(node: Scalar) -> Pattern:
        pattern = _kind_pattern(node, _CONTAINERS, "container", _CONTAINER)
        short = pattern.is_literal and _SHORT_ID.fullmatch(pattern.text)
        return Pattern.words(pattern.text + "*") if short else pattern

    @staticmethod
    def texts(details: ProcessDetails) -> tuple[str | None, ...]:
        return (details.container,)


def _kind_pattern(node: Scalar, kinds: Sequence[str], what: str, example: str) -> Pattern:
    text = pattern_text(node)
    kind = text.partition(":")[0]
    if not text.startswith(REGEX_PREFIX) and "*" not in kind:
        _check_kind(text, kinds, what, example)
    return Pattern.words(text)


def _check_kind(text: str, kinds: Sequence[str], what: str, example: str) -> None:
    kind, colon, name = text.partition(":")
    if kind not in kinds or not name:
        wrong = colon and kind not in kinds
        hint = suggestion(kind, kinds, "kinds") if wrong else f"write {example}"
        raise BadValueError("E115", f"{quoted(text)} is no {what}", hint)


def check_package(text: str) -> None:
    """Raise `BadValueError` for what no package is called."""
    _check_kind(text, _PACKAGES, "package", _PACKAGE)


def check_container(text: str) -> None:
    """Raise `BadValueError` for what no container is called."""
    _check_kind(text, _CONTAINERS, "container", _CONTAINER)


def unit_name(text: str) -> str:
    """Return the name of a systemd unit, of which `.service` may be left out."""
    return text if text.rpartition(".")[2] in _UNITS else f"{text}.service"


def read_hash(text: str) -> str:
    """Return a SHA-256 in lower case; `BadValueError` if it is none."""
    if not _SHA256.fullmatch(text):
        hint = "write the 64 digits that `sha256sum FILE` prints"
        raise BadValueError("E117", f"{quoted(text)} is no SHA-256", hint)
    return text.lower()


@dataclass(frozen=True, slots=True)
class Service(DetailText):
    """`service:` the systemd unit, of the system or of the user, such as ssh.service; `.service`
    may be left out.
    """

    key: ClassVar[str] = "service"

    @staticmethod
    def parse(node: Scalar) -> Pattern:
        pattern = Pattern.words(pattern_text(node))
        return Pattern.words(unit_name(pattern.text)) if pattern.is_literal else pattern

    @staticmethod
    def texts(details: ProcessDetails) -> tuple[str | None, ...]:
        return (details.unit, details.user_unit)


@dataclass(frozen=True, slots=True)
class Cgroup(DetailText):
    """`cgroup:` a glob for the path of the control group, such as /system.slice/**."""

    key: ClassVar[str] = "cgroup"

    @staticmethod
    def parse(node: Scalar) -> Pattern:
        return path_pattern(pattern_text(node))

    @staticmethod
    def texts(details: ProcessDetails) -> tuple[str | None, ...]:
        return (details.cgroup,)


@dataclass(frozen=True, slots=True)
class ScriptFile(ProcessCondition):
    """`script:` what an interpreter (python, node, perl, ruby, a shell, java -jar, wine) runs: a
    name, a path, a folder or `re:`; of `python -m`, the module. The process can fake it.
    """

    key: ClassVar[str] = "script"
    value: ClassVar[Mapping[str, Any]] = _TEXT
    cost: ClassVar[int] = 20
    written: str
    values: tuple[Pattern, ...]

    @staticmethod
    def parse(node: Scalar) -> Pattern:
        return file_pattern(pattern_text(node))

    @classmethod
    def doubt(cls, text: str) -> BadValueError | None:
        """Warn of paths that will move."""
        return doubt_about(text)

    @classmethod
    def build(cls, written: str, values: Sequence[Pattern]) -> Self:
        return cls(written, tuple(values))

    def test(self, process: Process, subject: Subject, /) -> Truth:
        script = subject.script(process)
        if script is None:
            return UNKNOWN
        if script == NO_SCRIPT:
            return False
        result: Truth = False
        for pattern in self.values:
            text = script.name if pattern.on_name else script.path
            if text is None:
                result = UNKNOWN
            elif text and pattern.fits(text):
                return True
        return result

    def because(self, process: Process, subject: Subject, /) -> str:
        return f"script {self.seen(process, subject)}"

    def seen(self, process: Process, subject: Subject, /) -> str:
        script = subject.script(process)
        return shown((script.path or script.name) if script else "") or "nothing"


@dataclass(frozen=True, slots=True)
class Sha256(ProcessCondition):
    """`sha256:` the hash of the program that runs, 64 hexadecimal digits."""

    key: ClassVar[str] = "sha256"
    value: ClassVar[Mapping[str, Any]] = {"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}
    cost: ClassVar[int] = 50
    written: str
    values: tuple[str, ...]

    @staticmethod
    def parse(node: Scalar) -> str:
        return read_hash(node.text)

    @classmethod
    def build(cls, written: str, values: Sequence[str]) -> Self:
        return cls(written, tuple(values))

    def test(self, process: Process, subject: Subject, /) -> Truth:
        found = subject.sha256(process)
        return UNKNOWN if found is None else found in self.values

    def because(self, process: Process, subject: Subject, /) -> str:
        return f"sha256 {self.seen(process, subject)}"

    def seen(self, process: Process, subject: Subject, /) -> str:
        return (subject.sha256(process) or "")[:12] + "..."
