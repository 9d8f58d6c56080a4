"""The nouns: flow, process, owner, outbound, decision. Values only, no behaviour that needs an OS."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import NamedTuple

TCP = 6
"""IPPROTO_TCP, RFC 9293 and <netinet/in.h>."""
UDP = 17
"""IPPROTO_UDP, RFC 768 and <netinet/in.h>."""

PROTOCOL_NAMES = {TCP: "tcp", UDP: "udp"}

DIRECT = "direct"
BLOCK = "block"
DROP = "drop"
BUILTIN_ACTIONS = (DIRECT, BLOCK, DROP)
"""Actions that need no outbound; every other action is the name of an outbound."""


_MAPPED = bytes(10) + b"\xff\xff"


def unmapped(address: bytes) -> bytes:
    """Return the IPv4 address of a v4-mapped one (RFC 4291, 2.5.5.2), any other as it is.

    A socket of IPv6 that talks IPv4 has such addresses; its packets have the IPv4 ones.
    """
    return address[12:] if len(address) == 16 and address.startswith(_MAPPED) else address


def endpoint(address: bytes, port: int) -> str:
    """Return `1.2.3.4:80` or `[2001:db8::1]:80` for a packed address (4 or 16 bytes).

    A v4-mapped address is written `::ffff:1.2.3.4` (RFC 5952, 5), which Python does since 3.13.
    """
    if len(address) == 4:
        return f"{ip_address(address)}:{port}"
    if address.startswith(_MAPPED):
        return f"[::ffff:{ip_address(address[12:])}]:{port}"
    return f"[{ip_address(address)}]:{port}"


class FlowKey(NamedTuple):
    """The 5-tuple, seen from this machine. Addresses are packed: 4 bytes (IPv4) or 16 (IPv6)."""

    protocol: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int

    @property
    def protocol_name(self) -> str:
        return PROTOCOL_NAMES.get(self.protocol, str(self.protocol))

    @property
    def source(self) -> str:
        return endpoint(self.local, self.local_port)

    @property
    def destination(self) -> str:
        return endpoint(self.remote, self.remote_port)

    def __str__(self) -> str:
        return f"{self.protocol_name} {self.source} -> {self.destination}"


class Grade(StrEnum):
    """How sure an owner answer is, and if there is none, why."""

    EXACT = "exact"
    """The socket of this very flow; every candidate holds it."""
    WILDCARD = "wildcard"
    """An unconnected socket bound to the port; it is the only one."""
    AMBIGUOUS = "ambiguous"
    """Several sockets are equally likely; the candidates are their holders."""
    UID_ONLY = "uid-only"
    """The socket is known, its process is not; the uid is the socket's."""
    CGROUP_ONLY = "cgroup-only"
    """Only the control group of the socket is known."""
    CLOSED = "closed"
    """The socket is known and no process holds it any more."""
    KERNEL = "kernel"
    """The socket is alive and no process holds it: it belongs to the kernel, or is hidden."""
    DENIED = "denied"
    """Permission to look was refused, so a process may exist."""
    ABSENT = "absent"
    """No such socket."""


class Process(NamedTuple):
    """A process: (`pid`, `start`) is its identity, the rest is what it was when looked at.

    A `pid` of 0 stands for a process whose number nobody told (a supposed one).
    `start` is for comparison only: on Linux clock ticks since boot (proc(5), stat field 22).
    `path` is the executable, without the kernel's ` (deleted)` suffix, which `deleted` holds;
    None where it is not readable. `uid` is the effective user of the process.
    """

    pid: int
    start: int
    path: str | None = None
    uid: int | None = None
    user: str | None = None
    deleted: bool = False

    @property
    def name(self) -> str | None:
        """The last component of the path, on Windows and POSIX alike."""
        if self.path is None:
            return None
        return self.path.replace("\\", "/").rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class ProcessDetails:
    """What is known of a process beyond its path. None is unknown (refused, or gone meanwhile).

    Text that is empty is known to be nothing: no unit, no container, no package. All of it but
    `file` and `sha256` is what the process or its user may have chosen, so it can be faked.
    """

    process: Process
    started_at: float | None = None
    """Seconds since the epoch."""
    file: tuple[int, int] | None = None
    """(device, inode) of the executable that runs, whatever its path leads to now."""
    command_line: tuple[str, ...] | None = None
    parents: tuple[Process, ...] = ()
    """The parent, its parent and so on."""
    parents_whole: bool = False
    """Whether `parents` goes back to the first process, and lacks none."""
    cgroup: str | None = None
    """Path of the control group (v2)."""
    unit: str | None = None
    """The systemd unit, such as `ssh.service`, `session-3.scope` or `user@1000.service`."""
    user_unit: str | None = None
    """The unit of the user's own systemd, such as `app-firefox-812.scope`."""
    slice: str | None = None
    """The systemd slice, such as `system.slice`."""
    container: str | None = None
    """`docker:ID`, `podman:ID`, `containerd:ID`, `crio:ID`, `lxc:NAME`, `nspawn:NAME`."""
    package: str | None = None
    """`deb:NAME`, `rpm:NAME`, `flatpak:ID`, `snap:NAME` or `appimage:PATH`."""
    sha256: str | None = None
    """Of the executable; only when asked for."""
    directory: str | None = None
    """The working directory as it is now, which may not be the one it started in."""


