"""Checks of structure that every section of a rule file needs: types, keys, names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .findings import BadValueError, quoted, suggestion
from .nodes import ListNode, MappingNode, Refused, Scalar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from .findings import Findings
    from .nodes import Node

RULE_NAME = re.compile(r"[A-Za-z0-9][\w .-]{0,63}")
DEFINED_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
"""Outbounds and sets: no blanks, since actions and `$name` refer to them."""


def kind(node: Node) -> str:
    """Say in a few words what a node is, for `expected ..., found ...`."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, ListNode):
        return "a list"
    if isinstance(node, Scalar) and not isinstance(node.value, str):
        if node.value is None:
            return "nothing"
        return node.text if isinstance(node.value, bool) else f"the number {node.text}"
    return quoted(node.text) if isinstance(node, Scalar) else "a refused value"


def wrong_type(node: Node, expected: str, hint: str = "") -> BadValueError:
    return BadValueError("E010", f"expected {expected}, found {kind(node)}", hint)


def expect_text(node: Scalar) -> str:
    """Return the text of a scalar; `BadValueError` for a number, a boolean or nothing."""
    if isinstance(node.value, str):
        return node.value
    raise not_text(node)


def not_text(node: Scalar) -> BadValueError:
    hint = "" if node.value is None else f'put it in quotes: "{node.text}"'
    return wrong_type(node, "text", hint)


def expect_int(node: Scalar) -> int:
    """Return the number; `BadValueError` for anything else, booleans included."""
    if isinstance(node.value, int) and not isinstance(node.value, bool):
        return node.value
    raise wrong_type(node, "a number")


class Shape:
    """The same checks on nodes of any type; every refusal becomes a finding and None."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings

    def mapping(self, node: Node, hint: str = "") -> MappingNode | None:
        if isinstance(node, MappingNode):
            return node
        self._refuse(node, "a mapping", hint)
        return None

    def items(self, node: Node, hint: str = "") -> tuple[Node, ...]:
        """Return the items of a list; none after a finding that it is no list."""
        if isinstance(node, ListNode):
            return node.items
        self._refuse(node, "a list", hint)
        return ()

    def scalar(self, node: Node | None, expected: str = "text") -> Scalar | None:
        """Return a scalar; None stays None, since its absence has been reported."""
        if node is None or isinstance(node, Scalar):
            return node
        self._refuse(node, expected, "")
        return None

    def text(self, node: Node | None) -> Scalar | None:
        """Return a scalar whose value is text."""
        scalar = self.scalar(node)
        if scalar is None or isinstance(scalar.value, str):
            return scalar
        self.findings.add_bad(scalar.place, not_text(scalar))
        return None

    def name(self, node: Node | None, pattern: re.Pattern[str]) -> str | None:
        """Return a good name."""
        scalar = self.text(node)
        if scalar is None or pattern.fullmatch(scalar.text):
            return scalar.text if scalar else None
        blank = ", blank" if pattern is RULE_NAME else ""
        hint = (
            f"1 to 64 letters, digits{blank}, '_', '.' or '-', the first an ASCII letter or digit"
        )
        self.findings.add(scalar.place, "E015", f"{quoted(scalar.text)} is not a good name", hint)
        return None

    def fields(
        self, node: MappingNode, where: str, required: Collection[str], optional: Collection[str]
    ) -> dict[str, Node]:
        """Return the known entries; findings for unknown keys and for missing ones."""
        known = (*required, *optional)
        for key, _ in node.entries.values():
            if key.text not in known:
                self.unknown_key(key, where, known)
        for name in required:
            if name not in node.entries:
                self.findings.add(node.place, "E011", f"key {quoted(name)} is missing in {where}")
        return {name: value for name, (_, value) in node.entries.items() if name in known}

    def unknown_key(self, key: Scalar, where: str, known: Collection[str]) -> None:
        message = f"unknown key {quoted(key.text)} in {where}"
        self.findings.add(key.place, "E012", message, suggestion(key.text, known, "keys"))

    def definitions(self, node: Node) -> Iterator[tuple[Scalar, Node]]:
        """Yield the entries of a mapping of names to definitions whose names are good."""
        mapping = self.mapping(node, "write a name and what it stands for")
        for key, value in mapping.entries.values() if mapping else ():
            # Keys are names here whatever YAML makes of them: `7:` is a fine name for a set.
            as_text = Scalar(key.place, key.text, key.text)
            if self.name(as_text, DEFINED_NAME) is not None:
                yield as_text, value

    def _refuse(self, node: Node, expected: str, hint: str) -> None:
        if not isinstance(node, Refused):
            self.findings.add_bad(node.place, wrong_type(node, expected, hint))
