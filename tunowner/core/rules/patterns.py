"""Patterns for names, paths and other text: literals, globs and regular expressions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .findings import BadValueError, quoted
from .globs import compile_glob, is_literal
from .regexes import MAX_SUBJECT, compile_regex
from .shape import expect_text

if TYPE_CHECKING:
    from .nodes import Scalar

REGEX_PREFIX = "re:"
_ABSOLUTE = re.compile(r"/|[A-Za-z]:/|\*\*")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern. `regex` is None for a literal, which is compared whole.

    `on_name`: it is meant for the last component of a path. Compared by what it says, not by what
    it was compiled to.
    """

    text: str
    on_name: bool
    regex: re.Pattern[str] | None
    anywhere: bool = False

    @classmethod
    def glob(cls, text: str, *, on_name: bool) -> Pattern:
        return cls(text, on_name, None if is_literal(text) else compile_glob(text))

    @classmethod
    def words(cls, text: str) -> Pattern:
        """Take a glob for text that is no path: `*` is any run of any characters, or `re:...`."""
        if text.startswith(REGEX_PREFIX):
            return cls.expression(text)
        return cls(text, False, None if is_literal(text) else compile_glob(text, paths=False))

    @classmethod
    def expression(cls, text: str) -> Pattern:
        """Take `re:...`, searched anywhere."""
        return cls(text, False, compile_regex(text.removeprefix(REGEX_PREFIX)), anywhere=True)

    def fits(self, subject: str) -> bool:
        if self.regex is None:
            return subject == self.text
        if self.anywhere:
            return len(subject) <= MAX_SUBJECT and self.regex.search(subject) is not None
        return self.regex.fullmatch(subject) is not None


def path_pattern(text: str) -> Pattern:
    """Take an absolute glob; a folder (`/` at the end) stands for all below it."""
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
    if "/" in text:
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
