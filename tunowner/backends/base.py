"""What the rest of tunowner asks of an operating system: small promises, each kept by every backend.

`memory` is the fake that is shipped and used in tests; `tests/backends/` runs one contract suite
against it and against the real ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tunowner.core.model import TCP, UDP

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tunowner.core.model import (
        Connection,
        FlowKey,
        Outbound,
        Owner,
        Process,
        ProcessDetails,
    )


class OwnerSource(Protocol):
    """Answers "which process holds the local socket of this flow?"."""

    def quick(self, flow: FlowKey, since: float | None = None) -> Owner | None:
        """Answer from what is cheap to ask (about 100 us at most), or None when a walk is needed.

        `since`: the packet in hand came into the device's queue after this moment (seconds as by
        time.monotonic()), since the queue was empty then. None where that is not known.

        Called on the packet loop, so it must never scan all processes. Never raises for a flow.
        A None is a promise that `walk` may know more; a final answer (`absent`, say) is an Owner.
        """

    def walk(self, flows: Sequence[FlowKey]) -> Iterator[tuple[FlowKey, Owner]]:
        """Answer every one of `flows` once, each as soon as it is known. May take long.

        Called from one worker thread at a time, at the same time as `quick` on another. One pass
        over the processes serves all flows. Never raises for a flow.
        """

    def close(self) -> None:
        """Give back what is open. Safe to call twice."""


class Inspector(Protocol):
    """Tells more about a process. Reads only what is asked for, and may be asked by any thread.

    The process is meant by its identity (`pid`, `start`) and its path: one that got the pid later,
    or replaced its program, is never described. Never raises for a process.
    """

    def process(self, pid: int) -> Process | None:
        """Return the process that has `pid` now; None when there is none or it is hidden."""

    def details(self, process: Process, *, sha256: bool = False) -> ProcessDetails | None:
        """Return all that is known, None when it is that process no more.

        `sha256`: hash the executable too, 2 ms for each MB the first time.
        """


class SocketDeaths(Protocol):
    """Tells which sockets of this network namespace have closed, soon after they have."""

    def fileno(self) -> int:
        """A descriptor that is readable when `read` has something."""

    def read(self) -> list[int] | None:
        """Return the cookies of sockets closed since, or None when some were lost. Never blocks."""

    def close(self) -> None:
        """Give back what is open. Safe to call twice."""


class DnsTap(Protocol):
    """Hands out copies of the DNS packets that this network namespace sends and receives."""

    def read(self) -> list[bytes]:
        """Return the IP packets since, oldest first; some may be no DNS. Never blocks."""

    def close(self) -> None:
        """Give back what is open. Safe to call twice."""


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What the gate is to be built for.

    `mark_shift` is the position in bits of our byte of the fwmark (0, 8, 16 or 24). `strict`: a
    packet that cannot be intercepted is dropped (see GatePlan.strict).
    """

    outbounds: tuple[Outbound, ...] = ()
    mark_shift: int = 24
    strict: bool = True


@dataclass(frozen=True, slots=True)
class EbpfSettings:
    """Have the kernel note who opens sockets, where it can. It sees all below `cgroup` (a path).

    None is the whole machine; then it is done without where the kernel refuses. A cgroup that is
    asked for by name and cannot be had is an error.
    """

    cgroup: str | None = None


class DataPlane(Protocol):
    """Hands out the first packets of flows and carries them by their verdict.

    All methods are called from the loop's thread, and none blocks.
    """

    @property
    def name(self) -> str:
        """The packet device's name, for people."""

    @property
    def interface_index(self) -> int:
        """The packet device's index: a socket bound to it is looked up by it."""

    def fileno(self) -> int:
        """A descriptor that is readable when `read` has a packet."""

    def read(self) -> bytes | None:
        """Return one IP packet, None when none waits; raise DeviceClosed when the device went."""

    def carry(
        self, packet: bytes, flow: FlowKey | None, action: str, *, first: bool = False
    ) -> None:
        """Send `packet` the way of `action`: `direct`, `block`, `drop` or an outbound's name.

        `first` says that no packet of the flow was carried since it was decided; it saves time.

        Never raises for a packet; what the kernel does not take is counted. An outbound that is
        down refuses (TCP RST, ICMP), it never falls back.
        """

    def forget(self, flow: FlowKey) -> None:
        """Ask again for `flow`: its next packet comes to `read`. Never raises."""

    def changes_fileno(self) -> int:
        """A descriptor that is readable when links, addresses or policy rules changed."""

    def drain_changes(self) -> None:
        """Make `changes_fileno` unreadable until the next change."""

    def refresh(self) -> None:
        """Set again what such a change may have undone. Takes milliseconds: call it debounced."""

    def stop_intercepting(self) -> None:
        """Let new flows pass untouched. Packets that wait can still be read and carried."""

    def statistics(self) -> dict[str, int]:
        """Return a snapshot of the counters."""

    def close(self) -> None:
        """Put the system back as it was found. Safe to call twice."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `tunowner doctor`. Where not `ok`, `hint` says what to do about it.

    `needed`: without it `tunowner run` cannot work; otherwise it works with less.
    """

    name: str
    ok: bool
    detail: str
    hint: str = ""
    needed: bool = True


@dataclass(frozen=True, slots=True)
class TableQuery:
    """Which part of the connection table is wanted: what a backend can leave out early.

    `port` is the local one, 0 for all. Without `holders` nobody is looked for, which is cheap;
    the grades mean nothing then.
    """

    protocols: tuple[int, ...] = (TCP, UDP)
    port: int = 0
    holders: bool = True


class Backend(Protocol):
    """One operating system."""

    def open_data_plane(self, settings: GateSettings) -> DataPlane:
        """Start to intercept. Raises BackendError or PrivilegeError, with nothing changed."""

    def open_owners(
        self, interface_index: int = 0, ebpf: EbpfSettings | None = None
    ) -> OwnerSource:
        """Open the owner look-up. `interface_index`: see DataPlane, 0 where there is none.

        With `ebpf` programs are attached until it is closed; nothing of others is disturbed.
        """

    def open_deaths(self, owners: OwnerSource | None = None) -> SocketDeaths:
        """Start to listen for UDP sockets that close.

        `owners` are asked to tell as well, if they hear of it sooner; close this before them.
        Raises BackendError where that is not told.
        """

    def find_process(
        self,
        protocol: str,
        ip: str,
        port: int,
        remote: tuple[str, int] | None,
        source: OwnerSource | None = None,
    ) -> Owner:
        """Find who holds a local socket; see `tunowner.find_process`.

        With a `source` of this backend, call it on the thread that walks: it costs less.
        """

    def open_inspector(self) -> Inspector:
        """Open what tells more about processes. There is nothing to close."""

    def open_dns_tap(self) -> DnsTap:
        """Start to see DNS answers. Raises PrivilegeError or BackendError where it cannot be."""

    def interface_of(self, flow: FlowKey) -> str | None:
        """Return the interface that a flow would leave by were there no rules, None if unknown.

        Called on the packet loop, for rules that ask. Never raises for a flow.
        """

    def connections(self, query: TableQuery) -> list[Connection]:
        """Return the connection table, each socket once with all its holders.

        Raises BackendError when the system does not tell.
        """

    def doctor(self) -> list[Check]:
        """Look what this machine can do. Changes nothing."""
