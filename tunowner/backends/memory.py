"""Backends that live in memory: for tests, examples and dry runs. They keep the same promises."""

from __future__ import annotations

import socket
from collections import deque
from dataclasses import replace
from ipaddress import ip_address
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from tunowner.backends.base import Check, GateSettings
from tunowner.core.model import (
    BUILTIN_ACTIONS,
    TCP,
    Connection,
    FlowKey,
    Grade,
    Owner,
    Process,
    ProcessDetails,
    SocketHolder,
)
from tunowner.core.packet import destination
from tunowner.errors import DeviceClosed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tunowner.backends.base import EbpfSettings, OwnerSource, TableQuery

BACKEND = "memory"


class MemoryOwners:
    """An `OwnerSource` that answers what it was told; a flow it was not told of is `absent`.

    `quick` knows a flow at once, or only after a walk when `put` said `slow`, as the real one does
    for a process that it sees for the first time. `walked` lists the batches that were walked.
    """

    def __init__(self, owners: Mapping[FlowKey, Owner] | None = None) -> None:
        self._owners = dict(owners or {})
        self._slow: set[FlowKey] = set()
        self.walked: list[tuple[FlowKey, ...]] = []

    def put(self, flow: FlowKey, owner: Owner, *, slow: bool = False) -> None:
        self._owners[flow] = owner
        if slow:
            self._slow.add(flow)
        else:
            self._slow.discard(flow)

    def remove(self, flow: FlowKey) -> None:
        """Forget a flow, as when its socket is closed."""
        self._owners.pop(flow, None)
        self._slow.discard(flow)

    def quick(self, flow: FlowKey, since: float | None = None) -> Owner | None:  # noqa: ARG002
        return None if flow in self._slow else self._answer(flow)

    def walk(self, flows: Sequence[FlowKey]) -> Iterator[tuple[FlowKey, Owner]]:
        batch = tuple(dict.fromkeys(flows))
        self.walked.append(batch)
        for flow in batch:
            self._slow.discard(flow)
            yield flow, self._answer(flow)

    def find(self, protocol: str, ip: str, port: int, remote: tuple[str, int] | None) -> Owner:
        """Answer for a local socket, as `Backend.find_process` promises."""
        for flow in self._owners:
            if _fits(flow, protocol, ip, port, remote):
                return self._answer(flow)
        return Owner(Grade.ABSENT, backend=BACKEND)

    def connections(self, query: TableQuery) -> list[Connection]:
        """Return a row for each flow, as `Backend.connections` promises."""
        return [
            _connection(flow, owner)
            for flow, owner in self._owners.items()
            if flow.protocol in query.protocols and query.port in (0, flow.local_port)
        ]

    def processes(self) -> list[Process]:
        """Return every process that holds something."""
        return [process for owner in self._owners.values() for process in owner.candidates]

    def close(self) -> None:
        """Nothing is open."""

    def _answer(self, flow: FlowKey) -> Owner:
        owner = self._owners.get(flow) or Owner(Grade.ABSENT)
        return owner if owner.backend else owner._replace(backend=BACKEND)


def _fits(flow: FlowKey, protocol: str, ip: str, port: int, remote: tuple[str, int] | None) -> bool:
    if (flow.protocol_name, flow.local_port) != (protocol, port):
        return False
    if ip and flow.local != ip_address(ip).packed:
        return False
    far = (flow.remote, flow.remote_port)
    return remote is None or far == (ip_address(remote[0]).packed, remote[1])


def _connection(flow: FlowKey, owner: Owner) -> Connection:
    return Connection(
        flow.protocol,
        4 if len(flow.local) == 4 else 6,
        flow.local,
        flow.local_port,
        flow.remote,
        flow.remote_port,
        "ESTABLISHED" if flow.protocol == TCP else "NONE",
        owner.uid,
        owner.cookie,
        owner.grade,
        tuple(SocketHolder(process) for process in owner.candidates),
    )


class MemoryInspector:
    """An `Inspector` of the processes that hold the flows; `put` tells more about one."""

    def __init__(self, owners: MemoryOwners) -> None:
        self._owners = owners
        self._details: dict[Process, ProcessDetails] = {}

    def put(self, details: ProcessDetails) -> None:
        self._details[details.process] = details

    def process(self, pid: int) -> Process | None:
        return next((it for it in self._owners.processes() if it.pid == pid), None)

    def details(self, process: Process, *, sha256: bool = False) -> ProcessDetails | None:
        if process not in self._owners.processes():
            return None
        details = self._details.get(process) or ProcessDetails(process)
        return details if sha256 else replace(details, sha256=None)


class Carried(NamedTuple):
    """One call of `MemoryDataPlane.carry`."""

    packet: bytes
    flow: FlowKey | None
    action: str


