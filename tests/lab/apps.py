"""Programs with an executable of their own, so that rules can tell them apart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab.processes import kill_group, reap
from tests.lab.topology import SERVICE4

if TYPE_CHECKING:
    from tests.lab.namespace import Namespace

PROBE = Path(__file__).parent / "programs" / "probe.py"
_SYSTEM_PYTHON = Path("/usr/bin/python3")


@dataclass(frozen=True)
class FlowReport:
    """What the probe says about one flow."""

    proto: str
    src: str
    dst: str
    ok: bool
    error: str | None
    peer_seen: str | None
    peer_port: int | None
    connect_us: int | None
    total_us: int | None
    pid: int
    cookie: int


def probe_arguments(proto: str, target: str, options: dict[str, Any]) -> list[str]:
    """Turn `local_port=5, burst=True` into `--local-port=5 --burst`."""
    flags = {"--" + name.replace("_", "-"): value for name, value in options.items()}
    shown = [key if value is True else f"{key}={value}" for key, value in flags.items() if value]
    return [proto, target, *shown]


def _read(text: str) -> list[FlowReport]:
    return [FlowReport(**json.loads(line)) for line in text.splitlines()]


@dataclass
class RunningProbe:
    """A probe whose flows stay open (`hold`) until `finish`."""

    process: subprocess.Popen[str]

    @property
    def pid(self) -> int:
        return self.process.pid

    def next(self) -> FlowReport:
        """Wait for the next flow's report."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the probe has ended"
        return _read(line)[0]

    def finish(self, timeout: float = 60.0) -> list[FlowReport]:
        """Let the probe end; return the reports that `next` has not."""
        assert self.process.stdin
        assert self.process.stdout
        impatience = threading.Timer(timeout, self.process.kill)
        impatience.start()
        self.process.stdin.close()
        rest = _read(self.process.stdout.read())  # not communicate: it misses what `next` buffered
        impatience.cancel()
        status = reap(self.process)
        assert status in (0, 1), f"the probe ended with {status}"
        return rest

    def kill(self) -> None:
        kill_group(self.process)


@dataclass(frozen=True)
class App:
    """A copy of a program under a name of its own; usable wherever a path is."""

    path: Path
    client: Namespace
    env: dict[str, str]

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def script(self) -> Path:
        """The probe, where every user can read it."""
        return self.path.with_name("probe.py")

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the program in the client to its end (options of Namespace.run)."""
        return self.client.run([self.path, *arguments], env=self.env, **options)

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return self.client.popen([self.path, *arguments], env=self.env, **options)

    def probe(
        self, proto: str = "tcp", target: str = SERVICE4, *, user: int | None = None, **options: Any
    ) -> list[FlowReport]:
        """Open flows and return their reports; `options` are those of programs/probe.py."""
        arguments = probe_arguments(proto, target, options)
        done = self.run("-S", str(self.script), *arguments, check=False, timeout=300, user=user)
        assert done.returncode in (0, 1), done.stderr
        assert not done.stderr, done.stderr
        return _read(done.stdout)

    def start_probe(
        self, proto: str = "tcp", target: str = SERVICE4, *, user: int | None = None, **options: Any
    ) -> RunningProbe:
        """Open flows and keep them open (`hold=True` is implied)."""
        pipe = subprocess.PIPE
        arguments = probe_arguments(proto, target, {**options, "hold": True})
        return RunningProbe(
            self.popen("-S", "-u", str(self.script), *arguments, stdin=pipe, stdout=pipe, user=user)
        )


def _for_everybody(path: str) -> bool:
    """Tell whether users other than root can reach a directory."""
    folder = Path(path).resolve()
    return all(part.stat().st_mode & 0o001 for part in (folder, *folder.parents))


def _python() -> tuple[str, dict[str, str]]:
    """Return the real interpreter, and what a copy of it needs to find its library.

    It is the system's where ours is hidden from other users (pyenv in /root).
    """
    if not _for_everybody(sys.base_prefix) and _SYSTEM_PYTHON.exists():
        return str(_SYSTEM_PYTHON), {"PYTHONHOME": "/usr"}
    real = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    env = {"PYTHONHOME": sys.base_prefix}
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        env["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    return real, env


def make_app(folder: Path, client: Namespace, name: str, program: str) -> App:
    """Copy `program` (`python`, or a command on PATH) to folder/name, once."""
    original, env = _python() if program == "python" else (shutil.which(program), {})
    assert original, f"{program} is not installed"
    app = App(folder / name, client, env)
    if not app.path.exists():
        shutil.copy(os.path.realpath(original), app.path)
    if not app.script.exists():  # another program may be about to read it
        shutil.copy(PROBE, app.script)
    return app
