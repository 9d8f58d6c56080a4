from __future__ import annotations

import errno
import os
import resource
import socket
import struct
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunowner.backends.linux import netlink, sockdiag
from tunowner.backends.linux.bpf.exact import ExactDiag
from tunowner.backends.linux.sockdiag import SockDiag, SocketRow, rank, senders
from tunowner.core.model import TCP, UDP, FlowKey
from tunowner.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform != "linux":
    pytest.skip("NETLINK_SOCK_DIAG is Linux's", allow_module_level=True)

LOOPBACK = bytes((127, 0, 0, 1))
OTHER = bytes((127, 0, 0, 2))
PEER = bytes((198, 51, 100, 7))
MAPPED_LOOPBACK = sockdiag.MAPPED + LOOPBACK
UDP_FLOW = FlowKey(UDP, LOOPBACK, 4000, PEER, 53)
TCP_FLOW = FlowKey(TCP, LOOPBACK, 4000, PEER, 443)


@pytest.fixture(params=[SockDiag, ExactDiag])
def diag(request: pytest.FixtureRequest) -> Iterator[SockDiag]:
    with ExitStack() as stack:
        made = request.param()
        stack.callback(made.close)
        yield made


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def row(**changes: Any) -> SocketRow:
    plain = SocketRow(2, UDP, 7, LOOPBACK, 4000, bytes(4), 0, 0, 99, 0, 1)
    return plain._replace(**changes)


V6ONLY = netlink.pack_attribute(sockdiag.SKV6ONLY, b"\x01")
DUAL = netlink.pack_attribute(sockdiag.SKV6ONLY, b"\x00")


@pytest.mark.parametrize(
    ("candidate", "flow", "expected"),
    [
        (row(remote=PEER, remote_port=53, state=1), UDP_FLOW, 0),
        (row(remote=PEER, remote_port=54, state=1), UDP_FLOW, None),
        (row(remote=OTHER, remote_port=53, state=1), UDP_FLOW, None),
        (row(), UDP_FLOW, 1),
        (row(local=OTHER), UDP_FLOW, None),
        (row(local_port=4001), UDP_FLOW, None),
        (row(local=bytes(4)), UDP_FLOW, 2),
        (row(family=10, local=bytes(16), attributes=DUAL), UDP_FLOW, 3),
        (row(family=10, local=bytes(16), attributes=V6ONLY), UDP_FLOW, None),
        (row(family=10, local=MAPPED_LOOPBACK), UDP_FLOW, 1),
        (row(family=10, local=sockdiag.MAPPED + bytes(4)), UDP_FLOW, 2),
        (row(protocol=TCP), UDP_FLOW, None),
        (row(protocol=TCP), TCP_FLOW, None),
        (row(protocol=TCP, state=10), TCP_FLOW, None),
        (row(protocol=TCP, state=1, remote=PEER, remote_port=443), TCP_FLOW, 0),
        (row(protocol=TCP, state=2, remote=PEER, remote_port=443), TCP_FLOW, 0),
        (row(local=bytes(4)), UDP_FLOW._replace(local=bytes(16)), None),
        (row(family=10, local=bytes(16)), UDP_FLOW._replace(local=bytes(15) + b"\x01"), 2),
    ],
)
def test_rank(candidate: SocketRow, flow: FlowKey, expected: int | None) -> None:
    assert rank(candidate, flow) == expected


@pytest.mark.parametrize(
    ("bound", "device", "expected"), [(0, 5, 1), (5, 5, 1), (6, 5, None), (6, 0, 1)]
)
def test_rank_minds_the_device(bound: int, device: int, expected: int | None) -> None:
    assert rank(row(interface=bound), UDP_FLOW, device) == expected


def test_a_connected_sender_rules_out_the_others() -> None:
    connected = row(remote=PEER, remote_port=53, cookie=2)
    assert senders([row(), connected, row(local=bytes(4), cookie=3)], UDP_FLOW) == [connected]


def test_unconnected_senders_are_all_kept_best_first_whatever_their_order() -> None:
    rows = [row(cookie=1), row(cookie=2, local=bytes(4)), row(cookie=3, family=10, local=bytes(16))]
    assert senders(reversed(rows), UDP_FLOW) == rows


def test_a_socket_listed_twice_counts_once() -> None:
    assert len(senders([row(), row()], UDP_FLOW)) == 1


