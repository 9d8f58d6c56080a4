"""The whole engine on the memory backend: from rule files and packets to events."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.app.helpers import CURL, flow_of, syn, wait_for
from tunowner.app.config import load_rules
from tunowner.app.judge import Judge
from tunowner.app.service import RunOptions, Service
from tunowner.backends.memory import Carried, MemoryBackend, MemoryOwners
from tunowner.core.model import (
    BLOCK,
    DIRECT,
    DROP,
    Grade,
    InterfaceOutbound,
    Owner,
    Process,
    ProcessDetails,
)
from tunowner.core.rules import Context
from tunowner.errors import ConfigError, DeviceClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunowner.app.events import Event

RULES = """
version: 1
outbounds: { vpn: { type: interface, name: wg0 } }
rules:
  - { name: no-curl, match: { app: curl }, action: block }
  - { name: others, match: any, action: vpn }
"""


class World:
    """A service on memory. The service wants the main thread; what happens to it, another."""

    def __init__(self, rules: Path) -> None:
        self.rules = str(rules)
        self.events: list[Event] = []
        self.backend = MemoryBackend(owners=MemoryOwners({flow_of(1): CURL}))

    def run(self, story: Callable[[], None], *, dry_run: bool = False, profile: str = "") -> None:
        """Run the service while `story` is told, which must end it."""
        service = Service(RunOptions((self.rules,), dry_run, profile=profile), self.events.append)
        teller = threading.Thread(target=self._tell, args=(story,))
        teller.start()
        try:
            service.run(self.backend)
        finally:
            teller.join()

    def wait_for_event(self, name: str) -> Event:
        wait_for(lambda: any(it["event"] == name for it in self.events), f"event {name}")
        return next(it for it in self.events if it["event"] == name)

    def _tell(self, story: Callable[[], None]) -> None:
        try:
            self.wait_for_event("ready")
            story()
        except BaseException:
            self.backend.plane.vanish()  # so that the test ends, and fails
            raise


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    world = World(file)
    yield world
    world.backend.plane.close()
    world.backend.deaths.close()


def end(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_a_run_from_ready_to_stopped(world: World) -> None:
    def story() -> None:
        world.backend.plane.offer(syn(1), syn(2))
        wait_for(lambda: len(world.backend.plane.carried) == 2, "two packets carried")
        end()

    world.run(story)
    assert world.backend.plane.carried == [
        Carried(syn(1), flow_of(1), BLOCK),
        Carried(syn(2), flow_of(2), "vpn"),
    ]
    ready, *opened, stopped = world.events
    assert (ready["device"], ready["rules"], ready["pid"]) == ("memory0", 2, os.getpid())
    assert [(it["event"], it["rule"], it["action"]) for it in opened] == [
        ("open", "no-curl", BLOCK),
        ("open", "others", "vpn"),
    ]
    assert stopped["event"] == "stopped"
    assert stopped["statistics"]["flows"] == stopped["statistics"]["carried"] == 2
    assert stopped["events_dropped"] == 0
    assert not any("dry_run" in it for it in world.events)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_and_their_handlers_come_back(world: World, number: signal.Signals) -> None:
    before = {it: signal.getsignal(it) for it in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    world.run(lambda: end(number))
    assert {it: signal.getsignal(it) for it in before} == before
    wakeup = signal.set_wakeup_fd(-1)
    assert wakeup == -1
    assert world.events[-1]["event"] == "stopped"


def test_a_second_signal_is_as_good_as_one(world: World) -> None:
    def story() -> None:
        for _ in range(20):
            end(signal.SIGINT)

    previous = signal.signal(signal.SIGINT, lambda *_: None)  # for those that come too late
    try:
        world.run(story)
    finally:
        signal.signal(signal.SIGINT, previous)
    assert [it["event"] for it in world.events] == ["ready", "stopped"]


def test_nohup_is_respected(world: World) -> None:
    def story() -> None:
        end(signal.SIGHUP)
        world.backend.plane.offer(syn(1))
        wait_for(lambda: len(world.backend.plane.carried) == 1, "a packet carried")
        end(signal.SIGTERM)

    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        world.run(story)
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_a_dry_run_decides_and_lets_everything_pass(world: World) -> None:
    def story() -> None:
        world.backend.plane.offer(syn(1))
        wait_for(lambda: len(world.backend.plane.carried) == 1, "a packet carried")
        end()

    world.run(story, dry_run=True)
    assert world.backend.plane.carried == [Carried(syn(1), flow_of(1), DIRECT)]
    ready, opened, stopped = world.events
    assert opened["action"] == BLOCK
    assert ready["dry_run"] is stopped["dry_run"] is True
    assert world.backend.plane.settings.strict is False


def test_rules_ask_for_details_routes_and_the_profile(world: World) -> None:
    Path(world.rules).write_text("""
