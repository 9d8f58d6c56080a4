"""Regular expressions of users, those refused that may take forever.

`re` tries one way after another and cannot be stopped. So before it is used, an expression is
judged by the steps that the worst text would take. A repeat has one way to end if what follows it
starts with none of its characters; else as many as the text is long, and for each of them all that
follows is tried again. A repeat of something that can itself be read in several ways has more ways
than can be counted: refused, as is what takes more than `MAX_WORK` steps.
"""

from __future__ import annotations

import re
import warnings
from functools import cache
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

from .findings import BadValueError

MAX_SOURCE = 1_000
"""Characters of an expression."""
MAX_SUBJECT = 4_096
"""Characters of the text that is searched: PATH_MAX of <linux/limits.h>."""
MAX_WORK = 8 * MAX_SUBJECT**2
"""Steps: about a second for the worst text there is."""
_UNLIKELY = 0.1
"""Steps for a character before another one: no text has such a pair at every place."""

_HINT = "write a glob, start it with ^, or let each repeat end where other characters follow"
_OTHER = 256
_ALL = frozenset(range(_OTHER + 1))
"""The first 256 characters of Unicode, and one number for all others."""
_NONE: frozenset[int] = frozenset()
_REPEATS = (ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT)
_STARTS = (ops.AT_BEGINNING, ops.AT_BEGINNING_STRING)

Chars = frozenset[int]
Items = list[tuple[Any, Any]]
"""What `re` parses an expression to: operations with what belongs to them."""


class _Start(NamedTuple):
    """The characters that a text may start with, and whether it may be empty."""

    chars: Chars
    nullable: bool


class _TooManyWaysError(Exception):
    """There are more ways than can be counted."""


