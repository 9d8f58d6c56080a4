"""A running `tunowner run --json` in the client."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab.processes import kill_group

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.namespace import Namespace

Event = dict[str, Any]
ROOT = Path(__file__).parents[2]


@dataclass
class Engine:
    """The process, and the events it has written so far."""

    process: subprocess.Popen[str]
    errors: Path
    events: list[Event] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    """Lines of standard output that are no JSON."""

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        return self.errors.read_text(encoding="utf-8", errors="replace")

    @property
    def stopped(self) -> Event:
        """The last event, which holds the statistics; call `stop` before."""
        return self.wait_for_event("stopped")

    def wait_for(
        self, predicate: Callable[[Event], object], timeout: float = 10.0, what: str = "an event"
    ) -> Event:
        """Return the first event, past or to come, for which `predicate` is true."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._first(predicate), timeout)
            found = self._first(predicate)
        if found is None:
            raise AssertionError(self._report(what))
        return found

    def wait_for_event(self, name: str, timeout: float = 10.0, **fields: object) -> Event:
        """Wait for `{"event": name, ...}` with these fields."""
        wanted = {"event": name, **fields}
        return self.wait_for(
            lambda event: wanted.items() <= _plain(event).items(), timeout, str(wanted)
        )

    def matching(self, **fields: object) -> list[Event]:
        """Return the events so far that have these fields."""
        with self._changed:
            return [event for event in self.events if fields.items() <= _plain(event).items()]

    def stop(self, timeout: float = 10.0, how: signal.Signals = signal.SIGINT) -> int:
        """Ask it to stop; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self._await_end(timeout)

    def kill(self) -> None:
        """SIGKILL: no chance to clean up."""
        self.process.kill()
        self._await_end(10.0)

    def _await_end(self, timeout: float) -> int:
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            kill_group(self.process)
            raise AssertionError(self._report(f"its end within {timeout:g} s")) from None
        self._reader.join(timeout)
        return self.process.returncode

    def close(self) -> None:
        """Stop it if it runs, so that it cleans up, and let go of its output."""
        if self.process.poll() is None:
            self.stop()
        self._reader.join(10.0)
        kill_group(self.process)

    def _first(self, predicate: Callable[[Event], object]) -> Event | None:
        return next((event for event in self.events if predicate(event)), None)

    def _report(self, what: str) -> str:
        if self._ended:  # its output has; it will itself in a moment
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(5.0)
        state = f"exit status {self.process.poll()}"
        tail = [*self.text[-20:], *map(str, self.events[-20:])]
        return f"engine: waited in vain for {what}; {state}; stdout: {tail}; stderr: {self.stderr}"

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._changed:
                self._take(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _take(self, line: str) -> None:
        try:
            self.events.append(json.loads(line))
        except ValueError:
            self.text.append(line)


def _plain(event: Event) -> dict[str, object]:
    """Return the fields that can be compared as a set of items."""
    return {key: value for key, value in event.items() if not isinstance(value, (dict, list))}


def start_engine(
    client: Namespace,
    folder: Path,
    rules: str,
    arguments: tuple[str, ...],
    *,
    as_json: bool,
    prefix: tuple[str, ...] = (),
) -> Engine:
    """Write the rules to a file in `folder` and start the engine with them.

    `prefix` is a command that runs the words after it (`env A=b`, `setpriv ...`).
    Its eBPF programs would see the whole machine, so it has none without a `--cgroup` of the test's.
    """
    file, errors = folder / "rules.yaml", folder / "stderr"
    file.write_text(rules, encoding="utf-8")
    command = [*prefix, sys.executable, "-m", "tunowner", "run", "--rules", str(file)]
    command += ["--json"] * as_json + list(arguments)
    command += ["--no-ebpf"] * ("--cgroup" not in arguments)
    with errors.open("w") as sink:
        process = client.popen(
            command,
            env={"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=sink,
        )
    return Engine(process, errors)
