"""Questions whose answer is known, answers, and what an answer is worth."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import Enum, Flag, auto
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tunowner.core.model import Grade

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.accuracy.stage import Stage
    from tunowner.core.model import FlowKey

DELETED = " (deleted)"


class Program(NamedTuple):
    """A process while it ran one program; `start` is field 22 of /proc/PID/stat."""

    pid: int
    start: int
    path: str

    @classmethod
    def of(cls, pid: int) -> Program:
        """Ask /proc. For a process that the scenario knows to be there."""
        path = str(Path(f"/proc/{pid}/exe").readlink())
        return cls(pid, start_of(pid), path.removesuffix(DELETED))


def start_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


class Must(Flag):
    """Which contestants of ours have to name the process; the others may abstain."""

    NOBODY = 0
    PLAIN = auto()
    """Without eBPF."""
    EBPF = auto()
    ALL = PLAIN | EBPF
    """Also with eBPF on a kernel without BTF."""


class View(Enum):
    """Who asks. A contestant that cannot be had there does not take part."""

    SUITE = "the suite itself"
    NOBODY = "an unprivileged user"
    HIDDEN = "an unprivileged user, /proc mounted with hidepid=2"


@dataclass(frozen=True)
class Question:
    """Who opened `flow`? Any of `holders` is right; if `or_nobody`, "no process" is right too.

    No holders: no process did, and naming one is wrong. `interface` is the index of the device
    that the packet left by, 0 if unknown. `sender`: the one holder that those who note it must name. `grades`: when one of ours abstains, it is for this.
    `since`: the packet was sent after this moment of time.monotonic(), as the gate knows it.
    `only_noted`: nothing is left that could tell, so that only those are asked who note.
    """

    flow: FlowKey
    holders: tuple[Program, ...]
    must: Must = Must.ALL
    or_nobody: bool = False
    interface: int = 0
    sender: Program | None = None
    grades: frozenset[Grade] = frozenset(Grade)
    view: View = View.SUITE
    only_noted: bool = False
    since: float | None = None


@dataclass(frozen=True)
class Answer:
    """The process that a contestant names, or no `pid` and the reason as a grade."""

    pid: int | None = None
    path: str | None = None
    start: int | None = None
    grade: Grade = Grade.ABSENT
    detail: str = ""


class Verdict(Enum):
    RIGHT = "right"
    WRONG = "wrong"
    ABSTAINED = "abstained"


NO_PROCESS = (Grade.ABSENT, Grade.KERNEL, Grade.CLOSED)
"""Answers that claim that no process has the socket."""


def judge(question: Question, answer: Answer, *, noted: bool = False) -> Verdict:
    """Judge an answer; `noted`: of one who can tell the sender from other holders."""
    if answer.pid is not None:
        by_note = (question.sender,) if noted and question.sender else ()
        fits = any(_is(answer, holder) for holder in by_note or question.holders)
        return Verdict.RIGHT if fits else Verdict.WRONG
    if (question.or_nobody or not question.holders) and answer.grade in NO_PROCESS:
        return Verdict.RIGHT
    return Verdict.ABSTAINED


def _is(answer: Answer, holder: Program) -> bool:
    """What is not told is not held against the answer; a wrong path or start is."""
    return (
        answer.pid == holder.pid
        and answer.start in (None, holder.start)
        and answer.path in (None, holder.path)
    )


@dataclass
class Tally:
    """Verdicts counted."""

    right: int = 0
    wrong: int = 0
    abstained: int = 0

    def add(self, verdict: Verdict) -> None:
        setattr(self, verdict.value, getattr(self, verdict.value) + 1)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.right + other.right, self.wrong + other.wrong, self.abstained + other.abstained
        )

    def __str__(self) -> str:
        return f"{self.right}/{self.wrong}/{self.abstained}"


class Contestant(Protocol):
    name: str
    level: Must | None
    """It must be right where a question demands all of this; a baseline (None) never has to."""

    notes: bool
    """Whether it sees sockets being used: then it can tell a sender from other holders."""

    def answer(self, question: Question) -> Answer: ...

    def close(self) -> None: ...


class Unavailable(Exception):  # noqa: N818 - no error: the scenario cannot be played here
    """The kernel or Python here cannot do what the scenario needs."""


@dataclass(frozen=True)
class Scenario:
    """A row of the table. `play` yields its questions; between them it may change the world."""

    name: str
    play: Callable[[Stage], Iterator[Question]]
    root: bool = False


@dataclass
class Scenarios:
    """The rows of one file, in order; calling it with a name adds the function that follows."""

    rows: list[Scenario] = field(default_factory=list)

    def __call__(
        self, name: str, *, root: bool = False
    ) -> Callable[[Callable[[Stage], Iterator[Question]]], Callable[[Stage], Iterator[Question]]]:
        def add(
            play: Callable[[Stage], Iterator[Question]],
        ) -> Callable[[Stage], Iterator[Question]]:
            self.rows.append(Scenario(name, play, root))
            return play

        return add


@dataclass
class Scores:
    """The table: what each contestant got in each row. Rows that could not be played say why."""

    tallies: dict[str, dict[str, Tally]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    figures: list[str] = field(default_factory=list)
    contestants: list[str] = field(default_factory=list)

    def enter(self, names: Iterable[str]) -> None:
        self.contestants = list(names)

    def add(self, row: str, contestant: str, verdict: Verdict) -> None:
        self.tallies.setdefault(row, {}).setdefault(contestant, Tally()).add(verdict)

    def total(self, contestant: str) -> Tally:
        return sum((row[contestant] for row in self.tallies.values() if contestant in row), Tally())


def is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0
