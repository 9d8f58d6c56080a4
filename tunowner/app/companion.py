"""Owner and verdict for programs that have packets in hand: a VPN client, a proxy, a TUN loop.

    with Companion.load("rules/") as companion:          # a folder or a file, or several
        decision = companion.decide(packet)              # bytes or memoryview of one IP packet
        decision.action, decision.rule, decision.owner, decision.why
        companion.decide_flow("tcp", ("192.0.2.2", 51514), ("203.0.113.5", 443))
        companion.reload()                               # the same files; refused whole if wrong

A packet is one that this machine sends: its source is the socket whose owner is asked for. The
first packet of a flow costs an owner look-up, each further one a dictionary look-up (`core.known`).
A SYN with a new sequence number is a new flow, whatever is known of its ports.

Any thread may call any method. A flow that is new to several threads at once may be looked up more
than once; look-ups that need a walk over the processes share one.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, closing
from ipaddress import ip_address
from threading import Lock
from typing import TYPE_CHECKING

from tunowner.app.config import load_rules
from tunowner.app.context import Facts
from tunowner.app.find import check_question
from tunowner.app.judge import decide
from tunowner.app.resolver import OwnerResolver
from tunowner.backends import open_backend
from tunowner.core.ageing import Ageing
from tunowner.core.engine import FRAGMENT_S, MAX_FRAGMENTED
from tunowner.core.known import KnownFlows, lifetime, syn_sequence
from tunowner.core.lifetimes import Lifetimes
from tunowner.core.model import DIRECT, DROP, TCP, UDP, Decision, FlowKey, Grade, Owner, unmapped
from tunowner.core.packet import FragmentKey, Segment, destination, parse
from tunowner.errors import BackendError, TunOwnerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Self

    from tunowner.backends.base import Backend, SocketDeaths
    from tunowner.core.model import Outbound
    from tunowner.core.packet import Unreadable
    from tunowner.core.rules import RuleSet

    Endpoint = tuple[str, int]

DEATHS_S = 0.01
"""How often closed sockets are asked for: as soon after the fact as the kernel tells of them."""
_NEVER, _ALWAYS = float("inf"), float("-inf")


class Companion:
    """Rules, owners and a memory of known flows. Made by `load`; close it, or use `with`."""

    def __init__(
        self,
        rules: RuleSet,
        facts: Facts,
        resolver: OwnerResolver,
        deaths: SocketDeaths | None,
        *,
        paths: tuple[str, ...] = (),
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._facts = facts
        self._resolver = resolver
        self._deaths = deaths
        self._paths = paths
        self._timer = timer
        self._lock = Lock()
        self._known = KnownFlows()
        self._lifetimes = Lifetimes()
        self._fragments: Ageing[FragmentKey, Decision] = Ageing(MAX_FRAGMENTED, FRAGMENT_S)
        self._deaths_due = _NEVER if deaths is None else timer() + DEATHS_S
        self._closed = False

    @classmethod
    def load(
        cls,
        *paths: str | os.PathLike[str],
        interface: int = 0,
        profile: str = "",
        backend: Backend | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Load rule files and folders, and open the owner look-up of this system.

        `interface` is the index of the device that the packets are read from, 0 if unknown: a
        socket bound to it is looked up by it. `profile` is what the condition of that name asks
        for. Raises ConfigError with every finding, BackendError where this system cannot tell
        owners, and PrivilegeError where a rule asks for host names and DNS may not be looked at.
        """
        texts = tuple(os.fspath(path) for path in paths)
        rules = load_rules(texts, restarted=True)
        backend = backend or open_backend()
        with ExitStack() as undo:
            facts = undo.enter_context(closing(Facts(backend, profile)))
            facts.serve(rules)
            # A SYN asks for a new socket: that there was none a moment ago must not be the answer.
            resolver = OwnerResolver(
                interface=interface, backend=backend, timer=timer, absent_s=0.0
            )
            undo.pop_all()
        return cls(rules, facts, resolver, _open_deaths(backend), paths=texts, timer=timer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._known)} known flows"
        return f"<Companion: {len(self._rules.rules)} rules, {state}>"

    @property
    def rules(self) -> RuleSet:
        """The rules in force."""
        return self._rules

    @property
    def outbounds(self) -> Mapping[str, Outbound]:
        """What the names in `Decision.action` stand for, besides direct, block and drop."""
        return self._rules.outbounds

    def decide(self, packet: bytes | memoryview) -> Decision:
        """Return what happens to one IP packet that this machine sends, and why.

        Total over the bytes of a packet: one that names no flow (ICMP, say) is `direct`, one that
        is no IP packet, or a part of a datagram whose beginning was not seen, is `drop`; `why`
        says so. Flows of this very process are `direct`: they would go round for ever. Raises TunOwnerError once the companion is closed.
        """
        now = self._timer()
        if now < self._deaths_due:
            decision = self._known.follow(packet, now)
            if decision is not None:
                return decision
        return self._decide_thoroughly(packet, now)

    def decide_flow(self, protocol: str, source: Endpoint, target: Endpoint) -> Decision:
        """Return what happens to a flow of this machine that begins now: it is always looked up.

        `protocol` is "tcp" or "udp"; the ends are (address, port), `source` the local one. Further
        packets of the flow that are given to `decide` follow the answer. Raises TunOwnerError for
        what is no protocol, address or port, and once the companion is closed.
        """
        check_question(protocol, *source, target)
        if not source[0]:
            raise TunOwnerError("the local end needs an address")
        return self._look_up(_flow_key(protocol, source, target), None)

    def reload(self, *, apply_existing: bool = False) -> None:
        """Read the rule files again. Known flows keep their verdict unless `apply_existing`.

        Raises ConfigError with every finding, and what `load` raises for host names; the rules
        that were there stay in force then.
        """
        rules = load_rules(self._paths, before=self._rules)
        with self._lock:
            self._check_open()
            self._facts.serve(rules)
            self._rules = rules
            if apply_existing:
                self._known.clear()
                self._fragments = Ageing(MAX_FRAGMENTED, FRAGMENT_S)

    def close(self) -> None:
        """Give back what is open. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._deaths_due = _ALWAYS  # no packet takes the short way any more
            self._known.clear()
            if self._deaths is not None:
                self._deaths.close()
        self._facts.close()
        self._resolver.close()

    def _decide_thoroughly(self, packet: bytes | memoryview, now: float) -> Decision:
        parsed = parse(packet)
        with self._lock:
            self._check_open()
            self._read_deaths(now)
            if isinstance(parsed, FragmentKey):
                return self._fragments.get(parsed, now) or _stray_fragment()
            if not isinstance(parsed, Segment):
                return _names_no_flow(packet, parsed)
            decision = self._known.find(packet, parsed, now)
        if decision is None:
            decision = self._look_up(parsed.flow, syn_sequence(packet, parsed))
        if parsed.fragment is not None:
            with self._lock:
                self._fragments.put(parsed.fragment, decision, now)
        return decision

    def _look_up(self, flow: FlowKey, sequence: int | None) -> Decision:
        self._check_open()
        owner = self._resolver.resolve(flow)
        now = self._timer()
        with self._lock:
            self._check_open()
            decision = decide(self._rules, self._facts.context, flow, owner)
            told = self._is_told_of(flow, owner)
            self._known.put(flow, decision, sequence, lifetime(flow, owner, end_is_told=told), now)
            return decision

    def _is_told_of(self, flow: FlowKey, owner: Owner) -> bool:
        """Remember whose flow this is, if we will be told that its socket has closed."""
        if self._deaths is None or flow.protocol != UDP:
            return False
        over = self._lifetimes.decided(flow, owner.cookie)
        self._forget(other for other in over if other != flow)
        return flow not in over

    def _read_deaths(self, now: float) -> None:
        if self._deaths is None or now < self._deaths_due:
            return
        self._deaths_due = now + DEATHS_S
        cookies = self._deaths.read()
        if cookies is None:
            self._forget(self._lifetimes.lost_track())
        else:
            self._forget(flow for cookie in cookies for flow in self._lifetimes.closed(cookie))

    def _forget(self, flows: Iterable[FlowKey]) -> None:
        for flow in flows:
            self._known.forget(flow)

    def _check_open(self) -> None:
        if self._closed:
            raise TunOwnerError("the companion is closed", hint="Load another one")


def _open_deaths(backend: Backend) -> SocketDeaths | None:
    """Return what tells of closed UDP sockets, None where nothing does: they are asked for anew."""
    try:
        return backend.open_deaths()
    except BackendError:
        return None


def _flow_key(protocol: str, source: Endpoint, target: Endpoint) -> FlowKey:
    local, remote = (unmapped(ip_address(end[0]).packed) for end in (source, target))
    number = TCP if protocol == "tcp" else UDP
    return FlowKey(number, local, source[1], remote, target[1])


def _names_no_flow(packet: bytes | memoryview, reason: Unreadable) -> Decision:
    """Decide as the engine does: carried as without us, if there is anywhere to carry it to."""
    action = DROP if destination(packet) is None else DIRECT
    return Decision(action, Owner(Grade.ABSENT), why=f"{reason} packet: it names no flow")


def _stray_fragment() -> Decision:
    why = "a part of a datagram whose beginning was not seen"
    return Decision(DROP, Owner(Grade.ABSENT), why=why)