def compile_regex(source: str) -> re.Pattern[str]:
    """Compile; `BadValueError` E102 if it is none, E126 if it may take forever."""
    if len(source) > MAX_SOURCE:
        raise BadValueError("E126", f"regex is longer than {MAX_SOURCE} characters", _HINT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # re warns about what it will read otherwise one day
            compiled = re.compile(source)
            items = list(parser.parse(source))
    except (re.error, OverflowError, RecursionError, Warning) as error:
        raise BadValueError("E102", f"regex does not compile: {error}") from None
    _refuse_slow(items)
    return compiled


def _refuse_slow(items: Items) -> None:
    anchored = bool(items) and items[0][0] is ops.AT and items[0][1] in _STARTS
    try:
        work = _work(items, _NONE, 1.0) * (1 if anchored else MAX_SUBJECT)
    except _TooManyWaysError:
        message = "regex may take forever: it repeats what can be read in several ways"
        raise BadValueError("E126", message, _HINT) from None
    if work > MAX_WORK:
        message = "regex may take too long: it has too many repeats that can end anywhere"
        raise BadValueError("E126", message, _HINT)


def _work(items: Items, follow: Chars, rest: float) -> float:
    """Return the steps to read a text and, after each way to do so, the `rest`.

    `follow` are the characters that the rest starts with.
    """
    after: Chars = _NONE
    for op, value in reversed(items):
        start = _start_of(op, value)
        if op is ops.LITERAL and not start.chars & after:
            rest += _UNLIKELY
        else:
            rest = _work_of(op, value, follow, rest)
        follow = start.chars | (follow if start.nullable else _NONE)
        after = start.chars if op is ops.LITERAL else _ALL
    return rest


def _work_of(op: Any, value: Any, follow: Chars, rest: float) -> float:
    if op in _REPEATS:
        return _work_of_repeat(op, value, follow, rest)
    if op is ops.SUBPATTERN:
        return _work(list(value[-1]), follow, rest)
    if op is ops.ATOMIC_GROUP:
        return _work(list(value), _NONE, 1.0) + rest
    if op in (ops.ASSERT, ops.ASSERT_NOT):
        return _work(list(value[1]), _NONE, 1.0) + rest
    if op in (ops.BRANCH, ops.GROUPREF_EXISTS):
        branches = [list(branch or ()) for branch in value[1:]]
        if op is ops.BRANCH:
            branches = [list(branch) for branch in value[1]]
        each = [_work(branch, follow, rest) for branch in branches]
        return max(each) if _apart(branches) else sum(each)
    return rest + 1


def _work_of_repeat(op: Any, value: Any, follow: Chars, rest: float) -> float:
    least, most, body = value[0], value[1], list(value[2])
    start = _start(body)
    overlapping = bool(start.chars & follow) and least != most and op is not ops.POSSESSIVE_REPEAT
    if most <= 1:
        return _work(body, follow, rest) + (rest if overlapping or start.nullable else 0)
    if start.nullable or not _has_one_way(body, start.chars | follow):
        raise _TooManyWaysError
    ways = min(most - least + 1, MAX_SUBJECT) if overlapping else 1
    return MAX_SUBJECT + ways * rest


def _has_one_way(items: Items, follow: Chars) -> bool:
    """Whether each text can be read in one way only, and its first characters tell which."""
    for op, value in reversed(items):
        start = _start_of(op, value)
        if not _is_clear(op, value, follow):
            return False
        follow = start.chars | (follow if start.nullable else _NONE)
    return True


def _is_clear(op: Any, value: Any, follow: Chars) -> bool:
    if op in _REPEATS:
        body = list(value[2])
        start = _start(body)
        ends = value[0] == value[1] or op is ops.POSSESSIVE_REPEAT or not start.chars & follow
        return ends and not start.nullable and _has_one_way(body, start.chars | follow)
    if op is ops.SUBPATTERN:
        return _has_one_way(list(value[-1]), follow)
    if op is ops.BRANCH:
        branches = [list(branch) for branch in value[1]]
        return _apart(branches) and all(_has_one_way(branch, follow) for branch in branches)
    return op not in (ops.GROUPREF, ops.GROUPREF_EXISTS, ops.ASSERT, ops.ASSERT_NOT)


def _apart(branches: list[Items]) -> bool:
    """Whether the first character tells which branch it is."""
    seen: Chars = _NONE
    for branch in branches:
        start = _start(branch)
        if start.nullable or start.chars & seen:
            return False
        seen |= start.chars
    return True


def _start(items: Items) -> _Start:
    chars = _NONE
    for item in items:
        start = _start_of(*item)
        chars |= start.chars
        if not start.nullable:
            return _Start(chars, nullable=False)
    return _Start(chars, nullable=True)


def _start_of(op: Any, value: Any) -> _Start:
    if op in _REPEATS:
        start = _start(list(value[2]))
        return _Start(start.chars, start.nullable or value[0] == 0)
    if op is ops.SUBPATTERN:
        return _start(list(value[-1]))
    if op is ops.ATOMIC_GROUP:
        return _start(list(value))
    if op is ops.BRANCH:
        starts = [_start(list(branch)) for branch in value[1]]
        return _Start(_NONE.union(*(it.chars for it in starts)), any(it.nullable for it in starts))
    if op in (ops.AT, ops.ASSERT, ops.ASSERT_NOT):
        return _Start(_NONE, nullable=True)
    if op in (ops.GROUPREF, ops.GROUPREF_EXISTS):
        return _Start(_ALL, nullable=True)
    return _Start(_chars(op, value), nullable=False)


def _chars(op: Any, value: Any) -> Chars:
    """Return the characters of one that stands for itself, or of a class; both cases of them."""
    if op is ops.LITERAL:
        return _cases(frozenset((min(value, _OTHER),)))
    if op is ops.NOT_LITERAL:
        return _ALL - {value}
    if op is ops.IN:
        return _class(value)
    return _ALL


def _class(members: Items) -> Chars:
    negated = members[0][0] is ops.NEGATE
    chars = _NONE
    for op, value in members[negated:]:
        if op is ops.LITERAL:
            chars |= {min(value, _OTHER)}
        elif op is ops.RANGE:
            chars |= set(range(value[0], min(value[1], _OTHER) + 1)) | (
                {_OTHER} if value[1] >= _OTHER else set()
            )
        elif op is ops.CATEGORY:
            chars |= _category(value)
    return (_ALL - chars) | {_OTHER} if negated else _cases(chars)


@cache
def _category(value: Any) -> Chars:
    letter = {
        ops.CATEGORY_DIGIT: r"\d",
        ops.CATEGORY_NOT_DIGIT: r"\D",
        ops.CATEGORY_SPACE: r"\s",
        ops.CATEGORY_NOT_SPACE: r"\S",
        ops.CATEGORY_WORD: r"\w",
        ops.CATEGORY_NOT_WORD: r"\W",
    }.get(value, r"[\s\S]")
    pattern = re.compile(letter)
    return frozenset(code for code in range(_OTHER) if pattern.match(chr(code))) | {_OTHER}


def _cases(chars: Chars) -> Chars:
    both = (chr(code).swapcase() for code in chars if code < _OTHER)
    return chars | {min(ord(other), _OTHER) for other in both if len(other) == 1}
