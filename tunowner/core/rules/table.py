"""The one table of conditions. A new condition is one class and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .flow_conditions import Ip, OwnerGrade, Port, Protocol
from .process_conditions import App, Path, Pid, User

if TYPE_CHECKING:
    from .condition import FlowCondition, ProcessCondition

CONDITIONS: dict[str, type[FlowCondition | ProcessCondition]] = {
    condition.key: condition for condition in (App, Path, Ip, Port, Protocol, User, Pid, OwnerGrade)
}
