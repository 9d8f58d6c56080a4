"""What a module may import and do: the rules of the package's shape, over the text of its modules.

`breaches` takes texts, so that the checker itself is tested on texts that break the rules.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PACKAGE = "tunowner"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40

LAYERS: dict[str, tuple[str, ...]] = {
    # A module is placed by the longest prefix; on the right is what that place may import.
    "tunowner.errors": (),
    "tunowner.core.model": ("tunowner.errors",),
    "tunowner.core": ("tunowner.core", "tunowner.errors"),
    "tunowner.backends.base": ("tunowner.core.model", "tunowner.errors"),
    "tunowner.backends.memory": (
        *("tunowner.backends.base", "tunowner.core.model", "tunowner.core.packet"),
        "tunowner.errors",
    ),
    "tunowner.backends.portable": (
        *("tunowner.backends.base", "tunowner.core.model", "tunowner.errors"),
    ),
    "tunowner.backends.linux": (
        *("tunowner.backends.linux", "tunowner.backends.base", "tunowner.core.model"),
        *("tunowner.core.packet", "tunowner.core.collector", "tunowner.errors"),
    ),
    "tunowner.app": (
        *("tunowner.app", "tunowner.backends", "tunowner.backends.base", "tunowner.core"),
        "tunowner.errors",
    ),
    "tunowner.control": (
        *("tunowner.control", "tunowner.app", "tunowner.backends", "tunowner.backends.base"),
        *("tunowner.core", "tunowner.errors"),
    ),
}
EXACT: dict[str, tuple[str, ...]] = {
    # These are one module each; what lies below them is placed by LAYERS.
    "tunowner": (
        *("tunowner.app", "tunowner.core.model", "tunowner.core.rules", "tunowner.errors"),
    ),
    "tunowner.__main__": ("tunowner.control",),
    "tunowner.backends": (
        *("tunowner.backends.base", "tunowner.backends.linux", "tunowner.backends.portable"),
        "tunowner.errors",
    ),
}
NOT_BELOW = {"tunowner.backends", "tunowner.core.model", "tunowner.core.packet"}
"""Allowing these allows that module alone: `tunowner.backends` is the switch, not what it opens."""

PURE_IMPORTS = frozenset(
    {
        *("__future__", "abc", "bisect", "collections", "contextlib", "dataclasses", "datetime"),
        *("difflib", "enum", "gc"),
        *("functools", "ipaddress", "itertools", "re", "struct", "types", "typing"),
        *("shlex", "unicodedata", "warnings", "cachetools", "yaml"),
    }
)
"""What `core` may import besides itself: nothing that does I/O, reads a clock or knows the OS."""
IMPURE_NAMES = frozenset({"open", "print", "input", "exec", "eval", "__import__"})
CLOCKS = frozenset({"datetime.now", "datetime.utcnow", "datetime.today", "date.today"})

SWITCH = "tunowner.backends"
"""The one module that asks which operating system this is."""

PLATFORM_QUESTIONS = {("sys", "platform"), ("os", "name"), ("platform", "system")}

HARMLESS_CALLS = frozenset(
    {
        *(
            "bytes",
            "dict",
            "float",
            "frozenset",
            "getattr",
            "issubclass",
            "itemgetter",
            "int",
            "len",
            "map",
            "max",
            "min",
            "range",
            "set",
        ),
        *("sorted", "sum", "tuple", "zip", "dict.fromkeys", "auto", "dataclass", "field"),
        *(
            "MappingProxyType",
            "POINTER",
            "Path",
            "Struct",
            "struct.Struct",
            "TypeVar",
            "re.compile",
        ),
        *("cli.command", "click.argument", "click.group", "click.option", "click.version_option"),
        "click.IntRange",
    }
)
"""Calls at the top of a module that are known to do no I/O; so are those of HARMLESS_METHODS."""
HARMLESS_METHODS = frozenset({"items", "join", "keys", "split", "values", "with_name"})


@dataclass(frozen=True)
class Import:
    name: str
    line: int


def breaches(modules: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the package whose modules have these texts."""
    return sorted(breach for name, text in modules.items() for breach in _check(name, text))


def _check(module: str, text: str) -> Iterator[str]:
    tree = ast.parse(text)
    allowed = place(module)
    if allowed is None:
        yield f"{module}: has no place; add it to LAYERS in tests/architecture.py"
        return
    for it in imports_of(module, tree):
        yield from _check_import(module, it, allowed)
    if _under(module, "tunowner.core"):
        yield from _impurities(module, tree)
    if module != SWITCH:
        yield from _platform_questions(module, tree)
    yield from _side_effects(module, tree)
    yield from _sizes(module, text, tree)


