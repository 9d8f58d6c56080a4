"""Linux: SOCK_DIAG and /proc for owners, TUN + nftables + policy routing for the data plane.

Each import is where it is used: `tunowner who` shall not pay for pyroute2 (134 ms).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunowner.backends.base import Check, DataPlane, GateSettings, OwnerSource, SocketDeaths
    from tunowner.core.model import Owner

# ruff: noqa: PLC0415


class LinuxBackend:
    """See tunowner.backends.base.Backend."""

    def open_data_plane(self, settings: GateSettings) -> DataPlane:
        from tunowner.backends.linux.gate.gate import open_gate

        return open_gate(settings)

    def open_owners(self, interface_index: int = 0) -> OwnerSource:
        from tunowner.backends.linux.owners import LinuxOwners

        return LinuxOwners(interface=interface_index)

    def open_deaths(self, *, tcp: bool) -> SocketDeaths:
        from tunowner.backends.linux.deaths import Deaths

        return Deaths(tcp=tcp)

    def find_process(
        self, protocol: str, ip: str, port: int, remote: tuple[str, int] | None
    ) -> Owner:
        from tunowner.backends.linux.owners import find_process

        return find_process(protocol, ip, port, remote)

    def doctor(self) -> list[Check]:
        from tunowner.backends.linux.doctor import checks

        return checks()
