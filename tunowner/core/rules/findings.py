"""Collect everything that is wrong in the rule files, each with its place, never raising midway."""

from __future__ import annotations

from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from tunowner.errors import ConfigError, Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

MAX_COMPARED = 50
"""Known words that an unknown one is compared with to find the one that was meant."""
MAX_NAMED = 25
"""Known words that a hint lists."""
SHOWN_LENGTH = 60
"""Characters of a file's text that a message repeats; the place leads to the rest."""


class Place(NamedTuple):
    """Where something stands: the file (by its order among the sources), line and column from 1."""

    order: int
    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class BadValueError(Exception):
    """One value is wrong; whoever knows its place turns this into a finding."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class Findings:
    """The findings of one load, in the order of the sources whatever the order of discovery."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._texts = texts
        self._lines: dict[int, list[str]] = {}
        self._found: list[tuple[Place, Finding]] = []
        self.unread = False
        """A file could not be read at all, so what it defines is not known."""

    def add(self, place: Place, code: str, message: str, hint: str = "") -> None:
        line = self._line(place)
        finding = Finding(place.file, place.line, place.column, code, message, hint, line)
        self._found.append((place, finding))

    def _line(self, place: Place) -> str:
        """Return the line of the file that a finding is about."""
        if place.order not in self._lines and place.order < len(self._texts):
            self._lines[place.order] = self._texts[place.order].removeprefix("\ufeff").splitlines()
        lines = self._lines.get(place.order, [])
        return lines[place.line - 1] if 0 < place.line <= len(lines) else ""

    def add_missing(self, place: Place, code: str, message: str, hint: str = "") -> None:
        """Add that something is defined nowhere, unless a file that cannot be read may define it."""
        if not self.unread:
            self.add(place, code, message, hint)

    def add_bad(self, place: Place, bad: BadValueError) -> None:
        self.add(place, bad.code, bad.message, bad.hint)

    def all(self) -> tuple[Finding, ...]:
        """Every finding, by file order, line and column."""
        return tuple(finding for _, finding in sorted(self._found))

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for _, finding in self._found)

    def raise_errors(self) -> None:
        """Raise a `ConfigError` with all findings, warnings included, if one of them is an error."""
        if self.has_errors:
            raise ConfigError(self.all())


def shown(text: str) -> str:
    """Return foreign text fit for one line of a terminal: a file name may hold any character."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def quoted(text: str) -> str:
    """Return the text in quotes, on one line, cut to `SHOWN_LENGTH` characters."""
    text = shown(text)
    short = text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 3] + "..."
    return f"'{short}'"


def suggestion(word: str, known: Collection[str], what: str) -> str:
    """Return a hint: the known word that was probably meant, else all of them."""
    close = get_close_matches(word[:SHOWN_LENGTH], _alike(word, known), n=1, cutoff=0.7)
    if close:
        return f"did you mean {quoted(close[0])}?"
    if not known:
        return f"no {what} are defined"
    more = len(known) - MAX_NAMED
    listed = ", ".join(islice(known, MAX_NAMED)) + (f" and {more} more" if more > 0 else "")
    return f"known {what}: {listed}"


def _alike(word: str, known: Collection[str]) -> Collection[str]:
    """Return what to compare at length: of many, which takes long, a few that start alike."""
    if len(known) <= MAX_COMPARED:
        return known
    size = len(word)
    alike = (it for it in known if it[:1] == word[:1] and abs(len(it) - size) <= 2)
    return list(islice(alike, MAX_COMPARED))
