"""A network namespace and a cgroup of the suite's own, and all contestants in them.

Nothing else opens sockets there, and nothing else is seen by our hooks. Without root there is
neither: the contestants that need no privilege then play on the machine as it is.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.accuracy import views
from tests.accuracy.baselines import baselines
from tests.accuracy.contestants import with_ebpf, without_ebpf
from tests.accuracy.model import Answer, Must, Unavailable, Verdict, View, is_root, judge
from tests.accuracy.stage import command, stage
from tests.backends.linux.bpf_cgroup import own_cgroup
from tunowner.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.accuracy.contestants import TunOwner
    from tests.accuracy.model import Contestant, Question, Scenario, Scores

CLONE_NEWNET = 0x40000000


class Arena:
    """Plays scenarios: each question is put to everybody twice, since memory may mislead."""

    def __init__(self, contestants: list[Contestant], scores: Scores, folder: Path) -> None:
        self.contestants = contestants
        self.scores = scores
        self.folder = folder
        scores.enter(each.name for each in contestants)

    def play(self, scenario: Scenario) -> dict[str, list[str]]:
        """Return what each of tunowner's got wrong, or did not know where it has to."""
        failures: dict[str, list[str]] = {}
        with stage(self.folder) as made:
            try:
                for number, question in enumerate(scenario.play(made), 1):
                    for name, what in self._put(scenario.name, question):
                        said = f"question {number}, {question.flow}: {name} {what}"
                        failures.setdefault(name, []).append(said)
            except Unavailable as reason:
                self.scores.unavailable[scenario.name] = str(reason)
                raise
        return failures

    def _put(self, row: str, question: Question) -> Iterator[tuple[str, str]]:
        for _ in range(2):
            for contestant, answer in self._answers(question):
                verdict = judge(question, answer, noted=contestant.notes)
                self.scores.add(row, contestant.name, verdict)
                if contestant.level is not None and not acceptable(
                    contestant.level, question, answer, verdict
                ):
                    what = f"is {verdict.value}: {answer}, not {question.holders}"
                    yield contestant.name, what

    def _answers(self, question: Question) -> Iterator[tuple[Contestant, Answer]]:
        if question.view is not View.SUITE:
            said = views.answers(question)
            yield from ((each, said[each.name]) for each in self.contestants if each.name in said)
            return
        for each in self.contestants:
            if not question.only_noted or each.notes:
                yield each, each.answer(question)


def acceptable(level: Must, question: Question, answer: Answer, verdict: Verdict) -> bool:
    """Whether one of ours may give this answer. To abstain needs a reason that is true."""
    if verdict is Verdict.ABSTAINED:
        return level not in question.must and answer.grade in question.grades
    return verdict is Verdict.RIGHT


@contextmanager
def arena(scores: Scores) -> Iterator[Arena]:
    with ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="tuo-acc-")))
        folder.chmod(0o755)
        if is_root():
            undo.enter_context(own_network())
        contestants: list[Contestant] = [*_with_ebpf(undo, scores)]
        contestants.insert(1, without_ebpf())
        for each in contestants:
            undo.callback(each.close)
        yield Arena([*contestants, *baselines()], scores, folder)


def _with_ebpf(undo: ExitStack, scores: Scores) -> list[TunOwner]:
    """Return those that note, none where that is not possible; in CI it has to be."""
    if not is_root():
        return []
    try:
        return with_ebpf(undo.enter_context(own_cgroup()))
    except BackendError as error:
        if os.environ.get("CI") == "true":
            raise
        scores.figures.append(f"without eBPF: {error}")
        return []


@contextmanager
def own_network() -> Iterator[None]:
    """Move this thread, and what it starts, into a network namespace; it goes with the last user."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _checked(libc.unshare(CLONE_NEWNET))
        command("ip", "link", "set", "lo", "up")
        yield
    finally:
        _checked(libc.setns(before, CLONE_NEWNET))
        os.close(before)


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
