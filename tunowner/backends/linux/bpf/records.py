"""What owner.bpf.c notes, read: the layouts of its structures, and nothing else. No I/O."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from tunowner.backends.linux.sockdiag import ANY4, ANY6, MAPPED

if TYPE_CHECKING:
    import ctypes

    from tunowner.core.model import FlowKey

    Buffer = bytes | ctypes.Array[ctypes.c_char]

NANOSECONDS = 1_000_000_000
SENT, LEFT, LEFT_BY_ANOTHER, CONNECTED = 1, 2, 3, 4
"""`enum kind`: how a tuple was used."""

USER = struct.Struct("=QQQIIII16s")
_TIME = 8
"""The size of `time`, which comes first in a user."""
RECORD = struct.Struct(f"=QQiI{USER.size}s{USER.size}sQ")
FLOW = struct.Struct("=Q16sHHI")
USE = struct.Struct(f"=Q16s{USER.size}sII")
DEPARTURE = struct.Struct("=16s16sHHIQ")
_BY_CREATOR, _SHARES = 1, 2
"""Flags of a record."""
ENTRY = struct.Struct(f"={FLOW.size}s{USE.size}s{USE.size}sQ")


class User(NamedTuple):
    """A program at the moment it used a socket. `time` and `start` are ns of boot time.

    `start`, `exec_id`, `device` and `inode` are 0 where the kernel has no BTF. (`pid`, `start`)
    name the process, `exec_id` the program it ran then; `device` is `s_dev` of the kernel.
    `comm` is whatever a thread of it set: for people, never an identity.
    """

    time: int
    start: int
    inode: int
    device: int
    pid: int
    uid: int
    exec_id: int
    comm_bytes: bytes

    @property
    def comm(self) -> str:
        return self.comm_bytes.partition(b"\0")[0].decode(errors="replace")

    @property
    def program(self) -> tuple[int, int, int]:
        """The process and which of its programs."""
        return self.pid, self.start, self.exec_id

    @property
    def process(self) -> tuple[int, int]:
        return self.pid, self.start


class Record:
    """One socket. `last` connected it or sent by address; None when none was seen to.

    `descriptor` is where the creator probably got it, negative when unknown. `by_creator`: the
    creator is the last user too. `shares`: another one may have
    its port too.
    """

    __slots__ = ("_creator", "by_creator", "descriptor", "last", "netns", "shares")

    def __init__(
        self, netns: int, descriptor: int, creator: bytes, last: User | None, flags: int
    ) -> None:
        self.netns = netns
        self.descriptor = descriptor
        self.by_creator = bool(flags & _BY_CREATOR)
        self.shares = bool(flags & _SHARES)
        self.last = last
        self._creator = creator

    @property
    def creator(self) -> User | None:
        """Who made the socket; None when that was before the hooks were there. Read when asked for."""
        return parse_user(self._creator)


class Use(NamedTuple):
    """A use of one tuple; `local` is what the socket was bound to, 16 zero bytes for any."""

    cookie: int
    local: bytes
    user: User
    kind: int

    @property
    def program(self) -> tuple[int, ...]:
        """What makes two uses the same program's; without BTF at least the same socket's."""
        return self.user.program if self.user.start else (self.cookie,)


def parse_user(data: bytes) -> User | None:
    user = tuple.__new__(User, USER.unpack(data))
    return user if user.pid else None


def parse_record(data: Buffer, cookie: int) -> Record | None:
    """Return the record of `cookie`; None when the entry was given away while it was copied."""
    found, netns, descriptor, flags, creator, last, seal = RECORD.unpack_from(data)
    if found != cookie or seal != cookie:
        return None
    user = parse_user(last[:_TIME] + creator[_TIME:] if flags & _BY_CREATOR else last)
    return Record(netns, descriptor, creator, user, flags)


def parse_entry(data: Buffer, key: bytes) -> list[Use]:
    """Return the uses of the tuple `key`, the latest first, each by another program."""
    flow, now, before, seal = ENTRY.unpack_from(data)
    uses = [use for use in (_use(now), _use(before)) if use is not None]
    return uses if flow == key and uses and uses[0].cookie == seal else []


def flow_key(netns: int, flow: FlowKey) -> bytes:
    return FLOW.pack(netns, wide(flow.remote), flow.local_port, flow.remote_port, flow.protocol)


def departure_key(flow: FlowKey, cookie: int) -> bytes:
    ports = flow.local_port, flow.remote_port
    return DEPARTURE.pack(wide(flow.local), wide(flow.remote), *ports, flow.protocol, cookie)


def wide(address: bytes) -> bytes:
    """Return the 16 bytes by which an address is noted."""
    return MAPPED + address if len(address) == len(ANY4) else address


def _use(data: bytes) -> Use | None:
    cookie, local, user_data, kind, _ = USE.unpack(data)
    user = parse_user(user_data)
    return None if user is None else Use(cookie, local, user, kind)


def fits(use: Use, flow: FlowKey) -> bool:
    """Whether the socket could have sent from the flow's local address."""
    return use.local in (ANY6, wide(flow.local))
