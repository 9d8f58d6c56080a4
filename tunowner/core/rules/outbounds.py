"""The `outbounds:` section: named ways out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tunowner.core.model import BUILTIN_ACTIONS, InterfaceOutbound, MarkOutbound, TableOutbound

from .findings import BadValueError, quoted, suggestion
from .shape import expect_int, expect_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunowner.core.model import Outbound

    from .findings import Place
    from .nodes import MappingNode, Node, Scalar
    from .shape import Shape

IFNAMSIZ = 16
"""<linux/if.h>; one byte of it is the terminating NUL."""
_FORBIDDEN_IN_INTERFACE = re.compile(r"[/:\s]")
"""As dev_valid_name() in net/core/dev.c."""
_MAX_U32 = 0xFFFF_FFFF
_UNUSABLE_TABLES = {0: "unspec, which is no table", 255: "local, which holds our own addresses"}
"""rtnetlink(7), rtm_table."""


def _interface(name: str, node: Scalar) -> InterfaceOutbound:
    interface = expect_text(node)
    size = len(interface.encode())
    bad = _FORBIDDEN_IN_INTERFACE.search(interface) or interface in (".", "..")
    if bad or not 0 < size < IFNAMSIZ:
        hint = f"1 to {IFNAMSIZ - 1} bytes without blanks, / and :, as `ip link` shows it"
        raise BadValueError("E112", f"{quoted(interface)} is no interface name", hint)
    return InterfaceOutbound(name, interface)


def _table(name: str, node: Scalar) -> TableOutbound:
    table = expect_int(node)
    if table in _UNUSABLE_TABLES:
        hint = "use a table of your own, such as 100"
        raise BadValueError("E113", f"table {table} is {_UNUSABLE_TABLES[table]}", hint)
    if not 0 < table <= _MAX_U32:
        hint = f"write 1 to {_MAX_U32}"
        raise BadValueError("E113", f"{node.text} is no routing table", hint)
    return TableOutbound(name, table)


def _mark(name: str, node: Scalar) -> MarkOutbound:
    mark = expect_int(node)
    if not 0 < mark <= _MAX_U32:
        raise BadValueError("E114", f"{node.text} is no mark", f"write 1 to {_MAX_U32:#x}")
    return MarkOutbound(name, mark)


_TYPES: dict[str, tuple[str, Callable[[str, Scalar], Outbound]]] = {
    "interface": ("name", _interface),
    "table": ("table", _table),
    "mark": ("mark", _mark),
}
"""By `type`: the one further key, and what makes an outbound of it."""


class Outbounds:
    """All outbounds of all files. `names` has those too whose definition is wrong."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self.names: dict[str, Place] = {}
        self.defined: dict[str, Outbound] = {}

    def define(self, name: Scalar, node: Node) -> None:
        """Take one entry of an `outbounds:` section; findings for whatever is wrong in it."""
        if name.text in BUILTIN_ACTIONS:
            message = f"{quoted(name.text)} is a built-in action"
            self._shape.findings.add(name.place, "E208", message, "choose another name")
            return
        if name.text in self.names:
            hint = f"the first is at {self.names[name.text]}"
            message = f"outbound {quoted(name.text)} is defined twice"
            self._shape.findings.add(name.place, "E206", message, hint)
            return
        self.names[name.text] = name.place
        hint = f"write {name.text}: {{ type: interface, name: wg0 }}, for example"
        content = self._shape.mapping(node, hint)
        if content is not None:
            self._build(name.text, content)

    def _build(self, name: str, content: MappingNode) -> None:
        if "type" not in content.entries:
            self._shape.fields(content, "an outbound", ("type",), content.entries)
            return
        type_name = self._type(content.entries["type"][1])
        if type_name is None:
            return
        field, make = _TYPES[type_name]
        fields = self._shape.fields(
            content, f"an outbound of type {type_name}", ("type", field), ()
        )
        value = self._shape.scalar(fields.get(field))
        if value is None:
            return
        try:
            self.defined[name] = make(name, value)
        except BadValueError as bad:
            self._shape.findings.add_bad(value.place, bad)

    def _type(self, node: Node) -> str | None:
        scalar = self._shape.text(node)
        if scalar is None or scalar.text in _TYPES:
            return scalar.text if scalar else None
        message = f"unknown outbound type {quoted(scalar.text)}"
        hint = suggestion(scalar.text, _TYPES, "types")
        self._shape.findings.add(scalar.place, "E111", message, hint)
        return None