class TestKernel:
    """What the running kernel does; each fact that sockdiag.py builds on."""

    def test_self_check(self, diag: SockDiag) -> None:
        diag.self_check()

    def test_udp_needs_its_ends_swapped(self, diag: SockDiag) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wild:
            wild.bind(("", 0))
            flow = FlowKey(UDP, LOOPBACK, wild.getsockname()[1], LOOPBACK, 9)
            found = diag.exact(flow)
            assert found is not None
            assert found.inode == inode(wild)
            natural = FlowKey(UDP, flow.remote, flow.remote_port, flow.local, flow.local_port)
            assert diag.lookup(natural) is None

    def test_connected_udp(self, diag: SockDiag) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", 9))
            found = diag.exact(FlowKey(UDP, LOOPBACK, sock.getsockname()[1], LOOPBACK, 9))
            assert found is not None
            assert (found.inode, found.state) == (inode(sock), sockdiag.ESTABLISHED)
            assert diag.sockets(FlowKey(UDP, LOOPBACK, sock.getsockname()[1], LOOPBACK, 10)) == []

    @pytest.mark.parametrize("twin", ["v4", "mapped", "elsewhere"])
    def test_udp_sockets_connected_between_the_same_ports(self, diag: SockDiag, twin: str) -> None:
        family = socket.AF_INET6 if twin == "mapped" else socket.AF_INET
        local = {"v4": "127.0.0.1", "mapped": "::ffff:127.0.0.1", "elsewhere": "127.0.0.2"}[twin]
        remote = "::ffff:127.0.0.9" if twin == "mapped" else "127.0.0.9"
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
            socket.socket(family, socket.SOCK_DGRAM) as two,
        ):
            for sock in (one, two):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            one.connect(("127.0.0.9", 9))
            flow = FlowKey(UDP, LOOPBACK, port, bytes((127, 0, 0, 9)), 9)
            for interface in (0, 1):
                assert [it.inode for it in diag.sockets(flow, interface)] == [inode(one)]
            two.bind((local, port))
            two.connect((remote, 9))
            both = {inode(one)} if twin == "elsewhere" else {inode(one), inode(two)}
            for interface in (0, 1):
                assert {it.inode for it in diag.sockets(flow, interface)} == both

    @pytest.mark.parametrize("interface", [0, 1])
    def test_a_listener_is_never_the_answer(self, diag: SockDiag, interface: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            flow = FlowKey(TCP, LOOPBACK, server.getsockname()[1], PEER, 9)
            raw = diag.lookup(flow, 1)
            assert raw is not None
            assert raw.state == sockdiag.LISTEN
            assert diag.sockets(flow, interface) == []

    def test_v6only_does_not_match_ipv4(self, diag: SockDiag) -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(("::", 0))
            port = sock.getsockname()[1]
            assert diag.sockets(FlowKey(UDP, LOOPBACK, port, PEER, 9)) == []
            assert (
                len(diag.sockets(FlowKey(UDP, bytes(15) + b"\x01", port, bytes(15) + b"\x02", 9)))
                == 1
            )

    def test_dual_stack_matches_ipv4(self, diag: SockDiag) -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::", 0))
            (found,) = diag.sockets(FlowKey(UDP, LOOPBACK, sock.getsockname()[1], PEER, 9))
            assert found.inode == inode(sock)

    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
    def test_v4_mapped(self, diag: SockDiag, kind: Any) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.socket(socket.AF_INET6, kind) as sock,
        ):
            port = server.getsockname()[1]
            sock.connect(("::ffff:127.0.0.1", port))
            protocol = TCP if kind == socket.SOCK_STREAM else UDP
            flow = FlowKey(protocol, LOOPBACK, sock.getsockname()[1], LOOPBACK, port)
            for interface in (0, 1):
                (found,) = diag.sockets(flow, interface)
                assert found.inode == inode(sock)

    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
    def test_a_socket_bound_to_a_device(self, diag: SockDiag, kind: Any) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.socket(socket.AF_INET, kind) as sock,
        ):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
            port = server.getsockname()[1]
            sock.connect(("127.0.0.1", port))
            protocol = TCP if kind == socket.SOCK_STREAM else UDP
            flow = FlowKey(protocol, LOOPBACK, sock.getsockname()[1], LOOPBACK, port)
            assert diag.exact(flow, 0) is None
            for interface in (0, socket.if_nametoindex("lo")):
                assert [found.inode for found in diag.sockets(flow, interface)] == [inode(sock)]
            assert diag.sockets(flow, 999) == []

    def test_cookie_and_control_group(self, diag: SockDiag) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            (found,) = diag.sockets(FlowKey(UDP, LOOPBACK, sock.getsockname()[1], PEER, 9))
            assert found.cookie == struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, 57, 8))[0]
            assert found.uid == os.getuid()

    def test_five_thousand_sockets_through_a_small_buffer(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < 6000:
            pytest.skip("needs 6000 descriptors")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 6000), hard))
        diag = SockDiag(buffer_size=512)
        try:
            with ExitStack() as stack:
                mine = set()
                for _ in range(5000):
                    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    sock.bind(("127.0.0.1", 0))
                    mine.add(inode(sock))
                assert mine <= {found.inode for found in diag.dump(UDP, 0)}
        finally:
            diag.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_a_stale_answer_is_not_taken(self, diag: SockDiag) -> None:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second,
        ):
            for sock in (first, second):
                sock.bind(("127.0.0.1", 0))
            ends = (PEER, 9, LOOPBACK, first.getsockname()[1])
            for _ in range(3):  # asked and never read
                diag._socket.send(sockdiag.make_request(2, UDP, 1, ends, 0, 12345))
            found = diag.exact(FlowKey(UDP, LOOPBACK, second.getsockname()[1], PEER, 9))
            assert found is not None
            assert found.inode == inode(second)

    def test_an_unfinished_dump_does_not_disturb_the_next_question(self, diag: SockDiag) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            diag._socket.send(
                sockdiag.make_request(2, UDP, 0x301, (bytes(4), 0, bytes(4), 0), 0, 777)
            )
            assert inode(sock) in {found.inode for found in diag.dump(UDP, sock.getsockname()[1])}

    def test_a_closed_socket_raises_oserror(self) -> None:
        diag = SockDiag()
        diag.close()
        with pytest.raises(OSError):
            diag.sockets(TCP_FLOW)


