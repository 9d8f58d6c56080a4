"""Conditions on what the context tells of a flow: host names, the interface, the profile."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .condition import FlowCondition
from .findings import BadValueError, quoted, shown
from .logic import UNKNOWN, Truth
from .patterns import REGEX_PREFIX, Pattern, pattern_text
from .shape import DEFINED_NAME, expect_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .nodes import Scalar
    from .subject import Subject

_HOST = re.compile(r"[a-z0-9_*?-]+(\.[a-z0-9_*?-]+)*")
_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}


@dataclass(frozen=True, slots=True)
class Host(FlowCondition):
    """`host:` a name that the remote address was looked up by, example.org or *.example.org.
    Best effort: names are seen when this machine asks for them in the clear.
    """

    key: ClassVar[str] = "host"
    value: ClassVar[Mapping[str, Any]] = _TEXT
    cost: ClassVar[int] = 4
    written: str
    values: tuple[Pattern, ...]
    names: frozenset[str]
    """Whole names, and domains with the dot before them for `*.domain`."""
    others: tuple[Pattern, ...]

    @staticmethod
    def parse(node: Scalar) -> Pattern:
        text = pattern_text(node)
        if text.startswith(REGEX_PREFIX):
            return Pattern.expression(text)
        name = _punycode(text.lower().removesuffix("."))
        if not _HOST.fullmatch(name) or _is_address(name):
            raise _not_a_host(text)
        return Pattern.words(name)

    @classmethod
    def build(cls, written: str, values: Sequence[Pattern]) -> Self:
        keys = {value: host_key(value) for value in values}
        names = frozenset(key for key in keys.values() if key is not None)
        others = tuple(value for value, key in keys.items() if key is None)
        return cls(written, tuple(values), names, others)

    def test(self, subject: Subject, /) -> Truth:
        names = subject.hosts()
        return any(map(self._fits, names)) if names else UNKNOWN

    def _fits(self, name: str) -> bool:
        # Lists of hosts are long: one look-up for each domain, not one for each pattern.
        known = any(key in self.names for key in keys_of_host(name))
        return known or any(pattern.fits(name) for pattern in self.others)

    def because(self, subject: Subject, /) -> str:
        names = subject.hosts()
        return f"host {shown(next(filter(self._fits, names)))}"

    def seen(self, subject: Subject, /) -> str:
        return shown(", ".join(sorted(subject.hosts())))


def host_key(pattern: Pattern) -> str | None:
    """Return a whole name, or a domain with the dot before it; None for other patterns."""
    if pattern.is_literal:
        return pattern.text
    rest = pattern.text[1:]
    fits = pattern.text.startswith("*.") and not any(it in rest for it in "*?[")
    return rest if fits and not pattern.anywhere else None


def keys_of_host(name: str) -> Iterator[str]:
    """Yield the name, and the domains above it with the dot before them."""
    yield name
    dot = name.find(".")
    while dot >= 0:
        yield name[dot:]
        dot = name.find(".", dot + 1)


def _punycode(name: str) -> str:
    """Write a name as DNS has it (RFC 5891); labels with a wildcard must be ASCII."""
    try:
        return ".".join(
            label if label.isascii() else label.encode("idna").decode() for label in name.split(".")
        )
    except UnicodeError:
        return name


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _not_a_host(text: str) -> BadValueError:
    hint = "write example.org or *.example.org; ports go into port, addresses into ip"
    return BadValueError("E118", f"{quoted(text)} is no host name", hint)


@dataclass(frozen=True, slots=True)
class Interface(FlowCondition):
    """`interface:` the interface that the flow would leave by without tunowner; globs are fine."""

    key: ClassVar[str] = "interface"
    value: ClassVar[Mapping[str, Any]] = _TEXT
    cost: ClassVar[int] = 5
    written: str
    values: tuple[Pattern, ...]

    @staticmethod
    def parse(node: Scalar) -> Pattern:
        return Pattern.words(pattern_text(node))

    @classmethod
    def build(cls, written: str, values: Sequence[Pattern]) -> Self:
        return cls(written, tuple(values))

    def test(self, subject: Subject, /) -> Truth:
        name = subject.interface()
        return UNKNOWN if name is None else any(it.fits(name) for it in self.values)

    def because(self, subject: Subject, /) -> str:
        return f"interface {self.seen(subject)}"

    def seen(self, subject: Subject, /) -> str:
        return shown(subject.interface() or "")


@dataclass(frozen=True, slots=True)
class Profile(FlowCondition):
    """`profile:` the profile that was chosen when tunowner was started."""

    key: ClassVar[str] = "profile"
    value: ClassVar[Mapping[str, Any]] = {"type": "string", "pattern": f"^{DEFINED_NAME.pattern}$"}
    cost: ClassVar[int] = 1
    written: str
    values: tuple[str, ...]

    @staticmethod
    def parse(node: Scalar) -> str:
        text = expect_text(node)
        if not DEFINED_NAME.fullmatch(text):
            hint = "1 to 64 letters, digits, '_', '.' or '-', the first an ASCII letter or digit"
            raise BadValueError("E015", f"{quoted(text)} is not a good name", hint)
        return text

    @classmethod
    def build(cls, written: str, values: Sequence[str]) -> Self:
        return cls(written, tuple(values))

    def test(self, subject: Subject, /) -> Truth:
        return subject.context.profile in self.values

    def because(self, subject: Subject, /) -> str:
        return f"profile {subject.context.profile}"

    def seen(self, subject: Subject, /) -> str:
        return subject.context.profile or "none"
