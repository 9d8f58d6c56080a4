"""Decides flows by the rules; what takes long to ask is asked off the packet loop.

Reading the command line of a process takes a fraction of a millisecond, hashing its executable may
take half a second. The packet loop decides `at_once` what needs no such fact, or only those of
processes that were asked about before, since whoever tells them remembers the costly ones. All else
goes to the worker that walks for owners. Programs call the same few places again and again: where
the rules ask for nothing that changes, their answers are remembered.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from tunowner.core.model import DIRECT, Decision

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunowner.core.model import FlowKey, Owner, Process
    from tunowner.core.rules import Context, RuleSet

    T = TypeVar("T")
    Ask = Callable[[Process], T]

MAX_ANSWERS = 4_096
"""Owners and remote ends; about 2 MB."""
MAX_PROCESSES = 1_024
"""As many as an Inspector remembers."""


class _NotAtHandError(Exception):
    """A rule asks for a fact that nobody has asked for before."""


class Judge:
    """The rules and the facts they ask for. Any thread may ask."""

    def __init__(self, rules: RuleSet, context: Context) -> None:
        self._rules = rules
        self._answers: dict[tuple[object, ...], Decision] | None = {} if rules.is_steady else None
        described: set[Process] = set()
        hashed: set[Process] = set()
        self._context = replace(
            context,
            details=_noting(context.details, described),
            sha256=_noting(context.sha256, hashed),
        )
        self._at_hand = replace(
            context,
            details=_of_known(context.details, described),
            sha256=_of_known(context.sha256, hashed),
        )

    def decide(self, flow: FlowKey, owner: Owner) -> Decision:
        """Decide, however long the facts take."""
        return decide(self._rules, self._context, flow, owner)

    def at_once(self, flow: FlowKey, owner: Owner) -> Decision | None:
        """Decide if all facts are at hand; None when `decide` has to be asked."""
        if self._answers is not None:
            return self._remembered(self._answers, flow, owner)
        try:
            return decide(self._rules, self._at_hand, flow, owner)
        except _NotAtHandError:
            return None

    def _remembered(
        self, answers: dict[tuple[object, ...], Decision], flow: FlowKey, owner: Owner
    ) -> Decision:
        ends = (flow.protocol, flow.remote, flow.remote_port)
        key = (owner.grade, owner.candidates, owner.uid, owner.user, *ends)
        known = answers.get(key)
        if known is not None:
            return Decision(known.action, owner, *known[2:])
        if len(answers) >= MAX_ANSWERS:
            answers.clear()
        decision = answers[key] = self.decide(flow, owner)
        return decision


def decide(rules: RuleSet, context: Context, flow: FlowKey, owner: Owner) -> Decision:
    """Decide by the rules, except for this process itself: its flows must never wait for it."""
    process = owner.process
    if process is not None and process.pid == os.getpid():
        return Decision(DIRECT, owner, why="tunowner's own")
    return rules.decide(flow, owner, context)


def _noting(ask: Ask[T], asked: set[Process]) -> Ask[T]:
    def answer(process: Process) -> T:
        told = ask(process)
        if len(asked) >= MAX_PROCESSES:
            asked.clear()
        asked.add(process)
        return told

    return answer


def _of_known(ask: Ask[T], asked: set[Process]) -> Ask[T]:
    def answer(process: Process) -> T:
        if process not in asked:
            raise _NotAtHandError
        return ask(process)

    return answer