class Peer:
    """A kernel that answers each question with the next of the given datagrams."""

    def __init__(self, *answers: bytes | int) -> None:
        self._answers = list(answers)
        self.asked = 0
        self._sequence = 0

    def send(self, request: bytes) -> int:
        self.asked += 1
        self._sequence = netlink.HEADER.unpack_from(request)[3]
        return len(request)

    def recv_into(self, buffer: memoryview, _size: int, _flags: int) -> int:
        if not self._answers:
            raise BlockingIOError(errno.EAGAIN, "nothing")
        answer = self._answers.pop(0)
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        answer = answer.replace(b"SEQ!", self._sequence.to_bytes(4, sys.byteorder))
        buffer[: len(answer)] = answer[: len(buffer)]
        return len(answer)

    def close(self) -> None:
        pass


def diag_of(peer: Peer) -> SockDiag:
    connect: Any = lambda: peer  # noqa: E731
    return SockDiag(connect=connect)


def exact_diag_of(peer: Peer) -> SockDiag:
    made: Any = ExactDiag()
    made._connect = lambda: peer
    made._reopen()
    return cast("SockDiag", made)


def reply(kind: int, body: bytes, flags: int = 0) -> bytes:
    return (
        netlink.HEADER.pack(16 + len(body), kind, flags, 0, 0).replace(
            struct.pack("=HHI", kind, flags, 0), struct.pack("=HH", kind, flags) + b"SEQ!", 1
        )
        + body
    )


BODY = struct.pack(
    "=BBBB2s2s16s16sIIIIIIII",
    2,
    1,
    0,
    0,
    b"\x0f\xa0",
    b"\x01\xbb",
    LOOPBACK,
    PEER,
    0,
    5,
    0,
    0,
    0,
    0,
    7,
    42,
)
GOOD = reply(sockdiag.SOCK_DIAG_BY_FAMILY, BODY)
DONE = reply(netlink.NLMSG_DONE, struct.pack("=i", 0))
INTERRUPTED = reply(sockdiag.SOCK_DIAG_BY_FAMILY, BODY, netlink.NLM_F_DUMP_INTR)


def test_the_fake_peer_is_understood() -> None:
    found = diag_of(Peer(GOOD)).exact(TCP_FLOW)
    assert found is not None
    assert (found.inode, found.uid, found.cookie) == (42, 7, 5)


