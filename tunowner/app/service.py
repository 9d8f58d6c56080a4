"""The running engine: the one place where rules, backend, engine and loop are wired together."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Self

from tunowner.app.config import load_rules
from tunowner.app.context import Facts
from tunowner.app.events import Event, EventMaker, Reporter
from tunowner.app.judge import Judge
from tunowner.app.loop import PacketLoop
from tunowner.app.notify import notify
from tunowner.backends import open_backend
from tunowner.backends.base import EbpfSettings, GateSettings
from tunowner.core.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunowner.backends.base import Backend
    from tunowner.core.model import Decision, FlowKey
    from tunowner.core.rules import RuleSet

    Statistics = Callable[[], dict[str, int]]

_HANG_UP = getattr(signal, "SIGHUP", signal.SIGTERM)  # Windows has none
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, _HANG_UP)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What `tunowner run` was asked for. `mark_shift`: see GateSettings; `profile`: see Context."""

    rules: tuple[str, ...]
    dry_run: bool = False
    mark_shift: int = 24
    ebpf: EbpfSettings | None = field(default_factory=EbpfSettings)
    profile: str = ""


class Service:
    """One run of the engine, from rules to the last event."""

    def __init__(self, options: RunOptions, write: Callable[[Event], None]) -> None:
        self._options = options
        self._events = EventMaker()
        self._reporter = Reporter(write)
        self._names: Callable[[bytes], tuple[str, ...]] = lambda _: ()

    def run(self, backend: Backend | None = None) -> None:
        """Intercept until a signal ends it. Puts the system back whatever happens.

        Raises ConfigError, PrivilegeError or BackendError before anything is changed, and
        DeviceClosed when somebody takes the device away.
        """
        rules = load_rules(self._options.rules, restarted=True)
        backend = backend or open_backend()
        self._reporter.start()
        # A signal that comes while things are being put in place must not stop half-way.
        with _Ending() as ending, ExitStack() as undo:
            undo.callback(self._reporter.stop)
            plane = undo.enter_context(closing(backend.open_data_plane(self._settings(rules))))
            found = backend.open_owners(plane.interface_index, self._options.ebpf)
            owners = undo.enter_context(closing(found))
            told = backend.open_deaths(owners)
            deaths = undo.enter_context(closing(told))
            facts = undo.enter_context(closing(Facts(backend, self._options.profile)))
            facts.serve(rules)
            self._names = facts.hosts
            judge = Judge(rules, facts.context)
            engine = Engine(judge.decide, dry_run=self._options.dry_run)
            loop = PacketLoop(plane, owners, deaths, engine, judge, self._announce)
            undo.callback(loop.close)
            ready = {"device": plane.name, "rules": len(rules.rules), "pid": os.getpid()}
            undo.enter_context(ending.ends(loop))
            self._intercept(loop, ready, lambda: engine.statistics() | plane.statistics())

    def _settings(self, rules: RuleSet) -> GateSettings:
        strict = not (rules.only_direct or self._options.dry_run)
        return GateSettings(tuple(rules.outbounds.values()), self._options.mark_shift, strict)

    def _intercept(self, loop: PacketLoop, ready: dict[str, object], count: Statistics) -> None:
        self._tell("ready", **ready)
        notify("READY=1")
        try:
            loop.run()
        finally:
            notify("STOPPING=1")
            self._tell("stopped", statistics=count(), events_dropped=self._reporter.dropped)

    def _announce(self, flow: FlowKey, decision: Decision) -> None:
        if not decision.log:
            return
        host = next(iter(self._names(flow.remote)), None)
        self._reporter.put(partial(self._events.opened, flow, decision, time.time(), host))

    def _tell(self, event: str, **fields: object) -> None:
        dry = {"dry_run": True} if self._options.dry_run else {}
        self._reporter.put(partial(self._events.other, event, **fields, **dry))


class _Ending:
    """Turns the signals that end a program into `PacketLoop.stop`, also those before there is one."""

    def __init__(self) -> None:
        self._asked = False
        self._loop: PacketLoop | None = None
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        for number in _ENDING_SIGNALS:
            before = signal.getsignal(number)
            if number == _HANG_UP and before is signal.SIG_IGN:
                continue  # nohup(1) wants us to outlive the terminal
            self._undo.callback(signal.signal, number, before)
            signal.signal(number, self._end)
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    @contextmanager
    def ends(self, loop: PacketLoop) -> Iterator[None]:
        """Let signals stop `loop`; at once if there was one already."""
        self._loop = loop
        if self._asked:
            loop.stop()
        wakeup = signal.set_wakeup_fd(loop.wake_fileno, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)

    def _end(self, *_: object) -> None:
        self._asked = True
        if self._loop is not None:
            self._loop.stop()
