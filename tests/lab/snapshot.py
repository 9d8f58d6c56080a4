"""The network state of a namespace as plain values, so that two moments can be compared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.namespace import Namespace

_COMMANDS = {
    "nft": ("nft", "-j", "list", "ruleset"),
    "rules v4": ("ip", "-j", "-4", "rule"),
    "rules v6": ("ip", "-j", "-6", "rule"),
    "routes v4": ("ip", "-j", "-4", "route", "show", "table", "all"),
    "routes v6": ("ip", "-j", "-6", "route", "show", "table", "all"),
    "addresses": ("ip", "-j", "addr"),
    "qdiscs": ("tc", "-j", "qdisc"),
}
_VOLATILE = {"expires", "operstate", "valid_life_time", "preferred_life_time", "metainfo", "handle"}
_SYSCTLS = ("net/ipv4", "net/ipv6", "net/core", "net/netfilter")
_VOLATILE_SYSCTLS = {"net/netfilter/nf_conntrack_count"}


@dataclass(frozen=True)
class Snapshot:
    """One fact per key: nft objects, rules, routes, links with addresses, qdiscs, sysctls."""

    facts: dict[str, Any]

    def diff(self, later: Snapshot) -> list[str]:
        """Say what `later` has gained (+), lost (-) and changed (~)."""
        return list(_differences(self.facts, later.facts))


def _differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key in sorted(before.keys() | after.keys()):
        if key not in before:
            yield f"+ {key} {after[key]}"
        elif key not in after:
            yield f"- {key} {before[key]}"
        elif before[key] != after[key]:
            yield f"~ {key} {before[key]} -> {after[key]}"


def take_snapshot(namespace: Namespace) -> Snapshot:
    facts: dict[str, Any] = {}
    for title, command in _COMMANDS.items():
        facts.update(_listed(title, namespace.json(*command)))
    facts.update(namespace.call(_sysctls))
    return Snapshot(facts)


def _listed(title: str, answer: Any) -> dict[str, int]:
    """Turn a listing into facts that do not depend on its order; equal lines are counted."""
    counts: dict[str, int] = {}
    for item in answer["nftables"] if isinstance(answer, dict) else answer:
        if stable := _stable(item):
            key = f"{title}: {json.dumps(stable, sort_keys=True)}"
            counts[key] = counts.get(key, 0) + 1
    return counts


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stable(item) for key, item in value.items() if key not in _VOLATILE}
    return [_stable(item) for item in value] if isinstance(value, list) else value


def _sysctls() -> dict[str, str]:
    root = Path("/proc/sys")
    files = (file for part in _SYSCTLS for file in (root / part).rglob("*") if file.is_file())
    values = ((str(file.relative_to(root)), _read(file)) for file in files)
    return {f"sysctl: {key}": text for key, text in values if key not in _VOLATILE_SYSCTLS}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError as error:  # write-only switches, and stable_secret that was never set
        return f"unreadable: {error.errno}"