def place(module: str) -> tuple[str, ...] | None:
    """Return what the module may import from the package, or None when it has no place."""
    if module in EXACT:
        return EXACT[module]
    fitting = [prefix for prefix in LAYERS if _under(module, prefix)]
    return LAYERS[max(fitting, key=len)] if fitting else None


def imports_of(module: str, tree: ast.AST) -> Iterator[Import]:
    """Every import, wherever it stands: in functions and under TYPE_CHECKING too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")[: -node.level] if "." in module else [module]
                base = ".".join([*parent, base] if base else parent)
            yield Import(base, node.lineno)
            if base.startswith(PACKAGE):  # `from tunowner.backends import linux` is an import of it
                for alias in node.names:
                    if alias.name.islower():
                        yield Import(f"{base}.{alias.name}", node.lineno)


def _check_import(module: str, it: Import, allowed: tuple[str, ...]) -> Iterator[str]:
    if it.name.split(".")[0] == PACKAGE:
        if not any(_allows(prefix, it.name) for prefix in allowed):
            yield f"{module}:{it.line}: may not import {it.name}"
    elif _under(module, "tunowner.core") and it.name.split(".")[0] not in PURE_IMPORTS:
        yield f"{module}:{it.line}: core is pure and may not import {it.name}"


def _allows(prefix: str, name: str) -> bool:
    if prefix in NOT_BELOW:
        attribute = name.removeprefix(f"{prefix}.")
        known_below = any(_under(name, other) for other in LAYERS if other.startswith(f"{prefix}."))
        return name == prefix or (attribute != name and "." not in attribute and not known_below)
    return _under(name, prefix)


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _impurities(module: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in IMPURE_NAMES:
            yield f"{module}:{node.lineno}: core is pure and may not use {node.id}"
        if isinstance(node, ast.Attribute) and ast.unparse(node) in CLOCKS:
            yield f"{module}:{node.lineno}: core is pure and may not use {ast.unparse(node)}"


def _platform_questions(module: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        asked: list[tuple[str, str]] = []
        if isinstance(node, ast.ImportFrom):
            asked = [(node.module or "", alias.name) for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            asked = [(node.value.id, node.attr)]
        for question in asked:
            if question in PLATFORM_QUESTIONS:
                yield f"{module}: {'.'.join(question)}: only {SWITCH} asks which system this is"


def _side_effects(module: str, tree: ast.Module) -> Iterator[str]:
    local = _classes(tree)
    for node in _run_at_import(tree.body):
        if isinstance(node, ast.Call) and not _is_harmless(node.func, local):
            yield f"{module}:{node.lineno}: calls {ast.unparse(node.func)} when imported"


def _is_harmless(function: ast.expr, local: set[str]) -> bool:
    if isinstance(function, ast.Attribute) and function.attr in HARMLESS_METHODS:
        return True
    return ast.unparse(function) in HARMLESS_CALLS | local


def _run_at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Every node that runs with the import: not what stands in functions or after `__main__`."""
    for statement in body:
        if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
            continue
        stack: list[ast.AST] = [statement]
        while stack:
            node = stack.pop()
            yield node
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                stack += [*node.decorator_list, *node.args.defaults]
            elif not isinstance(node, ast.Lambda):
                stack += ast.iter_child_nodes(node)


def _classes(tree: ast.Module) -> set[str]:
    """Classes of the module itself, and those that it takes from the package."""
    local = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "")[:8] == PACKAGE):
            local |= {alias.name for alias in node.names if alias.name[:1].isupper()}
    return local


def _sizes(module: str, text: str, tree: ast.AST) -> Iterator[str]:
    lines = len(text.splitlines())
    if lines >= MAX_FILE_LINES:
        yield f"{module}: {lines} lines; a module has fewer than {MAX_FILE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{module}:{node.lineno}: {node.name} has {length} lines, not {MAX_FUNCTION_LINES} at most"


def third_party(modules: Mapping[str, str]) -> set[str]:
    """Return what the package imports that is neither its own nor Python's."""
    names = {
        it.name.split(".")[0]
        for module, text in modules.items()
        for it in imports_of(module, ast.parse(text))
    }
    return names - sys.stdlib_module_names - {PACKAGE}
