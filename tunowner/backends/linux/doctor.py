"""What this machine can do. Every check looks, none changes anything."""

from __future__ import annotations

import ctypes
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tunowner.backends.base import Check
from tunowner.backends.linux.bpf.loader import OwnerMap, cgroup_root
from tunowner.backends.linux.gate import nft
from tunowner.backends.linux.gate.conntrack import Conntrack
from tunowner.backends.linux.owners import LinuxOwners
from tunowner.backends.linux.tun import NODE
from tunowner.errors import TunOwnerError

if TYPE_CHECKING:
    from collections.abc import Callable

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_PTRACE": 19}
"""Bit numbers of <linux/capability.h>."""
_KERNEL = (5, 2)
"""`inet` route and nat chains, nftables release notes."""
_KERNEL_OWNER_FLAG = (5, 12)


def checks() -> list[Check]:
    """Return all checks, the most basic first."""
    return [
        _kernel(),
        _tun(),
        _capability("CAP_NET_ADMIN", "create a TUN device, rules and marks", needed=True),
        _capability("CAP_NET_RAW", "send a packet again with its verdict", needed=True),
        _capability("CAP_SYS_PTRACE", "see the sockets of other users' programs", needed=False),
        _nftables(),
        _works("conntrack", lambda: Conntrack().close(), "CONFIG_NF_CT_NETLINK"),
        _works("owner look-up", lambda: LinuxOwners().close(), "SOCK_DIAG and /proc"),
        _cgroup(),
        _ebpf(),
    ]


def _kernel() -> Check:
    release = os.uname().release
    version = tuple(int(part) for part in release.split(".")[:2] if part.isdecimal())
    if version < _KERNEL:
        return Check("kernel", ok=False, detail=release, hint="Linux 5.2 or newer is needed")
    notes = "" if version >= _KERNEL_OWNER_FLAG else ", too old for nft tables with an owner (5.12)"
    return Check("kernel", ok=True, detail=release + notes)


def _tun() -> Check:
    hint = "modprobe tun, or give the container --device /dev/net/tun"
    exists = NODE.is_char_device()
    return Check("TUN", ok=exists, detail=str(NODE) if exists else f"no {NODE}", hint=hint)


def _capability(name: str, purpose: str, *, needed: bool) -> Check:
    held = _effective_capabilities() >> _CAPABILITIES[name] & 1 == 1
    hint = f"run with sudo, or give the service AmbientCapabilities={name}"
    return Check(name, held, f"to {purpose}", hint, needed)


def _effective_capabilities() -> int:
    """Return the bit set CapEff of proc(5), status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _nftables() -> Check:
    with suppress(OSError):
        ctypes.CDLL(nft.LIBRARY)
        return Check("nftables", ok=True, detail=nft.LIBRARY)
    command = shutil.which("nft")
    if command is None:
        return Check("nftables", ok=False, detail="not here", hint="apt install nftables")
    detail = f"{command}; without {nft.LIBRARY} a killed run leaves its table until the next start"
    return Check("nftables", ok=True, detail=detail)


def _works(name: str, attempt: Callable[[], None], detail: str) -> Check:
    try:
        attempt()
    except TunOwnerError as error:
        return Check(name, ok=False, detail=error.what, hint=error.hint)
    return Check(name, ok=True, detail=detail)


def _cgroup() -> Check:
    try:
        return Check("cgroup v2", ok=True, detail=str(cgroup_root()), needed=False)
    except TunOwnerError as error:
        return Check("cgroup v2", ok=False, detail=error.what, hint=error.hint, needed=False)


def _ebpf() -> Check:
    meanwhile = "owners are found through /proc meanwhile"
    try:
        with OwnerMap(attach=False) as loaded:
            reads_tasks = loaded.reads_tasks
    except TunOwnerError as error:
        hint = "; ".join(filter(None, (error.hint, meanwhile)))
        return Check("eBPF", ok=False, detail=error.what, hint=hint, needed=False)
    detail = "owners are noted in the kernel"
    if not reads_tasks:
        detail = (
            "senders' sockets are noted in the kernel; programs that are gone are not, as it has "
        )
        detail += "no BTF (CONFIG_DEBUG_INFO_BTF)"
    return Check("eBPF", ok=True, detail=detail, needed=False)