class SocketHolder(NamedTuple):
    """A process that holds a socket, by descriptor `fd` (None: only a thread of it does).

    `uids` are the real, effective, saved and file system user (proc(5), status).
    """

    process: Process
    fd: int | None = None
    uids: tuple[int, ...] = ()


class Connection(NamedTuple):
    """One row of the connection table: a socket and who holds it, the primary holder first.

    `version` is 4 or 6, that of the socket: a v4-mapped address belongs to version 6. `status` is
    the TCP state by its name in RFC 9293 (`ESTABLISHED`, `LISTEN`, ...), `NONE` for UDP. `uid` is
    the socket's own. `cookie` as in Owner.
    """

    protocol: int
    version: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    status: str = "NONE"
    uid: int | None = None
    cookie: int | None = None
    grade: Grade = Grade.ABSENT
    holders: tuple[SocketHolder, ...] = ()

    @property
    def process(self) -> Process | None:
        return self.holders[0].process if self.holders else None

    @property
    def source(self) -> str:
        return endpoint(self.local, self.local_port)

    @property
    def destination(self) -> str:
        """The other end, `*` where there is none."""
        return endpoint(self.remote, self.remote_port) if self.remote_port else "*"


class Owner(NamedTuple):
    """Who holds the local socket of a flow, and how sure that is. One is made for each look-up.

    `candidates` are all holders, the primary first and stable between look-ups. `uid` is the
    socket's own, None if unknown. `cookie` is the kernel's number of the socket, never used twice
    until reboot (sock_diag(7)). `resolved_at` is monotonic seconds; `lookup_us` microseconds.
    """

    grade: Grade
    candidates: tuple[Process, ...] = ()
    uid: int | None = None
    user: str | None = None
    cookie: int | None = None
    backend: str = ""
    resolved_at: float = 0.0
    lookup_us: int = 0
    detail: str = ""

    @property
    def process(self) -> Process | None:
        """The one process to name, or None when there is none or naming one could be wrong."""
        if self.grade in (Grade.EXACT, Grade.WILDCARD) and self.candidates:
            return self.candidates[0]
        return None


@dataclass(frozen=True, slots=True)
class InterfaceOutbound:
    """Leave by this interface and by no other (kill switch)."""

    name: str
    interface: str


@dataclass(frozen=True, slots=True)
class TableOutbound:
    """Leave by this routing table; where it has no route the flow is refused (kill switch)."""

    name: str
    table: int


@dataclass(frozen=True, slots=True)
class MarkOutbound:
    """Carry this fwmark and leave by whatever rules the administrator has for it."""

    name: str
    mark: int


Outbound = InterfaceOutbound | TableOutbound | MarkOutbound


class Audited(NamedTuple):
    """A rule in audit mode that matched, and the action it would have taken."""

    rule: str
    action: str


class Decision(NamedTuple):
    """What happens to a flow, and why. `rule` is None when a default decided.

    `tags` were given by rules that matched; `log`: whether the flow is to be told of; `audited`
    are the rules in audit mode that would have decided otherwise or alike.
    """

    action: str
    owner: Owner
    rule: str | None = None
    rule_file: str | None = None
    why: str = ""
    tags: tuple[str, ...] = ()
    log: bool = True
    audited: tuple[Audited, ...] = ()
