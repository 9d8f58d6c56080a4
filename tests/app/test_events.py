"""Flow events (schema tunowner.flow/1) and the thread that writes them."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.app.helpers import CURL, flow_of, wait_for
from tests.core import packets as p
from tunowner.app import events
from tunowner.app.events import Event, EventMaker, Reporter, owner_fields
from tunowner.core.model import UDP, Audited, Decision, Grade, Owner, Process

if TYPE_CHECKING:
    from collections.abc import Callable

EVENT_KEYS = [
    *("schema", "event", "ts", "flow", "proto", "src", "dst", "host", "owner"),
    *("action", "rule", "rule_file", "why", "lookup_us", "tags", "audited"),
]
OWNER_KEYS = ["grade", "backend", "pid", "start", "name", "path", "uid", "user"]


class TestOpened:
    def test_every_field_of_the_schema(self) -> None:
        owner = Owner(Grade.EXACT, CURL.candidates, lookup_us=31)
        decision = Decision("vpn", owner, "the rule", "rules/a.yaml", "app is curl")
        event = EventMaker().opened(p.flow(UDP, ipv6=True), decision, at=1234.5)
        assert event.pop("flow")
        assert event == {
            "schema": "tunowner.flow/1",
            "event": "open",
            "ts": 1234.5,
            "proto": "udp",
            "src": "[2001:db8::1]:40000",
            "dst": "[2001:db8:5::5]:53",
            "host": None,
            "owner": {
                "grade": "exact",
                "backend": "",
                "pid": 812,
                "start": 1,
                "name": "curl",
                "path": "/usr/bin/curl",
                "uid": 1000,
                "user": "ana",
            },
            "action": "vpn",
            "rule": "the rule",
            "rule_file": "rules/a.yaml",
            "why": "app is curl",
            "lookup_us": 31,
            "tags": [],
            "audited": [],
        }

    def test_what_rules_left_on_a_flow(self) -> None:
        audited = (Audited("try", "block"),)
        decision = Decision("direct", CURL, tags=("web", "tls"), audited=audited)
        event = EventMaker().opened(p.flow(), decision, at=1.0)
        assert event["tags"] == ["web", "tls"]
        assert event["audited"] == [{"rule": "try", "action": "block"}]

    @pytest.mark.parametrize("grade", list(Grade))
    @pytest.mark.parametrize("holders", [(), CURL.candidates, (Process(1, 1), Process(2, 2))])
    def test_the_keys_are_always_there_and_json(
        self, grade: Grade, holders: tuple[Process, ...]
    ) -> None:
        event = EventMaker().opened(flow_of(1), Decision("direct", Owner(grade, holders)), 0.0)
        assert list(event) == EVENT_KEYS
        assert list(event["owner"])[: len(OWNER_KEYS)] == OWNER_KEYS
        assert json.loads(json.dumps(event)) == event

    def test_every_flow_has_an_id_of_its_own(self) -> None:
        maker = EventMaker()
        decision = Decision("direct", CURL)
        ids = {maker.opened(flow_of(1), decision, 0.0)["flow"] for _ in range(100)}
        assert len(ids) == 100

    def test_a_path_that_is_no_utf8_can_be_written_as_json(self) -> None:
        owner = Owner(Grade.EXACT, (Process(1, 1, "/tmp/\udcff\x1b[31m\u202e"),))
        text = json.dumps(EventMaker().opened(flow_of(1), Decision("direct", owner), 0.0))
        assert text.encode().decode("ascii").isprintable()
        assert json.loads(text)["owner"]["name"] == "\udcff\x1b[31m\u202e"


class TestOwnerFields:
    def test_an_ambiguous_owner_names_nobody_and_lists_all(self) -> None:
        holders = (Process(1, 1, "/bin/a", 0, "root"), Process(2, 2, None, 1, "ana"))
        fields = owner_fields(Owner(Grade.AMBIGUOUS, holders, uid=5, user="eve"))
        assert fields == {
            **dict.fromkeys(("pid", "start", "name", "path")),
            "grade": "ambiguous",
            "backend": "",
            "uid": 5,
            "user": "eve",
            "candidates": [{"pid": 1, "path": "/bin/a"}, {"pid": 2, "path": None}],
        }

    def test_several_holders_of_one_socket_are_listed_beside_the_first(self) -> None:
        fields = owner_fields(Owner(Grade.EXACT, (Process(1, 1, "/bin/a"), Process(2, 2))))
        assert fields["pid"] == 1
        assert [it["pid"] for it in fields["candidates"]] == [1, 2]

    def test_one_holder_needs_no_list(self) -> None:
        assert "candidates" not in owner_fields(CURL)

    def test_an_unknown_process_leaves_the_sockets_user(self) -> None:
        fields = owner_fields(Owner(Grade.UID_ONLY, uid=1000, user="ana"))
        assert (fields["pid"], fields["uid"], fields["user"]) == (None, 1000, "ana")


class TestOther:
    def test_it_says_what_it_is_told(self) -> None:
        event = EventMaker().other("ready", device="tun0", rules=3)
        assert event.pop("ts") > 0
        expected = {"schema": "tunowner.flow/1", "event": "ready", "device": "tun0", "rules": 3}
        assert event == expected


def numbered(number: int) -> Callable[[], Event]:
    return lambda: {"number": number}


class TestReporter:
    def test_it_writes_in_order_and_what_waits_at_the_end(self) -> None:
        written: list[Event] = []
        reporter = Reporter(written.append)
        for number in range(100):
            reporter.put(numbered(number))
        reporter.start()
        reporter.stop()
        assert [event["number"] for event in written] == list(range(100))
        assert reporter.dropped == 0

    def test_stopping_twice(self) -> None:
        reporter = Reporter(lambda _: None)
        reporter.start()
        reporter.stop()
        reporter.stop()

    def test_a_reader_that_stalls_stalls_nobody_and_costs_the_newest(self) -> None:
        go, written = threading.Event(), list[Any]()

        def write(event: Event) -> None:
            assert go.wait(10.0)
            written.append(event["number"])

        reporter = Reporter(write)
        for number in range(events.MAX_WAITING + 7):
            reporter.put(numbered(number))
        reporter.start()
        assert reporter.dropped == 7
        reporter.stop(patience_s=0.0)
        assert written == [], "stop does not wait for ever"
        go.set()
        wait_for(lambda: len(written) == events.MAX_WAITING, "all that was waiting")
        assert written == list(range(events.MAX_WAITING))
        reporter.stop()

    def test_events_are_worded_on_its_own_thread(self) -> None:
        worded_by: list[str] = []

        def word() -> Event:
            worded_by.append(threading.current_thread().name)
            return {}

        reporter = Reporter(lambda _: None)
        reporter.start()
        reporter.put(word)
        reporter.stop()
        assert worded_by == ["events"]

    def test_a_reader_that_has_gone_costs_its_events_only(self) -> None:
        written: list[Event] = []

        def write(event: Event) -> None:
            if event["number"] < 3:
                raise BrokenPipeError
            written.append(event)

        reporter = Reporter(write)
        reporter.start()
        for number in range(5):
            reporter.put(numbered(number))
        reporter.stop()
        assert [event["number"] for event in written] == [3, 4]
        assert reporter.dropped == 3
