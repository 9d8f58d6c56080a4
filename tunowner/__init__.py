"""tunowner: which program opened this flow, and where should it go?

Data flows one way: packet -> FlowKey -> Owner -> Decision -> what the data plane does. The only
thing that comes back is the owner's answer.

- `core`      pure: packets, the flow engine, rules. No I/O, no clock, no threads.
- `backends`  everything that speaks to an operating system, behind small promises (`base`).
- `app`       performs what the engine asks for: packet loop, look-up worker, service; and the two that
              other programs embed: `OwnerResolver`, and `Companion` for packets in hand.
- `control`   the doors: the command line.
- `errors`    what can go wrong, where, and what to do next.

Imports go one way too: control -> app -> backends -> core -> errors (a test walks them).
"""

from importlib import import_module
from typing import TYPE_CHECKING

from tunowner.app.find import find_process
from tunowner.core.model import (
    Connection,
    Decision,
    FlowKey,
    Grade,
    Owner,
    Process,
    ProcessDetails,
)
from tunowner.errors import (
    BackendError,
    ConfigError,
    DeviceClosed,
    Finding,
    PrivilegeError,
    TunOwnerError,
)

if TYPE_CHECKING:
    from tunowner.app.companion import Companion
    from tunowner.app.resolver import OwnerResolver
    from tunowner.app.resolver_async import AsyncOwnerResolver
    from tunowner.core.rules import RuleSet

_WHEN_USED = {
    "Companion": "tunowner.app.companion",
    "OwnerResolver": "tunowner.app.resolver",
    "AsyncOwnerResolver": "tunowner.app.resolver_async",
    "RuleSet": "tunowner.core.rules",
}
"""Where to find what takes long to import (asyncio 50 ms, PyYAML 20 ms); `__getattr__` does it when
needed."""


def __getattr__(name: str) -> object:
    if name in _WHEN_USED:
        return getattr(import_module(_WHEN_USED[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__version__ = "0.1.0"

__all__ = [
    "AsyncOwnerResolver",
    "BackendError",
    "Companion",
    "ConfigError",
    "Connection",
    "Decision",
    "DeviceClosed",
    "Finding",
    "FlowKey",
    "Grade",
    "Owner",
    "OwnerResolver",
    "PrivilegeError",
    "Process",
    "ProcessDetails",
    "RuleSet",
    "TunOwnerError",
    "find_process",
]
