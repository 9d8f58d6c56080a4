"""Named sets of values: `ip: $lan` stands for the values that the set `lan` holds under `ip`."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .findings import BadValueError, quoted, suggestion
from .nodes import ListNode, Scalar
from .table import CONDITIONS

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from .condition import Condition
    from .findings import Place
    from .nodes import Node
    from .shape import Shape

INCLUDE = "include"
"""The key in a set that takes all that other sets hold."""
SHOWN_VALUES = 3
"""Values that the text of a condition repeats."""


@dataclass(frozen=True, slots=True)
class Values:
    """What is written behind a condition's key: values, and references to sets."""

    written: str
    values: tuple[Hashable, ...]
    references: tuple[Scalar, ...]


def read_values(condition: type[Condition], node: Node, shape: Shape) -> Values:
    """Read one value or a list of them; a finding for each that is wrong."""
    items = node.items if isinstance(node, ListNode) else (node,)
    expected = "a value" if isinstance(node, ListNode) else "a value or a list"
    if not items:
        shape.findings.add(node.place, "E014", f"{condition.key} is empty", "write a value")
    scalars = [scalar for item in items if (scalar := shape.scalar(item, expected))]
    references = tuple(scalar for scalar in scalars if _is_reference(scalar))
    values: list[Hashable] = []
    for scalar in scalars:
        if scalar in references:
            continue
        try:
            values.append(condition.parse(scalar))
        except BadValueError as bad:
            shape.findings.add_bad(scalar.place, bad)
        else:
            if doubt := condition.doubt(scalar.text):
                shape.findings.add_bad(scalar.place, doubt)
    return Values(_written(scalars), tuple(values), references)


def _is_reference(scalar: Scalar) -> bool:
    return isinstance(scalar.value, str) and scalar.text.startswith("$")


def _written(scalars: list[Scalar]) -> str:
    text = ", ".join(scalar.text for scalar in scalars[:SHOWN_VALUES])
    more = len(scalars) - SHOWN_VALUES
    return f"{text} and {more} more" if more > 0 else text


_Slot = tuple[str, str]
"""The name of a set and the key of a condition in it."""


class Sets:
    """All sets of all files. Define every one, then `check`, then `resolve`."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._places: dict[str, Place] = {}
        self._slots: dict[_Slot, Values] = {}

    def define(self, name: Scalar, node: Node) -> None:
        """Take one entry of a `sets:` section; findings for whatever is wrong in it."""
        if name.text in self._places:
            hint = f"the first is at {self._places[name.text]}"
            message = f"set {quoted(name.text)} is defined twice"
            self._shape.findings.add(name.place, "E207", message, hint)
            return
        self._places[name.text] = name.place
        content = self._shape.mapping(node, f"write {name.text}: {{ ip: [...] }}, for example")
        if content is None:
            return
        if not content.entries:
            self._shape.findings.add(node.place, "E014", f"set {quoted(name.text)} is empty")
        keys = (*CONDITIONS, INCLUDE)
        for key, value in self._shape.fields(content, "a set", (), keys).items():
            if key == INCLUDE:
                self._slots[name.text, key] = self._included(value)
            else:
                self._slots[name.text, key] = read_values(CONDITIONS[key], value, self._shape)

    def _included(self, node: Node) -> Values:
        """Read the names of sets; with or without `$`, since nothing else can stand there."""
        items = node.items if isinstance(node, ListNode) else (node,)
        scalars = (self._shape.text(item) for item in items)
        references = (
            Scalar(it.place, f"${it.text.removeprefix('$')}", it.value) for it in scalars if it
        )
        return Values("", (), tuple(references))

    def check(self) -> None:
        """Look for sets that refer to what is not there, or to themselves."""
        reported: set[_Slot] = set()
        included: set[frozenset[str]] = set()
        for slot in sorted(self._slots, key=lambda slot: slot[1] != INCLUDE):
            self.check_references(slot[1], self._slots[slot])
            cycle = self._way_back(slot)
            names = frozenset(name for name, _ in cycle)
            if not cycle or slot in reported or names in included:
                continue
            reported.update(cycle)
            if slot[1] == INCLUDE:
                included.add(names)
            self._report_cycle(slot, [name for name, _ in (*cycle, slot)])

    def _report_cycle(self, slot: _Slot, names: list[str]) -> None:
        references = (*self._own(slot), *self._own((slot[0], INCLUDE)))
        place = next(ref.place for ref in references if ref.text[1:] == names[1])
        message = "sets hold each other: " + " -> ".join(f"${name}" for name in names)
        self._shape.findings.add(place, "E203", message, "take one of the references out")

    def _own(self, slot: _Slot) -> tuple[Scalar, ...]:
        return self._slots[slot].references if slot in self._slots else ()

    def check_references(self, key: str, values: Values) -> None:
        """Report references under the condition `key` that lead nowhere."""
        for reference in values.references:
            name = reference.text[1:]
            if any(self._reachable([(name, key)])) or (key == INCLUDE and name in self._places):
                continue
            if name in self._places:
                keys = [held for owner, held in self._slots if owner == name and held != INCLUDE]
                held = ", ".join(keys) or "nothing"
                message = f"set {quoted(name)} holds no {key}"
                self._shape.findings.add_missing(
                    reference.place, "E204", message, f"it holds {held}"
                )
            else:
                message = f"no set is named {quoted(name)}"
                hint = suggestion(name, self._places, "sets")
                self._shape.findings.add_missing(reference.place, "E202", message, hint)

    def resolve(self, key: str, values: Values) -> tuple[Hashable, ...]:
        """Return the values with those of all sets they refer to, each once.

        Iterative and each set once: a chain of sets that double each other costs nothing.
        """
        found = dict.fromkeys(values.values)
        for slot in self._reachable([(ref.text[1:], key) for ref in values.references]):
            found.update(dict.fromkeys(self._slots[slot].values))
        return tuple(found)

    def _reachable(self, starts: list[_Slot]) -> Iterator[_Slot]:
        waiting = deque(starts)
        seen: set[_Slot] = set()
        while waiting:
            slot = waiting.popleft()
            if slot in seen:
                continue
            seen.add(slot)
            if slot in self._slots:
                yield slot
            waiting.extend(self._next(slot))

    def _next(self, slot: _Slot) -> list[_Slot]:
        """Return where the values of a slot also come from: sets it names, and those included."""
        name, key = slot
        included = self._own((name, INCLUDE)) if key != INCLUDE else ()
        return [(reference.text[1:], key) for reference in (*self._own(slot), *included)]

    def _way_back(self, start: _Slot) -> list[_Slot]:
        """Return the shortest way from a slot to itself, the start first; empty if there is none."""
        came_from: dict[_Slot, _Slot] = {}
        waiting = deque([start])
        while waiting:
            slot = waiting.popleft()
            for target in self._next(slot):
                if target == start:
                    return _trace(came_from, start, slot)
                if target not in came_from:
                    came_from[target] = slot
                    waiting.append(target)
        return []


def _trace(came_from: dict[_Slot, _Slot], start: _Slot, end: _Slot) -> list[_Slot]:
    way = [end]
    while way[-1] != start:
        way.append(came_from[way[-1]])
    return way[::-1]
