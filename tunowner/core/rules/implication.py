"""Does every flow that one match fits also fit another?

Told from what is written, so only some of it is found: a yes is sure, a no is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .condition import FlowCondition
from .flow_conditions import Ip, Port, Protocol
from .holders import Holders
from .logic import All, Any, Anything
from .process_conditions import App, Path, User

if TYPE_CHECKING:
    from .condition import Condition
    from .logic import Matcher
    from .patterns import Pattern

_SPECIAL = "*?["
MAX_COMPARISONS = 100_000
"""Of two long lists only the same values are compared."""


def implies(narrow: Matcher, wide: Matcher) -> bool:
    """Whether `wide` surely holds wherever `narrow` does."""
    if isinstance(wide, Anything) or narrow == wide:
        return True
    if isinstance(wide, All):
        return all(implies(narrow, part) for part in wide.parts)
    if isinstance(narrow, Any):
        return all(implies(part, wide) for part in narrow.parts)
    if isinstance(narrow, All) and any(implies(part, wide) for part in narrow.parts):
        return True
    if isinstance(wide, Any):
        return any(implies(narrow, part) for part in wide.parts)
    if isinstance(wide, Holders):
        return isinstance(narrow, Holders) and all(
            any(covers(other, part) for part in narrow.parts) for other in wide.parts
        )
    if isinstance(narrow, FlowCondition) and isinstance(wide, FlowCondition):
        return covers(wide, narrow)
    return False


def covers(wide: Condition, narrow: Condition) -> bool:
    """Whether the values of one condition include all that the other stands for."""
    if len(wide.values) * len(narrow.values) > MAX_COMPARISONS:
        return type(wide) is type(narrow) and set(narrow.values) <= set(wide.values)
    if isinstance(wide, App | Path) and isinstance(narrow, App | Path):
        return all(_covers_pattern(wide, pattern) for pattern in narrow.values)
    if type(wide) is not type(narrow):
        return False
    if isinstance(wide, Ip) and isinstance(narrow, Ip):
        return _covers_networks(wide, narrow)
    if isinstance(wide, Port) and isinstance(narrow, Port):
        return all(
            any(low <= first and last <= high for low, high in _ranges(wide))
            for first, last in _ranges(narrow)
        )
    if isinstance(wide, Protocol) and isinstance(narrow, Protocol):
        whole = {protocol._replace(port=None) for protocol in narrow.protocols}
        return narrow.protocols <= wide.protocols or whole <= wide.protocols
    if isinstance(wide, User) and isinstance(narrow, User):
        return narrow.uids <= wide.uids and narrow.names <= wide.names
    return set(narrow.values) <= set(wide.values)


def _ranges(condition: Port) -> zip[tuple[int, int]]:
    return zip(condition.starts, condition.ends, strict=True)


def _covers_networks(wide: Ip, narrow: Ip) -> bool:
    return all(
        any(
            shift >= prefixes.shift and number >> (shift - prefixes.shift) in networks
            for shift, networks in wide.families.get(length, ())
        )
        for length, tables in narrow.families.items()
        for prefixes in tables
        for number in prefixes.networks
    )


def _covers_pattern(wide: App | Path, narrow: Pattern) -> bool:
    if narrow in wide.values:
        return True
    if narrow.is_literal:
        name = narrow.text.rpartition("/")[2]
        return any(
            it.fits(name if it.on_name else narrow.text)
            for it in wide.values
            if it.on_name or not narrow.on_name
        )
    return not narrow.anywhere and not narrow.on_name and _is_below(wide, narrow.text)


def _is_below(wide: App | Path, glob: str) -> bool:
    """Whether all that a glob for paths fits lies in a folder that is wholly in `wide`."""
    folders = (it.text[:-2] for it in wide.values if it.text.endswith("/**") and not it.anywhere)
    return any(
        not any(it in folder for it in _SPECIAL) and glob.startswith(folder) for folder in folders
    )
