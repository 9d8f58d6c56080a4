"""Answers made of what the kernel noted (owner.bpf.c). None where that is not certain.

Who opened a flow, and how that is known:
- TCP: the last caller of connect() on the socket. While the connection is being made (SYN_SENT) and
  after the socket was closed that is all there is to know. In between, the answer is who has the
  socket: the last caller, if a read of its descriptor table and of its executable says that it
  holds it still and runs the same program. Otherwise (passed on, dup2(), exec) /proc is asked.
- UDP by address (sendto): the sender of the last datagram of that very tuple.
- UDP connected: as TCP in the middle of its life, since send() on it is not seen by any hook.
- A connected socket that is gone: the last caller of connect() or sendto() on it.

A tuple may be used by one program after another, or by two at once. Which of them sent the packet in
hand is told by the device it was read from: the one socket that has sent such packets since the device
was last seen empty. Where that is not known, how long ago the packet was sent is not, either: then
both are named, `ambiguous`, unless the earlier use is long past compared with the later.

Without BTF a note tells the socket that was used, and not for certain the program that did: a pid may
have got another process or another program since. Then /proc is asked who has that very socket, and
nobody is named when it is gone.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tunowner.backends.linux.bpf.records import (
    CONNECTED,
    LEFT_BY_ANOTHER,
    NANOSECONDS,
    SENT,
    Use,
    fits,
    wide,
)
from tunowner.backends.linux.holders import Holder
from tunowner.core.model import TCP, UDP, Grade, Owner, Process

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunowner.backends.linux.bpf.loader import Reader
    from tunowner.backends.linux.bpf.programs import Programs
    from tunowner.backends.linux.bpf.records import Record, User
    from tunowner.backends.linux.procfs import Names
    from tunowner.backends.linux.sockdiag import SocketRow
    from tunowner.core.model import FlowKey

BACKEND = "ebpf"
SYN_SENT = 2
"""<net/tcp_states.h>"""
GONE_FOR = 30 * NANOSECONDS
"""A use longer ago cannot be what a packet in hand was sent by."""
BESIDE_FOR = NANOSECONDS
"""The same where another socket could have sent it, or this one again unseen."""
HANDOVER = NANOSECONDS // 4
"""Packets may wait so long until they are asked about."""
UNDER_WAY = NANOSECONDS // 10_000
"""A packet that is noted reaches the device's queue so much later at most."""
HANDOVER_FACTOR = 10
"""The earlier of two uses is ruled out when it is so many times as long ago."""


class NoWitness:
    """What is asked of a witness, and the answers of one that saw nothing."""

    def answer(
        self,
        flow: FlowKey,  # noqa: ARG002
        row: SocketRow | None,  # noqa: ARG002
        names: Names,  # noqa: ARG002
        since: float | None = None,  # noqa: ARG002
    ) -> Owner | None:
        """Answer for the one socket that the kernel would hand a reply of this flow to, if any.

        `since`: see OwnerSource.quick.
        """
        return None

    def narrow(
        self,
        flow: FlowKey,  # noqa: ARG002
        rows: list[SocketRow],
        since: float | None = None,  # noqa: ARG002
    ) -> list[SocketRow]:
        """Leave those of the sockets `rows` that may have sent the flow; none: another one may have."""
        return rows

    def gone(self, flow: FlowKey, names: Names) -> Owner | None:  # noqa: ARG002
        """Answer for a flow that no socket is left of."""
        return None

    def last_user(self, row: SocketRow, names: Names) -> Owner | None:  # noqa: ARG002
        """Answer for a connected socket that was closed while its holder was sought."""
        return None

    def holders(self, row: SocketRow) -> tuple[Holder, ...]:  # noqa: ARG002
        """Return where the socket is held by its last user or creator, for /proc's way."""
        return ()

    def likely(self, rows: Iterable[SocketRow]) -> frozenset[int]:  # noqa: ARG002
        """Return the pids of the last users of these sockets, to order by."""
        return frozenset()

    def survey(self) -> None:
        """Look around for the paths of programs, where an answer has none. Not for the loop."""


