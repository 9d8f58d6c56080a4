"""What the benchmarks of the gate share: clients by rule, a server, and an engine nobody listens to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.backends.linux.bpf_cgroup import own_cgroup
from tests.lab.engine import ROOT
from tests.lab.processes import kill_group
from tests.lab.topology import SERVICE4, VPN
from tests.lab.wait import wait_until
from tests.lab.world import World, open_world

if TYPE_CHECKING:
    from collections.abc import Iterator

ECHO_PORT, SINK_PORT, CLOSED_PORT = 7100, 7101, 7102
PROGRAMS = Path(__file__).parent / "programs"
RULES = f"""
version: 1
outbounds:
  vpn: {{ type: interface, name: {VPN} }}
rules:
  - {{ name: goes-direct, match: {{ app: "direct-*" }}, action: direct }}
  - {{ name: goes-vpn, match: {{ app: "via-*" }}, action: vpn }}
  - {{ name: blocks, match: {{ app: "block-*" }}, action: block }}
"""


@dataclass
class Client:
    """A program of its own (see programs/client.py) that takes one order at a time."""

    name: str
    process: subprocess.Popen[str]

    def start(self, do: str, **order: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"do": do, "host": SERVICE4, **order}) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"{self.name} has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def order(self, do: str, **order: Any) -> dict[str, Any]:
        self.start(do, **order)
        return self.answer()


@dataclass
class RunningEngine:
    """`tunowner run --json` with its events in a file, as under a service manager."""

    process: subprocess.Popen[str]
    events: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu_seconds(self) -> float:
        """Return the processor time of all threads so far, to the nanosecond (schedstat)."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9

    def memory(self) -> dict[str, float]:
        """Return MiB: `rss`, and `uss`, which nobody else shares."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii")
        pairs = (line.split() for line in text.splitlines() if line.endswith(" kB"))
        size = {name.rstrip(":"): int(value) / 1024 for name, value, _ in pairs}
        return {"rss": size["Rss"], "uss": size["Private_Clean"] + size["Private_Dirty"]}

    def opened(self) -> list[dict[str, Any]]:
        """Return the events of flows so far."""
        with self.events.open(encoding="ascii") as file:
            events = [json.loads(line) for line in file if line.endswith("\n")]
        return [event for event in events if event["event"] == "open"]

    def stop(self) -> Counter[str]:
        """Stop it; return its counters."""
        self.process.send_signal(signal.SIGINT)
        status = self.process.wait(20.0)
        assert status == 0, f"the engine ended with {status}"
        with self.events.open(encoding="ascii") as file:
            last = json.loads(file.readlines()[-1])
        return Counter(last["statistics"] | {"events_dropped": last["events_dropped"]})


@dataclass
class Stage:
    """A lab world with a cheap server, and clients `direct`, `via` and `block` that stay alive."""

    world: World
    undo: ExitStack
    cgroup: Path

    def client(self, name: str) -> Client:
        """Start a client; rules go by what its name begins with."""
        app = self.world.app(name)
        program = app.path.with_name("client.py")
        if not program.exists():  # another client may be reading it
            program.write_bytes((PROGRAMS / "client.py").read_bytes())
        pipe = subprocess.PIPE
        process = app.popen("-S", str(program), stdin=pipe, stdout=pipe)
        self.undo.callback(kill_group, process)
        return Client(name, process)

    @contextmanager
    def engine(self, rules: str = RULES, root: Path = ROOT) -> Iterator[RunningEngine]:
        """Run the engine (of the checkout `root`) meanwhile; it may be stopped before the end."""
        command = self.command(rules)
        events = self.world.folder / "events.jsonl"
        with events.open("w") as sink:
            process = self.world.client.popen(
                command, env={"PYTHONPATH": str(root)}, stdin=subprocess.DEVNULL, stdout=sink
            )
        try:
            wait_until(lambda: "ready" in events.read_text(encoding="ascii"), "the engine")
            yield RunningEngine(process, events)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(20.0)
        finally:
            kill_group(process)

    def command(self, rules: str = RULES) -> list[str]:
        file = self.world.folder / "bench-rules.yaml"
        file.write_text(rules, encoding="utf-8")
        words = ["run", "--json", "--rules", str(file), "--cgroup", str(self.cgroup)]
        return [sys.executable, "-m", "tunowner", *words]

    def forget(self) -> None:
        """Let the kernel forget all flows, so that none is known when its port comes round again."""
        self.world.client.flush_conntrack()
        self.world.vpn.flush_conntrack()


@contextmanager
def open_stage() -> Iterator[Stage]:
    """Build a world for measuring; tear it down whatever happens."""
    with own_cgroup() as cgroup, open_world() as world, ExitStack() as undo:
        for limit in ("per_sec", "burst"):  # else the kernel refuses UDP in silence: 50 in 20 ms
            world.client.sysctl(f"net.ipv4.icmp_msgs_{limit}", 1_000_000)
        server = [sys.executable, "-S", str(PROGRAMS / "server.py")]
        ports = [SERVICE4, str(ECHO_PORT), str(SINK_PORT)]
        process = world.internet.popen([*server, *ports], stdout=subprocess.PIPE)
        undo.callback(kill_group, process)
        assert process.stdout
        assert process.stdout.readline() == "ready\n", "the server did not start"
        yield Stage(world, undo, cgroup)


@contextmanager
def processors_awake() -> Iterator[None]:
    """Let no processor sleep meanwhile (the kernel's Documentation/power/pm_qos_interface.rst)."""
    with Path("/dev/cpu_dma_latency").open("wb", buffering=0) as request:
        request.write(bytes(4))  # at most 0 us to wake up, for as long as it is open
        yield


def seconds_until_ready(stage: Stage) -> float:
    """Start the engine, return the time from exec to its event `ready`, and stop it."""
    begun = time.perf_counter()
    process = stage.world.client.popen(
        stage.command(),
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout
        assert '"ready"' in process.stdout.readline(), "the engine did not start"
        return time.perf_counter() - begun
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20.0)
        kill_group(process)
