"""tunowner: which program opened this flow, and where should it go?

Data flows one way: packet -> FlowKey -> Owner -> Decision -> what the data plane does. The only
thing that comes back is the owner's answer.

- `core`      pure: packets, the flow engine, rules. No I/O, no clock, no threads.
- `backends`  everything that speaks to an operating system, behind small promises (`base`).
- `app`       performs what the engine asks for: packet loop, look-up worker, service.
- `control`   the doors: the command line.
- `errors`    what can go wrong, where, and what to do next.

Imports go one way too: control -> app -> backends -> core -> errors (a test walks them).
"""

from tunowner.app.find import find_process
from tunowner.core.model import Decision, FlowKey, Grade, Owner, Process
from tunowner.errors import (
    BackendError,
    ConfigError,
    DeviceClosed,
    Finding,
    PrivilegeError,
    TunOwnerError,
)

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "ConfigError",
    "Decision",
    "DeviceClosed",
    "Finding",
    "FlowKey",
    "Grade",
    "Owner",
    "PrivilegeError",
    "Process",
    "TunOwnerError",
    "find_process",
]
