"""Why would a flow meet with what it meets? Of a flow that somebody describes, or of a process."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from tunowner.app.context import Facts
from tunowner.app.events import owner_fields
from tunowner.app.sockets import Wanted, address_text, list_sockets
from tunowner.backends import open_backend
from tunowner.core.model import PROTOCOL_NAMES, TCP, UDP, FlowKey, Grade, Owner, unmapped
from tunowner.core.rules.supposed import suppose

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tunowner.backends.base import Backend
    from tunowner.core.model import Connection, Process
    from tunowner.core.rules import Context, RuleSet, Step, Trace
    from tunowner.core.rules.trace import Miss

    Endpoint = tuple[str, int]

ROUNDS = 20
"""The first decision asks for what the others are told from memory; the fastest is the cost."""


@dataclass(frozen=True, slots=True)
class Explained:
    """One flow, what every rule says of it, and what the decision costs (microseconds)."""

    flow: FlowKey
    trace: Trace
    cost_us: float


@dataclass(frozen=True, slots=True)
class Question:
    """A flow that a living process has, or might open. What is None is not asked for.

    Without `to` all flows are meant that the process has open. `hosts` are the names of the remote
    address, which only a running engine could know.
    """

    pid: int
    to: Endpoint | None = None
    protocol: int | None = None
    profile: str = ""
    hosts: tuple[str, ...] = ()


def explain_supposed(rules: RuleSet, told: Mapping[str, Sequence[str]]) -> Explained:
    """Explain a flow that is described (see core.rules.supposed), and that need not exist.

    Raises BadValueError for the first thing told that makes no sense.
    """
    flow, owner, context = suppose(told)
    return _explained(rules, flow, owner, replace(context, now=time.time))


def explain_process(
    rules: RuleSet, question: Question, backend: Backend | None = None
) -> list[Explained] | None:
    """Explain the flows of a living process; None when there is no such process.

    A flow that is open has the owner that `run` would find, all who hold its socket. One that is
    not is explained as if the process opened it now.
    """
    backend = backend or open_backend()
    process = backend.open_inspector().process(question.pid)
    if process is None:
        return None
    facts = Facts(backend, question.profile)
    context = replace(facts.context, hosts=lambda _: question.hosts)  # nobody has listened to DNS
    flows = dict(_open_flows(backend, process, question))
    if not flows and question.to is not None:
        flow = _flow(question.protocol or TCP, question.to)
        flows[flow] = _shared(backend, process, flow)
    return [_explained(rules, flow, owner, context) for flow, owner in flows.items()]


def _explained(rules: RuleSet, flow: FlowKey, owner: Owner, context: Context) -> Explained:
    trace = rules.explain(flow, owner, context)
    fastest = float("inf")
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        rules.decide(flow, owner, context)
        fastest = min(fastest, time.perf_counter() - begun)
    return Explained(flow, trace, fastest * 1e6)


def _open_flows(
    backend: Backend, process: Process, question: Question
) -> Iterator[tuple[FlowKey, Owner]]:
    for row in _held(backend, process):
        wanted = question.protocol in (None, row.protocol) and row.remote_port
        if not wanted or (question.to and _remote(row) != _plain(question.to)):
            continue
        here, there = unmapped(row.local), unmapped(row.remote)
        flow = FlowKey(row.protocol, here, row.local_port, there, row.remote_port)
        local = address_text(here), row.local_port
        name = PROTOCOL_NAMES[row.protocol]
        yield flow, backend.find_process(name, *local, remote=_remote(row))


def _held(backend: Backend, process: Process) -> list[Connection]:
    """Return the sockets that this very process holds."""
    rows = list_sockets(Wanted(pid=process.pid), backend)
    return [row for row in rows if any(it.process[:2] == process[:2] for it in row.holders)]


def _remote(row: Connection) -> Endpoint:
    return address_text(unmapped(row.remote)), row.remote_port


def _plain(end: Endpoint) -> Endpoint:
    """Return an end with its address as `_remote` writes it."""
    return address_text(unmapped(ip_address(end[0]).packed)), end[1]


def _flow(protocol: int, to: Endpoint) -> FlowKey:
    remote = unmapped(ip_address(to[0]).packed)
    return FlowKey(protocol, bytes(len(remote)), 0, remote, to[1])


def _shared(backend: Backend, process: Process, flow: FlowKey) -> Owner:
    """Return the owner of a flow that would begin now: whoever shares a UDP socket is one too."""
    if flow.protocol == UDP:
        for row in _held(backend, process):
            if row.protocol == UDP and not row.remote_port:
                holders = tuple(it.process for it in row.holders)
                return Owner(Grade.WILDCARD, holders, row.uid, cookie=row.cookie)
    return Owner(Grade.EXACT, (process,), process.uid, process.user)


def explained_fields(explained: Explained) -> dict[str, Any]:
    """Return an explanation for machines. Keys are only ever added."""
    decision = explained.trace.decision
    flow = explained.flow
    return {
        "action": decision.action,
        "rule": decision.rule,
        "rule_file": decision.rule_file,
        "why": decision.why,
        "proto": flow.protocol_name,
        "src": flow.source if flow.local_port else None,
        "dst": flow.destination,
        "owner": _owner_fields(decision.owner),
        "steps": [_step_fields(step) for step in explained.trace.steps],
        "nearest": _miss_fields(explained.trace.nearest),
        "tags": list(decision.tags),
        "audited": [audited._asdict() for audited in decision.audited],
        "cost_us": round(explained.cost_us, 2),
    }


def _owner_fields(owner: Owner) -> dict[str, Any]:
    """Return the owner as in every event; a process that is only described has no number."""
    fields = owner_fields(owner)
    return fields if fields["pid"] != 0 else {**fields, "pid": None, "start": None}


def _step_fields(step: Step) -> dict[str, Any]:
    return {
        "rule": step.rule,
        "result": step.result,
        "because": step.because,
        "action": step.action,
        "mode": step.mode,
        "reached": step.reached,
        "file": step.place.file,
        "line": step.place.line,
    }


def _miss_fields(miss: Miss | None) -> dict[str, Any] | None:
    if miss is None:
        return None
    return {
        "rule": miss.rule,
        "failing": list(miss.failing),
        "holding": miss.holding,
        "file": miss.place.file,
        "line": miss.place.line,
    }
