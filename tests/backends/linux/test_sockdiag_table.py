"""The whole table, read column by column, says the same as `SockDiag.dump` row by row."""

from __future__ import annotations

import errno
import struct
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.linux.test_sockdiag import DONE, Peer, diag_of, reply
from tunowner.backends.linux import netlink
from tunowner.backends.linux.sockdiag import AF_INET, AF_INET6, SOCK_DIAG_BY_FAMILY
from tunowner.backends.linux.sockdiag_table import Columns, TableDiag
from tunowner.core.model import TCP

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

WORD = st.integers(0, (1 << 32) - 1)
ADDRESS = st.binary(min_size=16, max_size=16)
PORT = st.binary(min_size=2, max_size=2)


def body(family: int, state: int, ends: tuple[bytes, ...], words: tuple[int, ...]) -> bytes:
    return struct.pack("=BBBB2s2s16s16s8I", family, state, 0, 0, *ends, *words)


BODIES = st.builds(
    body,
    st.just(0),
    st.integers(0, 255),
    st.tuples(PORT, PORT, ADDRESS, ADDRESS),
    st.tuples(*[WORD] * 8),
)
MESSAGES = st.builds(
    lambda body, more: reply(SOCK_DIAG_BY_FAMILY, body + bytes(4 * more), netlink.NLM_F_MULTI),
    BODIES,
    st.sampled_from([0, 2, 9]),
)
DATAGRAMS = st.lists(st.lists(MESSAGES, min_size=1, max_size=5).map(b"".join), max_size=4)


def table_of(*answers: bytes, family: int = AF_INET) -> Columns:
    peer = Peer(*answers)
    connect: Any = lambda: peer  # noqa: E731
    return TableDiag(connect=connect).table(TCP, family)


@given(DATAGRAMS, st.sampled_from([AF_INET, AF_INET6]), st.booleans())
def test_as_row_by_row(datagrams: list[bytes], family: int, done_apart: bool) -> None:  # noqa: FBT001
    datagrams = [_of_family(each, family) for each in datagrams]
    answers = (
        [*datagrams, DONE] if done_apart else [*datagrams[:-1], b"".join(datagrams[-1:]) + DONE]
    )
    rows = diag_of(Peer(*answers)).dump(TCP, 0, (family,))
    columns = table_of(*answers, family=family)
    expected = [
        (it.state, it.local, it.local_port, it.remote, it.remote_port, it.cookie, it.uid, it.inode)
        for it in rows
    ]
    assert sorted(zip(*columns, strict=True)) == sorted(expected)


def _of_family(datagram: bytes, family: int) -> bytes:
    changed = bytearray(datagram)
    for message in netlink.iter_messages(datagram):
        changed[message.start] = family
    return bytes(changed)


ROW = reply(
    SOCK_DIAG_BY_FAMILY,
    body(AF_INET, 1, (b"\0\1", b"\0\2", bytes(16), bytes(16)), (0, 5, 0, 0, 0, 0, 7, 42)),
    netlink.NLM_F_MULTI,
)
STALE = ROW.replace(b"SEQ!", b"\xff" * 4)
INTERRUPTED = reply(SOCK_DIAG_BY_FAMILY, ROW[16:], netlink.NLM_F_MULTI | netlink.NLM_F_DUMP_INTR)


@pytest.mark.parametrize("spoilt", [STALE, INTERRUPTED, ROW + STALE, ROW[:-4], ROW + ROW[:40]])
def test_an_answer_with_holes_is_asked_for_again(spoilt: bytes) -> None:
    columns = table_of(spoilt, ROW + ROW, DONE)
    assert columns.inodes == [42, 42]


def test_an_error_is_raised() -> None:
    failed = reply(netlink.NLMSG_ERROR, struct.pack("=i", -errno.EPERM) + bytes(80))
    with pytest.raises(PermissionError):
        table_of(ROW, failed)


def test_what_was_told_twice_is_kept_once_as_it_was_last() -> None:
    earlier = bytearray(ROW)
    earlier[17] = 2
    columns = table_of(bytes(earlier) + ROW, DONE).once()
    assert (columns.cookies, columns.states) == ([5], [1])


@given(st.lists(st.binary(max_size=400), max_size=5), st.binary(max_size=200))
def test_any_bytes_raise_nothing_but_oserror(datagrams: list[bytes], rest: bytes) -> None:
    for answers in (datagrams, [ROW + rest], [reply(2, rest)], [reply(3, rest), *datagrams]):
        with suppress(OSError):
            table_of(*answers)
