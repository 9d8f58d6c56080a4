"""The one table of conditions. A new condition is one class and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .context_conditions import Host, Interface, Profile
from .detail_conditions import Cgroup, CommandLine, Container, Package, ScriptFile, Service, Sha256
from .durations import Over
from .flow_conditions import Ip, OwnerGrade, Port, Protocol
from .logic import Anything
from .process_conditions import App, Path, Pid, User
from .relatives import Ancestor, Parent

if TYPE_CHECKING:
    from .condition import FlowCondition, ProcessCondition

CONDITIONS: dict[str, type[FlowCondition | ProcessCondition]] = {
    condition.key: condition
    for condition in (
        *(App, Path, CommandLine, ScriptFile, Parent, Ancestor, Package, Service, Cgroup),
        *(Container, Sha256, User, Pid),
        *(Ip, Port, Protocol, Host, Interface, OwnerGrade, Profile),
    )
}

STEADY = (App, Path, Pid, User, Ip, Port, Protocol, OwnerGrade, Profile, Anything, Over)
"""What is told by the owner and the remote end of a flow alone, and will be told again."""
