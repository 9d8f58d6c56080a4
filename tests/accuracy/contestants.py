"""tunowner as a contestant: as it is installed, without eBPF, and on a kernel without BTF."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

from tests.accuracy.model import Answer, Must
from tests.backends.owner_contract import ask
from tunowner.backends.linux.bpf.loader import BTF, OwnerMap
from tunowner.backends.linux.namespaces import find_anywhere
from tunowner.backends.linux.owners import LinuxOwners
from tunowner.core.model import PROTOCOL_NAMES, FlowKey, Grade, Owner

if TYPE_CHECKING:
    from pathlib import Path

    from tests.accuracy.model import Question


class TunOwner:
    """One long-lived source, as the gate has: what it remembers may mislead it."""

    def __init__(self, name: str, level: Must, source: LinuxOwners) -> None:
        self.name = name
        self.level: Must | None = level
        self.notes = level is not Must.PLAIN
        self._source = source

    def answer(self, question: Question) -> Answer:
        self._source.interface = question.interface
        owner = ask(self._source, question.flow, question.since)
        if owner.grade is Grade.ABSENT and not question.interface:
            owner = _anywhere(question.flow, self._source) or owner
        process = owner.process
        if process is None:
            return Answer(grade=owner.grade, detail=owner.detail)
        return Answer(process.pid, process.path, process.start, owner.grade, owner.detail)

    def close(self) -> None:
        self._source.close()


def _anywhere(flow: FlowKey, source: LinuxOwners) -> Owner | None:
    """Ask as `tunowner who` does, which looks into other network namespaces too."""
    local, remote = ip_address(flow.local), ip_address(flow.remote)
    if flow.protocol not in PROTOCOL_NAMES or local.is_loopback:
        return None
    far = str(remote), flow.remote_port
    return find_anywhere(flow.protocol_name, str(local), flow.local_port, far, source)


def without_ebpf() -> TunOwner:
    return TunOwner("tunowner, no eBPF", Must.PLAIN, LinuxOwners())


def with_ebpf(cgroup: Path) -> list[TunOwner]:
    """Attach to a cgroup and a device of the suite's own: nothing else on the machine is seen."""
    lo = socket.if_nametoindex("lo")
    full = LinuxOwners(bpf=OwnerMap(cgroup, interface=lo, reads_tasks=BTF.exists()))
    helpers = LinuxOwners(bpf=OwnerMap(cgroup, interface=lo, reads_tasks=False))
    return [
        TunOwner("tunowner, eBPF", Must.EBPF, full),
        TunOwner("eBPF, no BTF", Must.ALL, helpers),
    ]