class MemoryDataPlane:
    """A `DataPlane` whose device is a queue: `offer` is the kernel's end of it.

    `carried` lists what was carried, `passed` what was offered once nothing is intercepted any
    more, and `refreshes` counts `refresh`. `offer`, `change` and `vanish` may be called from any
    thread, while the loop runs on another.
    """

    name = "memory0"
    interface_index = 0

    def __init__(self, settings: GateSettings | None = None) -> None:
        self.settings = settings or GateSettings()
        self._lock = Lock()
        self._queue: deque[bytes] = deque()
        self._packets = _Bell()
        self._changes = _Bell()
        self.intercepting = True
        self._gone = False
        self._lost = 0
        self.carried: list[Carried] = []
        self.forgotten: list[FlowKey] = []
        self.passed: list[bytes] = []
        self.refreshes = 0

    def __repr__(self) -> str:
        return f"<MemoryDataPlane: {len(self._queue)} waiting, {len(self.carried)} carried>"

    def offer(self, *packets: bytes) -> None:
        """Send packets as a program would."""
        with self._lock:
            if not self.intercepting:
                self.passed += packets
                return
            self._queue += packets
            self._packets.set(ringing=bool(self._queue) or self._gone)

    def change(self) -> None:
        """Let a link, an address or a policy rule change."""
        with self._lock:
            self._changes.set(ringing=True)

    def vanish(self) -> None:
        """Take the device away, as `ip link delete` does."""
        with self._lock:
            self._gone = True
            self._packets.set(ringing=True)

    def fileno(self) -> int:
        return self._packets.fileno()

    def read(self) -> bytes | None:
        with self._lock:
            if self._gone:
                raise DeviceClosed("the device has gone", where=self.name)
            packet = self._queue.popleft() if self._queue else None
            self._packets.set(ringing=bool(self._queue))
            return packet

    def carry(
        self,
        packet: bytes,
        flow: FlowKey | None,
        action: str,
        *,
        first: bool = False,  # noqa: ARG002 - nothing is remembered here
    ) -> None:
        """See DataPlane.carry. An action that nobody defined is the caller's bug: ValueError."""
        outbounds = [outbound.name for outbound in self.settings.outbounds]
        if action not in (*BUILTIN_ACTIONS, *outbounds):
            raise ValueError(f"{action!r} is neither built in nor one of {outbounds}")
        if destination(packet) is None:
            self._lost += 1
        else:
            self.carried.append(Carried(packet, flow, action))

    def forget(self, flow: FlowKey) -> None:
        self.forgotten.append(flow)

    def changes_fileno(self) -> int:
        return self._changes.fileno()

    def drain_changes(self) -> None:
        with self._lock:
            self._changes.set(ringing=False)

    def refresh(self) -> None:
        self.refreshes += 1

    def stop_intercepting(self) -> None:
        with self._lock:
            self.intercepting = False

    def statistics(self) -> dict[str, int]:
        return {"carried": len(self.carried), "lost": self._lost}

    def close(self) -> None:
        with self._lock:
            self.intercepting = False
            self._gone = True
            self._packets.close()
            self._changes.close()


class MemoryDeaths:
    """A `SocketDeaths`: `put` closes sockets, `overflow` loses some. Both from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._bell = _Bell()
        self._cookies: list[int] = []
        self._overflown = False

    def put(self, *cookies: int) -> None:
        with self._lock:
            self._cookies += cookies
            self._bell.set(ringing=True)

    def overflow(self) -> None:
        with self._lock:
            self._overflown = True
            self._bell.set(ringing=True)

    def fileno(self) -> int:
        return self._bell.fileno()

    def read(self) -> list[int] | None:
        with self._lock:
            self._bell.set(ringing=False)
            cookies = None if self._overflown else self._cookies
            self._cookies, self._overflown = [], False
            return cookies

    def close(self) -> None:
        self._bell.close()


class MemoryDnsTap:
    """A `DnsTap`: `put` lets packets go by."""

    def __init__(self) -> None:
        self._packets: deque[bytes] = deque()
        self.closed = False

    def put(self, *packets: bytes) -> None:
        self._packets += packets

    def read(self) -> list[bytes]:
        return [self._packets.popleft() for _ in range(len(self._packets))]

    def close(self) -> None:
        self.closed = True


class _Bell:
    """A descriptor that is readable while it rings. A socket pair, since Windows selects no pipe."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._ringing = False

    def fileno(self) -> int:
        return self._receiver.fileno()

    def set(self, *, ringing: bool) -> None:
        if ringing == self._ringing or self.fileno() < 0:
            return
        if ringing:
            self._sender.send(b"!")
        else:
            self._receiver.recv(1)
        self._ringing = ringing

    def close(self) -> None:
        self._receiver.close()
        self._sender.close()


class MemoryBackend:
    """A `Backend` of the two fakes, which are there before anything is opened."""

    def __init__(
        self, plane: MemoryDataPlane | None = None, owners: MemoryOwners | None = None
    ) -> None:
        self.plane = plane or MemoryDataPlane()
        self.owners = owners or MemoryOwners()
        self.deaths = MemoryDeaths()
        self.inspector = MemoryInspector(self.owners)
        self.dns_tap: MemoryDnsTap | None = None
        """There once it was opened."""
        self.interfaces: dict[bytes, str] = {}
        """By the remote address of a flow."""

    def open_data_plane(self, settings: GateSettings) -> MemoryDataPlane:
        self.plane.settings = settings
        return self.plane

    def open_owners(
        self,
        interface_index: int = 0,  # noqa: ARG002 - no interface
        ebpf: EbpfSettings | None = None,  # noqa: ARG002 - no kernel
    ) -> MemoryOwners:
        return self.owners

    def open_deaths(
        self,
        owners: OwnerSource | None = None,  # noqa: ARG002
    ) -> MemoryDeaths:
        return self.deaths

    def find_process(
        self,
        protocol: str,
        ip: str,
        port: int,
        remote: tuple[str, int] | None,
        source: OwnerSource | None = None,  # noqa: ARG002 - there is only one
    ) -> Owner:
        return self.owners.find(protocol, ip, port, remote)

    def open_dns_tap(self) -> MemoryDnsTap:
        self.dns_tap = MemoryDnsTap()
        return self.dns_tap

    def interface_of(self, flow: FlowKey) -> str | None:
        return self.interfaces.get(flow.remote)

    def open_inspector(self) -> MemoryInspector:
        return self.inspector

    def connections(self, query: TableQuery) -> list[Connection]:
        return self.owners.connections(query)

    def doctor(self) -> list[Check]:
        return [Check(BACKEND, ok=True, detail="flows and owners live in memory")]
