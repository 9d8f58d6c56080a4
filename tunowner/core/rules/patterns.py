"""Patterns for names, paths and other text: literals, globs and regular expressions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .findings import BadValueError, quoted
from .globs import is_literal, translate
from .regexes import MAX_SUBJECT, compile_regex
from .shape import expect_text

if TYPE_CHECKING:
    from .nodes import Scalar

REGEX_PREFIX = "re:"
_WINDOWS = re.compile(r"[A-Za-z]:\\")
_ABSOLUTE = re.compile(r"/|[A-Za-z]:/|\*\*")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern. `source` is its regular expression, None for a literal, compared whole.

    `on_name`: it is meant for the last component of a path. `anywhere`: it is searched. Compiled
    when it is first used: of thousands of rules, few ever are.
    """

    text: str
    on_name: bool
    source: str | None
    anywhere: bool = False
    _compiled: list[re.Pattern[str]] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def glob(cls, text: str, *, on_name: bool) -> Pattern:
        return cls(text, on_name, None if is_literal(text) else translate(text))

    @classmethod
    def words(cls, text: str) -> Pattern:
        """Take a glob for text that is no path: `*` is any run of any characters, or `re:...`."""
        if text.startswith(REGEX_PREFIX):
            return cls.expression(text)
        return cls(text, False, None if is_literal(text) else translate(text, paths=False))

    @classmethod
    def expression(cls, text: str) -> Pattern:
        """Take `re:...`, searched anywhere."""
        source = text.removeprefix(REGEX_PREFIX)
        return cls(text, False, source, True, [compile_regex(source)])

    @property
    def is_literal(self) -> bool:
        """Whether it fits nothing but its own text."""
        return self.source is None

    def fits(self, subject: str) -> bool:
        if self.source is None:
            return subject == self.text
        if not self._compiled:
            self._compiled.append(re.compile(self.source, re.DOTALL))
        regex = self._compiled[0]
        if self.anywhere:
            return len(subject) <= MAX_SUBJECT and regex.search(subject) is not None
        return regex.fullmatch(subject) is not None


def path_pattern(text: str) -> Pattern:
    """Take an absolute glob; a folder (`/` at the end) stands for all below it."""
    if _WINDOWS.match(text):
        text = text.replace("\\", "/")
    if not _ABSOLUTE.match(text):
        message = f"path {quoted(text)} is not absolute"
        raise BadValueError(
            "E110", message, f"start it with / or **/, as in {quoted('**/' + text)}"
        )
    return Pattern.glob(text + "**" if text.endswith("/") else text, on_name=False)


def file_pattern(text: str) -> Pattern:
    """Take a name, a path, a folder or `re:...`."""
    if text.startswith(REGEX_PREFIX):
        return Pattern.expression(text)
    if "/" in text or _WINDOWS.match(text):
        return path_pattern(text)
    return Pattern.glob(text, on_name=True)


def pattern_text(node: Scalar) -> str:
    """Return text that is not empty."""
    text = expect_text(node)
    if not text:
        raise BadValueError("E101", "the pattern is empty", "write a name, a path or a pattern")
    return text


def with_slashes(path: str) -> str:
    """Patterns are written with `/`; only a Windows path starts with anything else."""
    return path if path.startswith("/") else path.replace("\\", "/")
