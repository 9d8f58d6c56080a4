"""Linux: SOCK_DIAG and /proc for owners, TUN + nftables + policy routing for the data plane.

Each import is where it is used: `tunowner who` shall not pay for pyroute2 (134 ms).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunowner.backends.base import (
        Check,
        DataPlane,
        DnsTap,
        EbpfSettings,
        GateSettings,
        Inspector,
        OwnerSource,
        SocketDeaths,
        TableQuery,
    )
    from tunowner.core.model import Connection, FlowKey, Owner

# ruff: noqa: PLC0415


class LinuxBackend:
    """See tunowner.backends.base.Backend."""

    def open_data_plane(self, settings: GateSettings) -> DataPlane:
        from tunowner.backends.linux.gate.gate import open_gate

        return open_gate(settings)

    def open_owners(
        self, interface_index: int = 0, ebpf: EbpfSettings | None = None
    ) -> OwnerSource:
        from tunowner.backends.linux.owners import LinuxOwners

        if ebpf is None:
            return LinuxOwners(interface=interface_index)
        from tunowner.backends.linux.bpf.loader import open_map

        return LinuxOwners(interface=interface_index, bpf=open_map(ebpf.cgroup, interface_index))

    def open_deaths(self, owners: OwnerSource | None = None) -> SocketDeaths:
        from tunowner.backends.linux.deaths import Deaths, DeathsAtOnce
        from tunowner.backends.linux.owners import LinuxOwners

        surely = Deaths()
        early = owners.closings() if isinstance(owners, LinuxOwners) else None
        return surely if early is None else DeathsAtOnce(early, surely)

    def find_process(
        self,
        protocol: str,
        ip: str,
        port: int,
        remote: tuple[str, int] | None,
        source: OwnerSource | None = None,
    ) -> Owner:
        from tunowner.backends.linux.namespaces import find_anywhere
        from tunowner.backends.linux.owners import LinuxOwners

        own = source if isinstance(source, LinuxOwners) else None
        return find_anywhere(protocol, ip, port, remote, source=own)

    def open_inspector(self) -> Inspector:
        from tunowner.backends.linux.details import LinuxInspector

        return LinuxInspector()

    def open_dns_tap(self) -> DnsTap:
        from tunowner.backends.linux.dns_tap import LinuxDnsTap

        return LinuxDnsTap()

    def interface_of(self, flow: FlowKey) -> str | None:
        from tunowner.backends.linux.routes import interface_of

        return interface_of(flow)

    def connections(self, query: TableQuery) -> list[Connection]:
        from tunowner.backends.linux.table import connections

        return connections(query)

    def doctor(self) -> list[Check]:
        from tunowner.backends.linux.doctor import checks

        return checks()