class Witness(NoWitness):
    """For one thread. `programs` may be shared."""

    def __init__(self, reader: Reader, programs: Programs) -> None:
        self._reader = reader
        self._programs = programs

    def answer(
        self, flow: FlowKey, row: SocketRow | None, names: Names, since: float | None = None
    ) -> Owner | None:
        begun = time.monotonic()
        if row is not None and row.connected:
            return self._connected(flow, row, names, begun, since)
        if flow.protocol == UDP:
            return self._used(flow, row, names, begun, since)
        return None

    def gone(self, flow: FlowKey, names: Names) -> Owner | None:
        return self._used(flow, None, names, time.monotonic(), None)

    def narrow(
        self, flow: FlowKey, rows: list[SocketRow], since: float | None = None
    ) -> list[SocketRow]:
        cookies = {row.cookie for row in rows}
        uses = self._sent(flow) if flow.protocol == UDP else []
        strangers = self._strangers(uses, cookies)
        if len(cookies | strangers) == 1:
            return rows
        sender = self._sender(flow, cookies | strangers, since)
        if sender is None and not strangers and self._recent(uses[:1], BESIDE_FOR):
            sender = uses[0].cookie if len(self._recent(uses, HANDOVER)) < 2 else None
        if sender is None:
            return [] if strangers else rows
        return [row for row in rows if row.cookie == sender]

    def _strangers(self, uses: list[Use], cookies: set[int]) -> set[int]:
        """Return sockets that used the tuple lately and are not there any more."""
        lately = self._recent(uses[:1], BESIDE_FOR) + self._recent(uses[1:], HANDOVER)
        return {use.cookie for use in lately} - cookies

    def _recent(self, uses: list[Use], age: int) -> list[Use]:
        now = self._reader.now() if uses else 0
        return [use for use in uses if now - use.user.time < age]

    def _sender(self, flow: FlowKey, cookies: Iterable[int], since: float | None) -> int | None:
        """Return the one of these sockets that the packet in hand is from, if that is known."""
        if since is None or not self._reader.sees_departures:
            return None
        begin = self._reader.monotonic(since) - UNDER_WAY
        if self._reader.departed_untold() >= begin:
            return None
        sent = [each for each in set(cookies) if self._reader.departed(flow, each) >= begin]
        return sent[0] if len(sent) == 1 else None

    def last_user(self, row: SocketRow, names: Names) -> Owner | None:
        record = self._reader.socket(row.cookie)
        if record is None or record.last is None or not row.connected:
            return None
        process = self._programs.opener(record.last, names)
        if process is None:
            return None
        detail = f"closed since; {record.last.comm} opened it"
        return _made((process,), row.uid, row.cookie, names, time.monotonic(), detail)

    def holders(self, row: SocketRow) -> tuple[Holder, ...]:
        record = self._reader.socket(row.cookie)
        if record is None or record.descriptor < 0:
            return ()
        link = b"fd/%d" % record.descriptor
        for user in (record.last, record.creator):
            process = None if user is None else self._programs.process(user)
            if process is not None and process.holds(link, row.inode):
                return (Holder(process.pid, link),)
        return ()

    def likely(self, rows: Iterable[SocketRow]) -> frozenset[int]:
        records = (self._reader.socket(row.cookie) for row in rows)
        return frozenset(record.last.pid for record in records if record and record.last)

    def survey(self) -> None:
        self._programs.survey()

    def _connected(
        self, flow: FlowKey, row: SocketRow, names: Names, begun: float, since: float | None
    ) -> Owner | None:
        record = self._reader.socket(row.cookie)
        if record is None or record.last is None:
            return None
        if flow.protocol == TCP and (row.state == SYN_SENT or not row.inode):
            opener = self._programs.opener(record.last, names)
            candidates = [] if opener is None else [opener]
        else:
            candidates = self._holding(record, record.last, row, names)
        if not candidates:
            return None
        if flow.protocol == UDP:
            own = Use(row.cookie, wide(flow.local), record.last, SENT)
            uses = self._uses(flow)
            rivals = self._rivals(uses, own)
            if rivals:
                sent = self._of_sender(flow, [own, *rivals], since)
                if sent != [own]:
                    return self._by_uses(flow, sent, row, names, begun)
            if record.bound or any(_is_twin(use, own) for use in uses):
                return None  # another socket may be connected just so: the kernel's table tells
        detail = "" if row.inode else "closed since"
        return _made(
            tuple(candidates), row.uid if row.inode else None, row.cookie, names, begun, detail
        )

    def _holding(self, record: Record, user: User, row: SocketRow, names: Names) -> list[Process]:
        """Return the last user, then the creator, if they hold the socket; nothing without the first."""
        link = b"fd/%d" % record.descriptor
        last = self._programs.holder(user, link, row.inode, names)
        if last is None:
            return []
        creator = None if record.by_creator else record.creator
        if creator is None or creator.process == user.process:
            return [last]
        other = self._programs.holder(creator, link, row.inode, names)
        return [last] if other is None else [last, other]

    def _rivals(self, uses: list[Use], own: Use) -> list[Use]:
        """Return uses of the tuple by other programs just before."""
        others = [use for use in uses if use.kind != CONNECTED and use.program != own.program]
        return self._recent(others, HANDOVER)

    def _uses(self, flow: FlowKey) -> list[Use]:
        return [use for use in self._reader.flow(flow) if fits(use, flow)]

    def _sent(self, flow: FlowKey) -> list[Use]:
        return [use for use in self._uses(flow) if use.kind != CONNECTED]

    def _of_sender(self, flow: FlowKey, uses: list[Use], since: float | None) -> list[Use]:
        """Leave only the uses of the socket that the packet in hand is from, if that is known."""
        cookie = self._sender(flow, (use.cookie for use in uses), since)
        return uses if cookie is None else [use for use in uses if use.cookie == cookie]

    def _used(
        self,
        flow: FlowKey,
        row: SocketRow | None,
        names: Names,
        begun: float,
        since: float | None,
    ) -> Owner | None:
        """Answer by the uses of the tuple itself; `row` is a socket that may be theirs, or not."""
        uses = self._sent(flow)
        if not uses:
            return None
        now, first, rest = self._reader.now(), uses[0], uses[1:]
        age = now - first.user.time
        if age > (GONE_FOR if row is None else BESIDE_FOR):
            return None
        window = HANDOVER + HANDOVER_FACTOR * age
        rivals = [use for use in rest if now - use.user.time < window]
        if rivals:
            sent = self._of_sender(flow, [first, *rivals], since)
            return self._by_uses(flow, sent, row, names, begun)
        return self._by_uses(flow, [first], row, names, begun)

    def _by_uses(
        self,
        flow: FlowKey,
        uses: list[Use],
        row: SocketRow | None,
        names: Names,
        begun: float,
    ) -> Owner | None:
        """Name the user if there is one; None when that is left to /proc."""
        first = uses[0]
        if len(uses) > 1 or (flow.protocol == UDP and first.kind == LEFT_BY_ANOTHER):
            return self._ambiguous([use.user for use in uses], first.cookie, names, begun)
        process = self._programs.opener(first.user, names)
        if process is None:
            return None
        detail = "" if process.path else f"{first.user.comm} has exited"
        uid = row.uid if row and row.cookie == first.cookie else self._socket_user(first)
        return _made((process,), uid, first.cookie, names, begun, detail)

    def _socket_user(self, use: Use) -> int | None:
        record = self._reader.socket(use.cookie)
        return None if record is None or record.creator is None else record.creator.uid

    def _ambiguous(self, users: list[User], cookie: int, names: Names, begun: float) -> Owner:
        found = (self._programs.opener(user, names) for user in users)
        candidates = tuple(dict.fromkeys(process for process in found if process is not None))
        detail = "the port has changed hands" if len(users) > 1 else "the socket has changed hands"
        return _made(candidates, None, cookie, names, begun, detail, Grade.AMBIGUOUS)


def _is_twin(use: Use, own: Use) -> bool:
    """Whether another socket was connected with the same ends. One of two was bound before that."""
    return use.kind == CONNECTED and use.cookie != own.cookie


def _made(
    candidates: tuple[Process, ...],
    uid: int | None,
    cookie: int,
    names: Names,
    begun: float,
    detail: str = "",
    grade: Grade = Grade.EXACT,
) -> Owner:
    now = time.monotonic()
    spent = int((now - begun) * 1e6)
    same_user = candidates and candidates[0].uid == uid
    user = candidates[0].user if same_user else names.name(uid)
    return Owner(grade, candidates, uid, user, cookie, BACKEND, now, spent, detail)
