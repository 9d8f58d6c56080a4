r"""Globs for paths, translated to regular expressions that cannot blow up.

`*` any run without `/`, `?` one character but `/`, `**` any run, `**/` at the start or after `/`
any number of whole folders, `[abc]` `[a-z]` `[!a]` one character of (not of) a class and never
`/`; everything else is itself, and there is no escape character (`[*]` is a star). Anchored at
both ends.

Why this is safe: each star but the last of its kind takes the first place where the text up to the
next star fits, and never returns (an atomic group). That loses no match: an earlier place leaves
more text for the rest; and nothing but a literal `/` matches `/`, so text with a `/` has only one
place after a `*`, which cannot cross one. So the work grows at most with the square of the path's
length, whatever the pattern.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from .findings import BadValueError

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOKEN = re.compile(
    r"(?P<folders>(?:(?<=/)|^)\*{2,}/)|(?P<any>\*{2,})|(?P<star>\*)"
    r"|\[(?P<class>!?\]?[^\]]*)\]|(?P<open>\[)|(?P<one>\?)|(?P<text>[^*?\[]+)"
)
_FLAT_TOKEN = re.compile(
    r"(?P<any>\*+)|\[(?P<class>!?\]?[^\]]*)\]|(?P<open>\[)|(?P<one>\?)|(?P<text>[^*?\[]+)"
)
_RANGE = re.compile(r"(.)-(.)|(.)", re.DOTALL)
_SPECIAL = frozenset("*?[")
_GAPS = {"star": "[^/]*", "any": ".*", "folders": ".*"}
_FOLDER_START = "(?<![^/])"


class _Part(NamedTuple):
    """A gap (a group name of `_TOKEN`, or "" at the start) and what must stand right after it."""

    gap: str
    body: str

    @property
    def crosses(self) -> bool:
        """Whether the gap may contain `/`."""
        return self.gap in ("any", "folders")


def is_literal(glob: str) -> bool:
    """Tell whether the glob matches nothing but itself."""
    return _SPECIAL.isdisjoint(glob)


def compile_glob(glob: str, *, paths: bool = True) -> re.Pattern[str]:
    """Return a pattern whose `fullmatch` is the glob's; see `translate`."""
    return re.compile(translate(glob, paths=paths), re.DOTALL)


def translate(glob: str, *, paths: bool = True) -> str:
    """Return the glob as a regular expression; `BadValueError` E101 for a bad class.

    Without `paths`, `/` is a character like any other: `*` is any run, `?` any character.
    """
    pieces: list[list[_Part]] = [[]]
    for part in _parts(glob, paths):
        if part.crosses:
            pieces.append([])
        pieces[-1].append(part)
    *early, last = pieces
    return "".join(map(_committed, early)) + _open_ended(last)


def _committed(piece: list[_Part]) -> str:
    """Text between two `**`: it stays where it fits first."""
    head, *stars = piece
    body = head.body + "".join(f"(?>[^/]*?{part.body})" for part in stars)
    return f"(?>.*?{body})" if head.crosses else body


def _open_ended(piece: list[_Part]) -> str:
    """Text after the last `**`: its last star, and the `**`, stretch until the end fits."""
    head, *stars = piece
    gap = _GAPS.get(head.gap, "")
    middle = "".join(f"(?>[^/]*?{part.body})" for part in stars[:-1])
    end = f"[^/]*{stars[-1].body}" if stars else ""
    return gap + head.body + middle + end


def _parts(glob: str, paths: bool) -> Iterator[_Part]:  # noqa: FBT001
    gap, body = "", ""
    for token in (_TOKEN if paths else _FLAT_TOKEN).finditer(glob):
        group = token.lastgroup or ""
        if group in _GAPS:
            yield _Part(gap, body)
            gap, body = group, _FOLDER_START if group == "folders" else ""
        else:
            body += _single(group, token, "/" if paths else "")
    yield _Part(gap, body)


def _single(group: str, token: re.Match[str], but: str) -> str:
    """Translate what is no gap. No wildcard fits the character `but`, if there is one."""
    if group == "one":
        return f"[^{but}]" if but else "."
    if group == "class":
        return _class(token.group(group), token.start(), but)
    if group == "open":
        raise _bad(token.start(), "the [ is never closed", "write [[] for the character itself")
    return re.escape(token.group())


def _class(content: str, position: int, but: str) -> str:
    negated = content.startswith("!")
    members = content[negated:]
    if not members:
        raise _bad(position, "the class is empty", "put a character between [ and ]")
    if members.startswith("^"):
        raise _bad(position, "a class is negated with !", f"write [!{members[1:]}]")
    inner = "".join(_member(match, position) for match in _RANGE.finditer(members))
    if negated:
        return f"[^{but}{inner}]"
    return f"(?!{but})[{inner}]" if but else f"[{inner}]"


def _member(match: re.Match[str], position: int) -> str:
    first, last, single = match.groups()
    if single is not None:
        return re.escape(single)
    if first > last:
        raise _bad(position, f"range {first}-{last} is empty", f"write {last}-{first}")
    return f"{re.escape(first)}-{re.escape(last)}"


def _bad(position: int, what: str, hint: str) -> BadValueError:
    return BadValueError("E101", f"bad pattern at position {position}: {what}", hint)
