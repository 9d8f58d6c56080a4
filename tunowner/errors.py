"""What can go wrong, named by cause. Every error says what happened, where, and what to do next.

The command line prints `str(error)` as one line (a `ConfigError`: one line for each finding) and
exits with `error.exit_code`. Anything else that reaches the user is a bug in tunowner.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class TunOwnerError(Exception):
    """The root of all errors that tunowner raises on purpose.

    `what` happened, `where` (a file, a device, a command) and the `hint` what to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f". {self.hint}" if self.hint else ""
        return f"{place}{self.what}{advice}"


EXCERPT_LENGTH = 96
"""Characters of a line that an excerpt shows."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing wrong in a file: `file:line:column: error E012: message; hint`.

    `line` and `column` count from 1; 0 means the finding is about the whole file.
    `code` is stable (E... error, W... warning), so that tools and searches can rely on it.
    `source` is the line of the file, where there is one.
    """

    file: str
    line: int
    column: int
    code: str
    message: str
    hint: str = ""
    source: str = field(default="", compare=False, repr=False)

    @property
    def severity(self) -> str:
        return "warning" if self.code.startswith("W") else "error"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        advice = f"; {self.hint}" if self.hint else ""
        return f"{place}: {self.severity} {self.code}: {self.message}{advice}"

    @property
    def excerpt(self) -> str:
        """The line of the file with a caret below the place, as two lines; empty without one.

        A long line is cut around the place. What would disturb a terminal is shown as `?`.
        """
        if not self.source.strip() or not self.column:
            return ""
        at = min(self.column - 1, len(self.source))
        first = max(0, at - EXCERPT_LENGTH * 3 // 4) if len(self.source) > EXCERPT_LENGTH else 0
        text = "".join(_fit_for_terminals(char) for char in self.source)
        part = text[first : first + EXCERPT_LENGTH]
        gap = sum(map(_columns, part[: at - first]))
        return f"{self.line:6} | {part}\n       | {' ' * gap}^"

    def report(self) -> str:
        """Return the finding and, below it, its excerpt."""
        return f"{self}\n{self.excerpt}" if self.excerpt else str(self)


def _fit_for_terminals(char: str) -> str:
    return " " if char == "\t" else char if char.isprintable() else "?"


def _columns(char: str) -> int:
    """Return how many columns of a terminal a character takes (UAX #11, and combining marks)."""
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class ConfigError(TunOwnerError):
    """Rules or settings are wrong. `findings` holds every one of them, never just the first."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        super().__init__(f"{len(findings)} findings")
        self.findings = tuple(findings)

    def __str__(self) -> str:
        return "\n".join(finding.report() for finding in self.findings)


class PrivilegeError(TunOwnerError):
    """The operating system refused for lack of a privilege, which `hint` names."""

    exit_code: ClassVar[int] = 4


class BackendError(TunOwnerError):
    """The operating system lacks something, or answered in a way that stops the work."""


class DeviceClosed(TunOwnerError):  # noqa: N818 - shutdown is an event, not a failure
    """The packet device has gone: closed here, or removed by somebody else."""
