"""Descriptor tables that are not where one looks first: threads, io_uring."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from tests.accuracy.model import Must, Scenarios, Unavailable
from tests.accuracy.stage import ask
from tests.backends.linux.children import packed
from tunowner.core.model import TCP, FlowKey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.accuracy.model import Question
    from tests.accuracy.stage import Actor, Stage

scenario = Scenarios()

SYS_EXIT = {"x86_64": 60, "aarch64": 93, "riscv64": 93}.get(platform.machine())


@scenario("connected by another thread")
def _(on: Stage) -> Iterator[Question]:
    code = """
a, = arguments()
def work(): s = tcp(a); tell(s); time.sleep(60)
threading.Thread(target=work, daemon=True).start(); wait()"""
    actor = on.start(code, on.server())
    yield on.asks(actor.sockets[0], actor)


@scenario("the first thread has exited")
def _(on: Stage) -> Iterator[Question]:
    if SYS_EXIT is None:
        raise Unavailable("number of exit(2) unknown here")
    code = f"""
a, who = *arguments(), me()
def leader(): return open('/proc/%d/stat' % os.getpid()).read().rpartition(')')[2].split()[0]
def work():
    while leader() != 'Z': os.sched_yield()
    s = tcp(a); u = udp(); send(u); tell(s, u, **who); time.sleep(60)
threading.Thread(target=work).start(); libc.syscall({SYS_EXIT}, 0)"""
    actor = on.start(code, on.server())
    program = on.told(actor)
    for truth in actor.sockets:
        yield on.asks(truth, program)


@scenario("thread with unshare(CLONE_FILES)")
def _(on: Stage) -> Iterator[Question]:
    code = """
a, = arguments()
def work():
    check(libc.unshare(0x400)); s = tcp(a); u = udp(); send(u); tell(s, u); time.sleep(60)
threading.Thread(target=work, daemon=True).start(); wait()"""
    actor = on.start(code, on.server())
    for truth in actor.sockets:
        yield on.asks(truth, actor)


@scenario("thread with unshare(CLONE_FILES), the process closed its copy")
def _(on: Stage) -> Iterator[Question]:
    """The copied table holds the socket at the same number, the table of the process does not."""
    code = """
a, = arguments(); s = tcp(a); ready, closed = threading.Event(), threading.Event()
def work(): check(libc.unshare(0x400)); ready.set(); closed.wait(); tell(s); time.sleep(60)
threading.Thread(target=work, daemon=True).start()
ready.wait(); os.close(s.fileno()); r, w = os.pipe(); closed.set(); wait()"""
    actor = on.start(code, on.server())
    yield on.asks(actor.sockets[0], actor)


RING = """
import mmap, struct
class Ring:
    def __init__(self):
        p = (ctypes.c_uint8 * 120)(); self.fd = libc.syscall(425, 4, ctypes.byref(p))
        if self.fd < 0: tell(unavailable=os.strerror(ctypes.get_errno())); wait(); sys.exit()
        n, cn, _, _, _, features = struct.unpack_from('=6I', p)
        head, self.tail, mask, _, _, _, self.array = struct.unpack_from('=7I', p, 40)
        size = max(self.array + 4 * n, struct.unpack_from('=6I', p, 80)[5] + 16 * cn)
        self.ring = mmap.mmap(self.fd, size); self.cq = struct.unpack_from('=6I', p, 80)
        self.sqes = mmap.mmap(self.fd, 64 * n, offset=0x10000000)
    def do(self, op, flags, fd, off, addr, length, index=0):
        sqe = struct.pack('=BBHiQQIIQHHiQQ', op, flags, 0, fd, off, addr, length, 0, 1, 0, 0, index, 0, 0)
        self.sqes[:64] = sqe; tail, = struct.unpack_from('=I', self.ring, self.tail)
        struct.pack_into('=I', self.ring, self.array + 4 * (tail & 3), 0)
        struct.pack_into('=I', self.ring, self.tail, tail + 1)
        check(libc.syscall(426, self.fd, 1, 1, 1, None, 0))
        head, = struct.unpack_from('=I', self.ring, self.cq[0])
        result, = struct.unpack_from('=8xi', self.ring, self.cq[5] + 16 * (head & self.cq[2]))
        struct.pack_into('=I', self.ring, self.cq[0], head + 1)
        return check(result)
def address(a):
    data = struct.pack('=H', 2) + struct.pack('!H', a[1]) + socket.inet_aton(a[0]) + bytes(8)
    return ctypes.create_string_buffer(data, 16)
a, = arguments(); ring = Ring(); to = address(a); at = ctypes.addressof(to)
"""
"""io_uring(7) by its system calls: setup, one operation at a time, wait for its end."""


def _ring(on: Stage, code: str, *arguments: object) -> tuple[Actor, FlowKey]:
    """Start a program with a ring. Its connection is seen where it arrives."""
    listener = on.listener()
    actor = on.start(RING + code, listener.getsockname(), *arguments)
    if "unavailable" in actor.said:
        raise Unavailable(f"io_uring: {actor.said['unavailable']}")
    with listener.accept()[0] as accepted:
        here, there = accepted.getsockname(), accepted.getpeername()
        on.keep(accepted.dup())
    return actor, FlowKey(TCP, packed(there[0]), there[1], packed(here[0]), here[1])


@scenario("io_uring: connect")
def _(on: Stage) -> Iterator[Question]:
    code = "s = socket.socket(); ring.do(16, 0, s.fileno(), 16, at, 0); tell(s); wait()"
    actor, flow = _ring(on, code)
    yield ask(flow, actor)


@scenario("io_uring: connect by a worker thread")
def _(on: Stage) -> Iterator[Question]:
    """IOSQE_ASYNC: the kernel's own thread calls connect() for the process."""
    code = "s = socket.socket(); ring.do(16, 16, s.fileno(), 16, at, 0); tell(s); wait()"
    actor, flow = _ring(on, code)
    yield ask(flow, actor)


@scenario("io_uring: a datagram")
def _(on: Stage) -> Iterator[Question]:
    """IORING_OP_SENDMSG takes a `struct msghdr`."""
    code = """
s = udp(); to = address(SINK); data = ctypes.create_string_buffer(b'x', 1); at = ctypes.addressof
part = ctypes.create_string_buffer(struct.pack('=QQ', at(data), 1), 16)
m = ctypes.create_string_buffer(struct.pack('=QI4xQQQQI4x', at(to), 16, at(part), 1, 0, 0, 0), 56)
ring.do(9, 0, s.fileno(), 0, at(m), 1); tell(s); wait()"""
    actor = on.start(RING + code, on.server())
    if "unavailable" in actor.said:
        raise Unavailable(f"io_uring: {actor.said['unavailable']}")
    yield on.asks(actor.sockets[0], actor)


@scenario("io_uring: socket without a descriptor")
def _(on: Stage) -> Iterator[Question]:
    code = """
slots = (ctypes.c_int * 2)(-1, -1); check(libc.syscall(427, ring.fd, 2, ctypes.byref(slots), 2))
ring.do(45, 0, 2, 1, 0, 0, index=1); ring.do(16, 1, 0, 16, at, 0); tell(); wait()"""
    actor, flow = _ring(on, code)
    # No table has it: that looks as if the search had missed the holder, so nobody is named.
    yield ask(flow, actor, must=Must.NOBODY)
