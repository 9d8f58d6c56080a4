"""The owner of a flow on Linux: sock_diag names the socket, eBPF or /proc who opened or holds it.

Where the kernel's own notes (package `bpf`) name the program for certain, that is the answer, with
the backend `ebpf`. Everything else is found as follows, with the backend `procfs`; then the notes
only say where to look first, and which holder to name first.

What each grade means here:
- `exact` a connected socket, `wildcard` an unconnected one that is the only possible sender;
- `ambiguous` several sockets may have sent the flow and different programs hold them. Sockets of
  one program (same executable, user and command line) are no doubt about the program;
- `closed` no file refers to the socket any more; then the kernel says uid 0, which means nothing;
- `kernel` the socket lives and no process has it, also one not yet accepted by its listener;
- `denied` the same while some process could not be looked at, or sock_diag itself was refused;
- `uid-only` a holder was seen and had let go of the socket when looked at again.

The primary of several holders is the last that was noted to use the socket, then the one named
for it before, as long as it holds it. Otherwise the one that started first, since it opened what the others inherited, but after those
that open sockets only to hand them on (process 1, systemd, inetd).
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

from tunowner.backends.linux import procnet
from tunowner.backends.linux.bpf.exact import ExactDiag
from tunowner.backends.linux.bpf.witness import NoWitness
from tunowner.backends.linux.cgroups import CgroupPids
from tunowner.backends.linux.holders import Holder, Lru, Memory, Search
from tunowner.backends.linux.process import age
from tunowner.backends.linux.procfs import KnownNames, UserNames, describe
from tunowner.backends.linux.sockdiag import (
    CLOSE_WAIT,
    ESTABLISHED,
    SYN_RECV,
    SockDiag,
    SocketRow,
)
from tunowner.core.model import TCP, FlowKey, Grade, Owner, Process

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

    from tunowner.backends.linux.bpf.closings import Closings
    from tunowner.backends.linux.bpf.loader import OwnerMap
    from tunowner.backends.linux.procfs import Names

BACKEND = "procfs"
FLOWS = 16_384
"""Flows that may wait for a walk at a time."""


class LinuxOwners:
    """An `OwnerSource` for the network namespace it is made in.

    `interface` is the index of the device that flows are seen on, 0 if unknown. When it is known,
    a socket bound to another device is no candidate, and a missing TCP socket costs 8 us to tell
    instead of a dump (0.5 ms and more). `quick` is for one thread and `walk` for another.
    `bpf` is closed with it. Raises BackendError when the kernel cannot look sockets up.
    """

    def __init__(self, *, interface: int = 0, bpf: OwnerMap | None = None) -> None:
        self.interface = interface
        self._bpf = bpf
        self._near = ExactDiag()  # for `quick`
        self._far = SockDiag()  # for `walk`, which runs on another thread
        self._near_witness = NoWitness() if bpf is None else bpf.witness()
        self._far_witness = NoWitness() if bpf is None else bpf.witness()
        self._since: Lru[FlowKey, float] = Lru(FLOWS)
        self._memory = Memory()
        self._users = UserNames()
        self._groups = CgroupPids()
        try:
            self._near.self_check()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._near.close()
        self._far.close()
        self._memory.clear()
        if self._bpf is not None:
            self._bpf.close()

    def closings(self) -> Closings | None:
        """Start to tell of sockets that close, at once; None where that cannot be had."""
        return None if self._bpf is None else self._bpf.closings()

    def quick(self, flow: FlowKey, since: float | None = None) -> Owner | None:
        owner = self._quick(flow, since)
        if owner is None and since is not None and self._bpf is not None:
            self._since.put(flow, since)  # for the walk
        return owner

    def _quick(self, flow: FlowKey, since: float | None) -> Owner | None:
        names = KnownNames(self._users)
        witness = self._near_witness
        try:
            noted = self._noted(flow, self._near, witness, names, since)
            if noted is not None:
                return None if names.missed or _nameless(noted) else noted
            answer = _Answer(self._memory, names)
            rows = _living(procnet.sockets(self._near, flow, self.interface))
            answer.rows = witness.narrow(flow, rows, since)
        except OSError:
            return None
        if rows and not answer.rows:
            return answer.changed_hands()
        if answer.is_final:
            owner = self._final(answer, flow, witness, names)
            return None if names.missed or _nameless(owner) else owner
        for row in answer.rows:
            holders = self._recall(row)
            if not holders:
                return None
            answer.holders[row.inode] = holders
        answer.prefer(witness)
        owner = answer.owner()
        return owner if owner.candidates and not names.missed else None

    def _noted(
        self,
        flow: FlowKey,
        diag: SockDiag,
        witness: NoWitness,
        names: Names,
        since: float | None,
    ) -> Owner | None:
        if self._bpf is None:
            return None
        return witness.answer(flow, diag.exact(flow, self.interface), names, since)

    def _recall(self, row: SocketRow) -> tuple[Holder, ...]:
        """Find who holds a socket without a search: settled before, as noted, by guessing."""
        noted = () if self._memory.settled(row.cookie) else self._near_witness.holders(row)
        return noted or self._memory.recall(row.cookie, row.inode)

    @staticmethod
    def _final(answer: _Answer, flow: FlowKey, witness: NoWitness, names: Names) -> Owner:
        """Answer where no process holds a socket: by what was noted of a flow that is gone."""
        return (None if answer.rows else witness.gone(flow, names)) or answer.owner()

    def walk(self, flows: Sequence[FlowKey]) -> Iterator[tuple[FlowKey, Owner]]:
        """Answer all `flows` by one search. It does not trust memory, so it sees new holders too."""
        waiting: dict[FlowKey, _Answer] = {}
        nameless: list[FlowKey] = []
        for flow in dict.fromkeys(flows):
            found = self._ask(flow)
            if isinstance(found, _Answer):
                waiting[flow] = found
            elif _nameless(found):
                nameless.append(flow)
            else:
                yield flow, found
        yield from self._search(waiting)
        yield from self._survey(nameless)

    def _ask(self, flow: FlowKey) -> Owner | _Answer:
        """Return what the kernel knows of a flow: an owner, or sockets whose holders are sought."""
        answer = _Answer(self._memory, self._users)
        try:
            since = self._since.get(flow)
            owner = self._noted(flow, self._far, self._far_witness, self._users, since)
            if owner is None:
                rows = _living(procnet.sockets(self._far, flow, self.interface))
                answer.rows = self._far_witness.narrow(flow, rows, since)
        except OSError as error:
            return answer.refused(error)
        if owner is not None:
            return owner
        if rows and not answer.rows:
            return answer.changed_hands()
        if answer.is_final:
            return self._final(answer, flow, self._far_witness, self._users)
        answer.prefer(self._far_witness)
        return answer

    def _survey(self, nameless: Sequence[FlowKey]) -> Iterator[tuple[FlowKey, Owner]]:
        """Answer for processes that have gone, whose program may be running elsewhere."""
        if nameless:
            self._far_witness.survey()
        for flow in nameless:
            found = self._ask(flow)
            yield flow, found if isinstance(found, Owner) else found.without(Grade.ABSENT)

    def sockets(self, protocol: int, port: int) -> list[SocketRow]:
        """Return every socket bound to a local port, listeners included. Not for the loop."""
        return self._far.dump(protocol, port)

    def holders(self, rows: Sequence[SocketRow]) -> Owner:
        """Search the processes that hold any of `rows`, which are equally good. Not for the loop."""
        answer = _Answer(self._memory, self._users)
        answer.rows = _living(rows)
        if answer.is_final:
            return answer.owner()
        first = answer.rows[0]
        flow = FlowKey(
            first.protocol, first.local, first.local_port, first.remote, first.remote_port
        )
        return next(owner for _, owner in self._search({flow: answer}))

    def _search(self, waiting: Mapping[FlowKey, _Answer]) -> Iterator[tuple[FlowKey, Owner]]:
        """Yield an answer as soon as all of its sockets are found, the others after the pass."""
        left = dict(waiting)
        flows_of: dict[int, list[FlowKey]] = defaultdict(list)
        for flow, answer in waiting.items():
            for row in answer.rows:
                flows_of[row.inode].append(flow)
        search = self._new_search(list(left.values()))
        for inode in search.run():
            for flow in flows_of[inode]:
                answer = left[flow]
                answer.holders[inode] = tuple(search.found[inode])
                if len(answer.holders) == len(answer.rows):
                    owner = answer.owner()
                    if owner.candidates:
                        del left[flow]
                        yield flow, owner
        for flow, answer in left.items():
            yield flow, self._unresolved(answer, denied=search.denied)

    def _new_search(self, answers: Sequence[_Answer]) -> Search:
        rows = [row for answer in answers for row in answer.rows]
        noted = {pid for answer in answers for pid in answer.preferred}
        group = self._groups.pids({row.cgroup_id for row in rows}) if rows else ()
        return Search(
            self._memory,
            (row.inode for row in rows),
            users={row.uid for row in rows},
            likely=[*noted, *group],
        )

    def _unresolved(self, answer: _Answer, *, denied: bool) -> Owner:
        """Say why a search found no holder: ask the kernel whether the sockets still live."""
        if answer.holders:
            owner = answer.owner()
            if owner.candidates:
                return owner
            return answer.without(Grade.UID_ONLY)
        cookies = {row.cookie for row in answer.rows}
        first = answer.rows[0]
        try:
            now = procnet.still(self._far, first)
        except OSError as error:
            return answer.refused(error)
        if not any(row.inode and row.cookie in cookies for row in now):
            noted = self._far_witness.last_user(first, self._users)
            return noted if noted and len(answer.rows) == 1 else answer.without(Grade.CLOSED)
        # It lives and nobody was seen with it. Who opened it may have passed it on: no name then.
        return answer.without(Grade.DENIED if denied else Grade.KERNEL)


class _Answer:
    """An owner in the making: the sockets in question and who was seen holding them."""

    def __init__(self, memory: Memory, users: Names) -> None:
        self._memory = memory
        self._users = users
        self._begun = time.monotonic()
        self.rows: list[SocketRow] = []
        self.holders: dict[int, tuple[Holder, ...]] = {}
        self.preferred: frozenset[int] = frozenset()

    def prefer(self, witness: NoWitness) -> None:
        """Name those first who were noted to use the sockets last."""
        self.preferred = witness.likely(self.rows)

    @property
    def is_final(self) -> bool:
        """Whether the kernel's answer says that no process can be found."""
        return not self.rows or not self.rows[0].inode

    def owner(self) -> Owner:
        if not self.rows:
            return self.without(Grade.ABSENT)
        if self.is_final:
            return self._without_file(self.rows[0])
        groups = [group for row in self.rows if (group := self._processes(row))]
        candidates = tuple(dict.fromkeys(process for group in groups for process in group))
        if self._doubtful(groups):
            return self._made(
                Grade.AMBIGUOUS, candidates, f"{len(self.rows)} sockets share the port"
            )
        detail = f"{len(self.rows)} sockets of one program" if len(self.rows) > 1 else ""
        return self._made(_grade(self.rows[0]), candidates, detail)

    def without(self, grade: Grade, detail: str = "") -> Owner:
        return self._made(grade, (), detail)

    def changed_hands(self) -> Owner:
        """Say that a socket which is gone may have been the sender; who had it is not known."""
        return self.without(Grade.AMBIGUOUS, "the port has changed hands")

    def refused(self, error: OSError) -> Owner:
        return self._made(Grade.DENIED, (), f"sock_diag: {error.strerror}")

    def _without_file(self, row: SocketRow) -> Owner:
        if row.state in (ESTABLISHED, SYN_RECV, CLOSE_WAIT):
            return self.without(Grade.KERNEL, "not accepted by its listener yet")
        return self.without(Grade.CLOSED)

    def _made(self, grade: Grade, candidates: tuple[Process, ...], detail: str) -> Owner:
        uids = {row.uid for row in self.rows if row.inode}
        uid = uids.pop() if len(uids) == 1 else None
        now = time.monotonic()
        return Owner(
            grade,
            candidates,
            uid,
            self._users.name(uid),
            procnet.cookie(self.rows[0]) if len(self.rows) == 1 else None,
            BACKEND,
            now,
            int((now - self._begun) * 1e6),
            detail,
        )

    def _processes(self, row: SocketRow) -> list[Process]:
        """Describe the holders of one socket, the primary first, and remember them."""
        seen: dict[Holder, Process] = {}
        for holder in self.holders.get(row.inode, ()):
            process = self._memory.holding(holder, row.inode)
            if process is None:
                continue
            described = describe(process, holder.link, row.inode, self._users)
            if described is not None:
                self._memory.used(process, holder.link)
                seen[holder] = described
        if seen:
            before = self._memory.settled(row.cookie)[:1]

            def place(holder: Holder) -> tuple[bool, bool, bool, int, int]:
                unnoted = holder.pid not in self.preferred
                return unnoted, holder not in before, *age(seen[holder])

            order = sorted(seen, key=place)
            self._memory.settle(row.cookie, tuple(order))
            return list(dict.fromkeys(seen[holder] for holder in order))
        return []

    def _doubtful(self, groups: Sequence[Sequence[Process]]) -> bool:
        """Whether the sockets are held by different programs, or one of them by nobody known."""
        if any(procnet.may_be_the_kernels(row) for row in self.rows):
            return True
        if len(self.rows) == 1:
            return False
        if len(groups) < len(self.rows):
            return True
        holders = [holder for row in self.rows for holder in self.holders[row.inode]]
        pids = {holder.pid for holder in holders}
        return len(pids) > 1 and not self._one_program(holders)

    def _one_program(self, holders: Sequence[Holder]) -> bool:
        programs = set()
        for holder in dict.fromkeys(holders):
            process = self._memory.opened(holder.pid)
            program = None if process is None else process.program()
            if program is None:
                return False
            programs.add(program)
        return len(programs) == 1


def _nameless(owner: Owner) -> bool:
    """Whether a process is known, and its program is not."""
    for process in owner.candidates:  # no generator: this is asked for each flow  # noqa: SIM110
        if process.path is None:
            return True
    return False


def _living(rows: Sequence[SocketRow]) -> list[SocketRow]:
    """Leave out what no process can hold, unless there is nothing else."""
    return [row for row in rows if row.inode] or list(rows)


def _grade(row: SocketRow) -> Grade:
    return Grade.EXACT if row.connected or row.protocol == TCP else Grade.WILDCARD
