"""The `match` of a rule, from nodes to a tree of matchers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .condition import ProcessCondition
from .holders import Holders
from .logic import All, Any, Anything, Matcher, Not
from .nodes import ListNode, MappingNode, Scalar
from .relatives import Relative
from .sets import Values, read_values
from .table import CONDITIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from .condition import FlowCondition
    from .nodes import Node
    from .relatives import Alternative
    from .sets import Sets
    from .shape import Shape

_ANY_FLOW = "any"
_RELATIVE_HINT = "write { app: git }, for example"
_OF_PROCESSES = tuple(key for key, it in CONDITIONS.items() if issubclass(it, ProcessCondition))
_SHAPE_HINT = "write { app: curl }, for example, or any for every flow"


class Matches:
    """Compiles one `match` after another; needs all sets to be defined."""

    def __init__(self, shape: Shape, sets: Sets) -> None:
        self._shape = shape
        self._sets = sets
        self._built: dict[Hashable, Matcher | ProcessCondition] = {}
        self._combined: dict[str, Callable[[Node], Matcher | None]] = {
            "all": lambda node: self._list(node, All.of),
            "any": lambda node: self._list(node, Any.of),
            "not": self._negation,
        }

    def compile(self, node: Node) -> Matcher | None:
        """Return the matcher, or None after a finding."""
        if isinstance(node, Scalar) and node.text == _ANY_FLOW:
            return Anything()
        return self._mapping(node)

    def condition(self, key: str, node: Node) -> Matcher | None:
        """Return a condition on the flow that stands outside of a match."""
        part = self._part(key, node)
        assert part is None or isinstance(part, Matcher)
        return part

    def _mapping(self, node: Node) -> Matcher | None:
        mapping = self._shape.mapping(node, _SHAPE_HINT)
        if mapping is None:
            return None
        if not mapping.entries:
            self._shape.findings.add(node.place, "E014", "an empty match", _SHAPE_HINT)
        fields = self._shape.fields(mapping, "match", (), (*CONDITIONS, *self._combined))
        parts = [part for key, value in fields.items() if (part := self._part(key, value))]
        return _conjunction(parts) if parts else None

    def _part(self, key: str, node: Node) -> Matcher | ProcessCondition | None:
        if key in self._combined:
            return self._combined[key](node)
        condition = CONDITIONS[key]
        if issubclass(condition, Relative) and _holds_mappings(node):
            return self._relative(condition, node)
        values = read_values(condition, node, self._shape)
        self._sets.check_references(key, values)
        if not values.references:
            return condition.build(values.written, values.values)
        return self._shared(condition, values)

    def _shared(
        self, condition: type[FlowCondition | ProcessCondition], values: Values
    ) -> Matcher | ProcessCondition:
        """Return the condition for values of sets: one for all rules that ask for the same."""
        names = tuple(reference.text for reference in values.references)
        same = condition.key, values.values, names
        if same not in self._built:
            resolved = self._sets.resolve(condition.key, values)
            self._built[same] = condition.build(values.written, resolved)
        return self._built[same]

    def _relative(self, condition: type[Relative], node: Node) -> ProcessCondition:
        """Read conditions on a parent or an ancestor: mappings, among which programs may stand."""
        items = node.items if isinstance(node, ListNode) else (node,)
        nested = [item for item in items if isinstance(item, MappingNode)]
        others = tuple(item for item in items if not isinstance(item, MappingNode))
        programs = Values("", (), ())
        if others:
            programs = read_values(condition, ListNode(node.place, others), self._shape)
            self._sets.check_references(condition.key, programs)
        alternatives = [alternative for item in nested if (alternative := self._alternative(item))]
        texts = [programs.written] if others else []
        texts += ["{" + "; ".join(map(str, alternative)) + "}" for alternative in alternatives]
        values = (*self._sets.resolve(condition.key, programs), *alternatives)
        return condition.build(", ".join(texts), values)

    def _alternative(self, mapping: MappingNode) -> Alternative:
        if not mapping.entries:
            self._shape.findings.add(mapping.place, "E014", "an empty match", _RELATIVE_HINT)
        fields = self._shape.fields(mapping, "a match for a process", (), _OF_PROCESSES)
        parts = (self._part(key, value) for key, value in fields.items())
        return tuple(part for part in parts if isinstance(part, ProcessCondition))

    def _list(self, node: Node, combine: Callable[[list[Matcher]], Matcher]) -> Matcher | None:
        items = self._shape.items(node, "write [ { ... }, { ... } ]")
        if isinstance(node, ListNode) and not items:
            self._shape.findings.add(node.place, "E014", "an empty list", "write a condition in it")
        parts = [part for item in items if (part := self._mapping(item))]
        return combine(parts) if parts else None

    def _negation(self, node: Node) -> Matcher | None:
        part = self._mapping(node)
        return Not.of(part) if part else None


def _holds_mappings(node: Node) -> bool:
    items = node.items if isinstance(node, ListNode) else (node,)
    return any(isinstance(item, MappingNode) for item in items)


def _conjunction(parts: list[Matcher | ProcessCondition]) -> Matcher:
    """And; the conditions on the process are asked of one holder, in the first one's place."""
    on_process = [part for part in parts if isinstance(part, ProcessCondition)]
    matchers: list[Matcher] = []
    for part in parts:
        if isinstance(part, Matcher):
            matchers.append(part)
        elif part is on_process[0]:
            matchers.append(Holders.of(on_process))
    return All.of(matchers)