version: 1
rules:
  - { name: quiet, match: { port: 1, profile: home }, action: drop, log: false }
  - { name: packaged, match: { package: "deb:curl", interface: wg0, profile: home }, action: block }
""")
    details = ProcessDetails(CURL.candidates[0], package="deb:curl")
    world.backend.inspector.put(details)
    world.backend.interfaces[flow_of(1).remote] = "wg0"

    def story() -> None:
        world.backend.plane.offer(syn(1))
        world.wait_for_event("open")
        end()

    world.run(story, profile="home")
    opened = world.wait_for_event("open")
    assert (opened["action"], opened["rule"]) == ("block", "packaged")
    assert opened["why"] == "package 'deb:curl'; interface wg0; profile home"


def test_a_rule_may_keep_its_flows_out_of_the_log(world: World) -> None:
    quiet = "  - { name: quiet, match: { app: curl }, action: drop, log: false }\n"
    Path(world.rules).write_text(RULES.replace("rules:\n", f"rules:\n{quiet}"))

    def story() -> None:
        world.backend.plane.offer(syn(1), syn(2))  # the first is curl's
        world.wait_for_event("open")
        end()

    world.run(story)
    opened = [event for event in world.events if event["event"] == "open"]
    assert [event["rule"] for event in opened] == ["others"]


def test_the_gate_is_built_for_the_rules(world: World) -> None:
    world.run(end)
    settings = world.backend.plane.settings
    assert settings.outbounds == (InterfaceOutbound("vpn", "wg0"),)
    assert (settings.mark_shift, settings.strict) == (24, True)


def test_rules_that_only_let_pass_are_not_strict(world: World, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("version: 1\nrules: []\n")
    world.run(end)
    assert world.backend.plane.settings.strict is False


def test_a_device_that_is_taken_away_is_told_and_raised(world: World) -> None:
    with pytest.raises(DeviceClosed):
        world.run(world.backend.plane.vanish)
    assert [it["event"] for it in world.events] == ["ready", "stopped"]


def test_broken_rules_change_nothing(world: World, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("version: 7\n")
    with pytest.raises(ConfigError):
        Service(RunOptions((world.rules,)), world.events.append).run(world.backend)
    assert world.events == []
    assert world.backend.plane.intercepting


def test_after_the_end_nothing_is_intercepted(world: World) -> None:
    world.run(end)
    world.backend.plane.offer(syn(9))
    assert world.backend.plane.passed == [syn(9)]


class TestDecide:
    @pytest.fixture
    def rules(self, tmp_path: Path) -> str:
        file = tmp_path / "drop.yaml"
        file.write_text(
            "version: 1\ndefaults: {action: drop}\nrules: []\n",
        )
        return str(file)

    def owned(self, *pids: int, grade: Grade = Grade.EXACT) -> Owner:
        return Owner(grade, tuple(Process(pid, 1, "/bin/x") for pid in pids))

    def test_its_own_flows_never_wait_for_it(self, rules: str) -> None:
        decision = Judge(load_rules([rules]), Context()).decide(flow_of(1), self.owned(os.getpid()))
        assert (decision.action, decision.rule) == (DIRECT, None)
        assert "own" in decision.why

    def test_everybody_elses_go_by_the_rules(self, rules: str) -> None:
        loaded = load_rules([rules])
        for owner in (
            self.owned(os.getpid() + 1),
            self.owned(os.getpid(), os.getpid() + 1, grade=Grade.AMBIGUOUS),
            Owner(Grade.ABSENT),
        ):
            assert Judge(loaded, Context()).decide(flow_of(1), owner).action == DROP
