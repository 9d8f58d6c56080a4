"""Three namespaces with servers in them: a client, the internet, and another way there."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.lab import topology
from tests.lab.apps import App, make_app
from tests.lab.arrivals import Arrivals
from tests.lab.engine import Engine, start_engine
from tests.lab.namespace import Namespace
from tests.lab.processes import kill_group
from tests.lab.wait import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ECHO_PORT, OTHER_ECHO_PORT = 7000, 7001
HTTP_PORT, DNS_PORT, IPERF_PORT = 8000, 53, 5201
PREFIX = "tuo-"
_SERVER = Path(__file__).parent / "programs" / "server.py"
_ADDRESSES = (topology.SERVICE4, topology.SERVICE6, topology.OTHER4, topology.OTHER6)
_REAPER = """
cat >/dev/null
for name; do
  test -e "/run/netns/$name" || continue
  for pid in $(ip netns pids "$name"); do kill -KILL "$pid"; done
  ip netns delete "$name"
done
rm -rf "$FOLDER"
"""


class Seen(NamedTuple):
    """A connection or datagram that a server has accepted."""

    proto: str
    peer: str
    peer_port: int
    to: str
    port: int


@dataclass
class World:
    """The namespaces and everything that runs in them. Made by `open_world`."""

    token: str
    folder: Path
    client: Namespace
    internet: Namespace
    vpn: Namespace
    engines: list[Engine] = field(default_factory=list)
    servers: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.arrivals = Arrivals(self.internet)
        self._log = self.folder / "server.jsonl"
        self._log_start = 0

    @property
    def namespaces(self) -> tuple[Namespace, Namespace, Namespace]:
        return self.client, self.internet, self.vpn

    def app(self, name: str, program: str = "python") -> App:
        """Return a program `name` of its own: a copy of python, or of a command such as curl."""
        folder = self.folder / "apps"
        folder.mkdir(exist_ok=True)
        return make_app(folder, self.client, name, program)

    def engine(
        self,
        rules: str,
        *arguments: str,
        json: bool = True,
        ready: float | None = 10.0,
        prefix: tuple[str, ...] = (),
    ) -> Engine:
        """Start `tunowner run` in the client; wait for `ready` seconds at most (None: do not)."""
        folder = Path(tempfile.mkdtemp(prefix="engine-", dir=self.folder))
        engine = start_engine(self.client, folder, rules, arguments, as_json=json, prefix=prefix)
        self.engines.append(engine)
        if json and ready is not None:
            engine.wait_for_event("ready", ready)
        return engine

    def seen(self, **conditions: object) -> list[Seen]:
        """Return what the servers accepted since `forget`: `seen(peer="192.0.2.2", port=53)`."""
        unknown = conditions.keys() - set(Seen._fields)
        assert not unknown, f"no such condition: {unknown}"
        with self._log.open(encoding="ascii") as file:
            file.seek(self._log_start)
            every = [Seen(**json.loads(line)) for line in file if line.endswith("\n")]
        return [item for item in every if conditions.items() <= item._asdict().items()]

    def forget(self) -> None:
        """Start with empty logs and counters, and without known flows."""
        self._log_start = self._log.stat().st_size
        self.arrivals.reset()
        self.client.flush_conntrack()

    def end_test(self) -> None:
        """Kill what a test has started; the servers stay."""
        while self.engines:
            self.engines.pop().close()
        self.client.kill_all()
        self.vpn.kill_all()
        kept = {process.pid for process in self.servers}
        for process in self.internet.keeper.started:
            if process.pid not in kept:
                kill_group(process)
        self.internet.keeper.started[:] = self.servers

    def start_servers(self) -> None:
        addresses = [f"--address={address}" for address in _ADDRESSES]
        ports = [f"--echo={ECHO_PORT}", f"--echo={OTHER_ECHO_PORT}"]
        ports += [f"--http={HTTP_PORT}", f"--dns={DNS_PORT}", f"--log={self._log}"]
        iperf = ["iperf3", "-s", "-p", str(IPERF_PORT)]
        server = [sys.executable, "-S", str(_SERVER), *addresses, *ports]
        self.servers = [
            self.internet.popen(server, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL),
            self.internet.popen(iperf, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL),
        ]

    def await_servers(self) -> None:
        server, iperf = self.servers
        assert server.stdout
        assert server.stdout.readline() == "ready\n", "the servers did not start"
        wait_until(lambda: _listens(iperf.pid, IPERF_PORT), "iperf3 to listen")

    def close(self) -> None:
        """Kill everything, delete everything, and make sure of it."""
        self.end_test()
        self.internet.kill_all()
        topology.destroy(self.namespaces)
        shutil.rmtree(self.folder)
        left = [name for name in topology.existing() if name.startswith(PREFIX + self.token)]
        assert not left, f"left behind: {left}"


def _listens(pid: int, port: int) -> bool:
    """Tell whether somebody listens on an IPv6 port in the namespace of a process."""
    table = Path(f"/proc/{pid}/net/tcp6").read_text(encoding="ascii")
    return any(
        row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "0A"
        for row in table.splitlines()[1:]
    )


def _heed_interrupts() -> None:
    """Let programs be stopped by SIGINT even where a shell started us in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _reaper(world: World) -> Iterator[None]:
    """Keep a process that removes the world should this one die without doing so."""
    names = [namespace.name for namespace in world.namespaces]
    environment = {**os.environ, "FOLDER": str(world.folder)}
    process = subprocess.Popen(
        ["sh", "-c", _REAPER, "reaper", *names],
        stdin=subprocess.PIPE,
        start_new_session=True,
        env=environment,
    )
    try:
        yield
    finally:
        process.communicate()


@contextmanager
def open_world() -> Iterator[World]:
    """Build a world; tear it down whatever happens."""
    _heed_interrupts()
    token = secrets.token_hex(3)
    client, internet, vpn = (
        Namespace(f"{PREFIX}{token}-{role}") for role in ("client", "internet", "vpn")
    )
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{token}-"))
    folder.chmod(0o755)
    world = World(token, folder, client, internet, vpn)
    with _reaper(world):
        try:
            topology.build(client, internet, vpn)
            world.start_servers()
            world.arrivals.install()
            world.await_servers()
            yield world
        finally:
            world.close()
