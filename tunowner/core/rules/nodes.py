"""YAML text to values that know their place.

Built from the parser's events, not from PyYAML's node tree: events need no recursion, so hostile
nesting is refused before it costs anything, and anchors and tags are still visible. Scalars follow
the YAML 1.2 core schema, so `no`, `on` and `1:30` are text; numbers with a fraction are text too,
since no rule takes one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import yaml

from .findings import BadValueError, Findings, Place, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yaml._yaml import Mark as _CMark

MAX_DEPTH = 32
"""Nested lists and mappings; a rule file needs about six. Above it the file is refused."""

Loader = type[yaml.SafeLoader | yaml.CSafeLoader]
FASTEST_LOADER: Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser where PyYAML was built with it: about 10 times as fast."""

# YAML 1.2 section 5.1 (c-printable), without the byte order mark. Lone surrogates are outside too.
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
# YAML 1.2 section 10.3.2. The lengths stay below int()'s own limit of 4300 digits.
_DECIMAL = re.compile(r"[-+]?[0-9]{1,20}")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]{1,16}")
# Control characters and the separators of lines: the Unicode categories Cc, Zl and Zp.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONSTANTS = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_BOOLEANS = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}


class Scalar(NamedTuple):
    """One value: `text` as written (escapes resolved) and `value` as YAML understands it."""

    place: Place
    text: str
    value: str | int | bool | None


@dataclass(frozen=True, slots=True)
class ListNode:
    place: Place
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class MappingNode:
    """Keys are unique: a repeated one is a finding and its first value counts."""

    place: Place
    entries: dict[str, tuple[Scalar, Node]]


@dataclass(frozen=True, slots=True)
class Refused:
    """Stands where a value was refused; its finding exists, so nobody reports it again."""

    place: Place


Node = Scalar | ListNode | MappingNode | Refused


class _UnreadableError(Exception):
    """The rest of the file cannot be understood."""

    def __init__(self, place: Place, bad: BadValueError) -> None:
        super().__init__(bad.message)
        self.place = place
        self.bad = bad


def read(
    text: str, file: str, order: int, findings: Findings, loader: Loader = FASTEST_LOADER
) -> Node | None:
    """Return the root of the only document in `text`, or None after a finding says why not."""
    start = Place(order, file, 1, 1)
    text = text.removeprefix("\ufeff")
    try:
        _refuse_unprintable(text, start)
        return _Builder(text, start, findings, loader).document()
    except _UnreadableError as error:
        findings.add_bad(error.place, error.bad)
        return None


def _refuse_unprintable(text: str, start: Place) -> None:
    found = _UNPRINTABLE.search(text)
    if found:
        before = text[: found.start()]
        line = before.count("\n") + 1
        column = len(before) - (before.rfind("\n") + 1) + 1
        name = f"U+{ord(found.group()):04X}"
        bad = BadValueError("E001", f"character {name} is not allowed in YAML", "remove it")
        raise _UnreadableError(start._replace(line=line, column=column), bad)


class _Builder:
    """Turns one stream of events into nodes."""

    def __init__(self, text: str, start: Place, findings: Findings, loader: Loader) -> None:
        self._start = start
        self._findings = findings
        self._text = text
        self._events = self._read_events(loader)

    def document(self) -> Node:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                root = self._node(next(self._events), 1)
                self._refuse_second_document()
                return root
        raise _UnreadableError(
            self._start, BadValueError("E002", "the file is empty", "write at least: version: 1")
        )

    def _read_events(self, loader: Loader) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(self._text, Loader=loader)
        except yaml.MarkedYAMLError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: yaml.MarkedYAMLError) -> _UnreadableError:
        mark = error.problem_mark or error.context_mark
        place = self._place(mark) if mark else self._start
        lines = self._text.splitlines()
        line = lines[place.line - 1] if place.line <= len(lines) else ""
        if line[place.column - 1 : place.column] == "\t":
            hint = "indent with spaces, not with tabs"
        else:
            hint = "check the indentation, and quote text that contains : # [ ] { } or ,"
        problem = error.problem or error.context or "not understood"
        return _UnreadableError(place, BadValueError("E001", f"not valid YAML: {problem}", hint))

    def _refuse_second_document(self) -> None:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                bad = BadValueError("E003", "a second document starts here", "use a file for each")
                raise _UnreadableError(self._place(event.start_mark), bad)

    def _place(self, mark: yaml.Mark | _CMark | None) -> Place:
        assert mark is not None  # the parser marks every event
        return Place(self._start.order, self._start.file, mark.line + 1, mark.column + 1)

    def _node(self, event: yaml.Event, depth: int) -> Node:
        place = self._place(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            return self._refuse(place, "E004", f"alias {quoted(f'*{event.anchor}')}")
        assert isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent))
        if depth > MAX_DEPTH:
            bad = BadValueError("E006", f"nested deeper than {MAX_DEPTH} levels", "write it flat")
            raise _UnreadableError(place, bad)
        node = self._content(event, place, depth)
        if event.anchor is not None:
            return self._refuse(place, "E004", f"anchor {quoted(f'&{event.anchor}')}")
        if event.tag is not None:
            return self._refuse(place, "E005", f"tag {quoted(event.tag)}")
        return node

    def _refuse(self, place: Place, code: str, what: str) -> Refused:
        hint = "use sets: to share values" if code == "E004" else "remove it"
        self._findings.add(place, code, f"{what} is not allowed", hint)
        return Refused(place)

    def _content(self, event: yaml.Event, place: Place, depth: int) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, place)
        if isinstance(event, yaml.SequenceStartEvent):
            return ListNode(place, tuple(self._children(yaml.SequenceEndEvent, depth)))
        return self._mapping(place, depth)

    def _children(self, end: type[yaml.Event], depth: int) -> Iterator[Node]:
        for event in self._events:
            if isinstance(event, end):
                return
            yield self._node(event, depth + 1)

    def _mapping(self, place: Place, depth: int) -> MappingNode:
        entries: dict[str, tuple[Scalar, Node]] = {}
        children = self._children(yaml.MappingEndEvent, depth)
        for key in children:
            value = next(children)
            if isinstance(key, Scalar):
                self._enter(entries, key, value)
            elif not isinstance(key, Refused):
                self._findings.add(key.place, "E010", "a key must be text")
        return MappingNode(place, entries)

    def _enter(self, entries: dict[str, tuple[Scalar, Node]], key: Scalar, value: Node) -> None:
        if key.text in entries:
            first = entries[key.text][0].place.line
            hint = f"the first is on line {first}"
            self._findings.add(key.place, "E007", f"key {quoted(key.text)} is here twice", hint)
        else:
            entries[key.text] = (key, value)

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> Scalar | Refused:
        text = event.value
        control = _CONTROL.search(text)
        if control is not None:
            message = f"control character U+{ord(control.group()):04X} in text"
            self._findings.add(place, "E008", message, "write it on one line, without escapes")
            return Refused(place)
        plain = event.style is None or event.style == ""
        return Scalar(place, text, _core_value(text) if plain else text)


def _core_value(text: str) -> str | int | bool | None:
    """Resolve a plain scalar by the YAML 1.2 core schema."""
    if text in _CONSTANTS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    return text