def test_a_reply_about_another_socket_is_refused() -> None:
    assert diag_of(Peer(GOOD)).exact(TCP_FLOW._replace(local=OTHER)) is None
    assert diag_of(Peer(GOOD)).exact(TCP_FLOW._replace(remote=OTHER)) is None
    assert diag_of(Peer(GOOD)).exact(TCP_FLOW._replace(local_port=1)) is None


@pytest.mark.parametrize(
    "passing", [errno.ENOBUFS, errno.EAGAIN, errno.EINTR, errno.ENOMEM, errno.EBUSY]
)
def test_a_passing_error_is_asked_again(passing: int) -> None:
    peer = Peer(passing, GOOD)
    assert diag_of(peer).exact(TCP_FLOW) is not None
    assert peer.asked == 2


def test_an_interrupted_dump_is_asked_again() -> None:
    peer = Peer(INTERRUPTED, GOOD, DONE)
    assert len(diag_of(peer).dump(TCP, 4000, (2,))) == 1
    assert peer.asked == 2


def test_a_peer_that_never_answers_is_given_up() -> None:
    peer = Peer()
    with pytest.raises(OSError, match="no whole answer"):
        diag_of(peer).exact(TCP_FLOW)
    assert peer.asked == sockdiag.ATTEMPTS


def test_a_peer_that_answers_other_questions_only_is_given_up() -> None:
    with pytest.raises(OSError):
        diag_of(Peer(*[GOOD.replace(b"SEQ!", b"\xff" * 4)] * 1000)).exact(TCP_FLOW)


def test_done_with_an_error_is_an_error() -> None:
    failed = reply(netlink.NLMSG_DONE, struct.pack("=i", -errno.EPERM))
    with pytest.raises(PermissionError):
        diag_of(Peer(failed)).dump(TCP, 4000, (2,))


def test_udp_is_not_alone_where_the_kernel_does_not_say_all() -> None:
    flow = UDP_FLOW._replace(remote_port=443)
    row = reply(sockdiag.SOCK_DIAG_BY_FAMILY, BODY, netlink.NLM_F_MULTI)
    done, failed, interrupted = (
        reply(netlink.NLMSG_DONE, struct.pack("=i", code), netlink.NLM_F_MULTI | flags)
        for code, flags in ((0, 0), (-errno.EPERM, 0), (0, netlink.NLM_F_DUMP_INTR))
    )
    assert len(exact_diag_of(Peer(GOOD, row, done, done)).sockets(flow)) == 1
    with pytest.raises(PermissionError):
        exact_diag_of(Peer(GOOD, row, done, failed, GOOD, row, done, failed)).sockets(flow)
    other = row.replace(struct.pack("=II", 5, 0), struct.pack("=II", 6, 0))
    for doubt in ([row, done, interrupted], [row, other, done, done], [row + other], [row[:60]]):
        peer = Peer(GOOD, *doubt, GOOD, row, other, done, done)
        found = exact_diag_of(peer).sockets(flow)
        assert {it.cookie for it in found} == {5, 6}, doubt


def test_a_missing_module_is_named() -> None:
    none = reply(netlink.NLMSG_ERROR, struct.pack("=i", -errno.ENOENT))
    with pytest.raises(BackendError, match="modprobe tcp_diag"):
        diag_of(Peer(*[none] * 9)).self_check()


@given(st.integers(0, len(GOOD)))
def test_every_truncation_is_refused(length: int) -> None:
    datagrams = [GOOD[:length]] * 9
    if length < len(GOOD):
        with pytest.raises(OSError):
            diag_of(Peer(*datagrams)).exact(TCP_FLOW)


@given(st.lists(st.binary(max_size=200), max_size=6), st.binary(max_size=120))
def test_any_bytes_raise_nothing_but_oserror(datagrams: list[bytes], body: bytes) -> None:
    for answers in (datagrams, [reply(20, body)], [reply(2, body)], [reply(3, body), *datagrams]):
        with suppress(OSError):
            diag_of(Peer(*answers)).dump(TCP, 4000)


@given(st.binary(max_size=100), st.integers(0, 120), st.integers(0, 120))
def test_walking_attributes_never_raises(data: bytes, start: int, end: int) -> None:
    list(netlink.iter_attributes(data, start, end))
    list(netlink.iter_messages(data))


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=20)), max_size=5))
def test_attributes_survive_packing(attributes: list[tuple[int, bytes]]) -> None:
    data = b"".join(netlink.pack_attribute(kind, payload) for kind, payload in attributes)
    assert list(netlink.iter_attributes(data, 0, len(data))) == attributes
