"""Other programs that tell sockets and their processes, timed beside ours in the same run.

What is not installed is said to be absent, never left out in silence.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack

    from tests.bench.report import Report

    Round = Callable[[], float]
    """Does something once and returns the seconds that it took."""

PSUTIL = "psutil.net_connections()"
PSUTIL_FINDER = "psutil.net_connections() + filter"
PSUTIL_COMMAND = "python -c 'psutil.net_connections()'"
PROGRAM = Path(__file__).parent / "programs" / "lookup.go"
_GO_PATH = "/usr/share/gocode"
"""Where Debian's golang-*-dev packages put their sources."""
_HINTS = {
    "psutil": "pip install psutil",
    "ss": "apt install iproute2",
    "lsof": "apt install lsof",
    "gopsutil": "apt install golang-go golang-github-shirou-gopsutil-dev",
}


class Peers:
    """What there is on this machine; the rest is remarked in the report."""

    def __init__(self, stack: ExitStack, report: Report) -> None:
        self._report = report
        self._psutil = importlib.import_module("psutil") if self._here("psutil") else None
        self._gopsutil = self._built(stack)
        self._commands = [name for name in ("ss", "lsof") if self._here(name)]

    def _here(self, name: str) -> bool:
        found = shutil.which(name) or (name == "psutil" and importlib.util.find_spec(name))
        if not found:
            self._absent(name)
        return bool(found)

    def _absent(self, name: str, why: str = "not installed") -> None:
        self._report.remark(f"no {name} to compare with: {why} ({_HINTS[name]})")

    def _built(self, stack: ExitStack) -> str | None:
        """Build the Go program into a folder that goes away with the run."""
        if not (shutil.which("go") and Path(_GO_PATH, "src/github.com/shirou/gopsutil").is_dir()):
            self._absent("gopsutil")
            return None
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        own = {"GO111MODULE": "off", "GOPATH": _GO_PATH, "GOCACHE": folder, "GOFLAGS": ""}
        program = f"{folder}/lookup"
        words = ["go", "build", "-o", program, str(PROGRAM)]
        done = subprocess.run(
            words, check=False, capture_output=True, text=True, env=os.environ | own
        )
        if done.returncode:
            self._absent("gopsutil", f"it does not build: {done.stderr.strip()}")
            return None
        return program

    def tables(self) -> dict[str, Round]:
        """Return what reads the whole table of sockets with their processes."""
        found: dict[str, Round] = {}
        psutil = self._psutil
        if psutil is not None:
            found[PSUTIL] = timed(lambda: psutil.net_connections("inet"))
            code = "import psutil; psutil.net_connections()"
            found[PSUTIL_COMMAND] = timed(lambda: run(sys.executable, "-c", code))
        if "ss" in self._commands:
            found["ss -tunap"] = timed(lambda: run("ss", "-tunap"))
        if "lsof" in self._commands:
            found["lsof -nP -i"] = timed(lambda: run("lsof", "-nP", "-i"))
        program = self._gopsutil
        if program is not None:
            found["gopsutil net.Connections()"] = lambda: self._told(run(program, "1"))
        return found

    def finders(self, local: tuple[str, int], pid: int) -> dict[str, Round]:
        """Return what finds the process of one TCP socket; ends the run when it names another."""
        ip, port = local
        found: dict[str, Round] = {}
        psutil = self._psutil
        if psutil is not None:
            found[PSUTIL_FINDER] = timed(
                lambda: _same(
                    pid, *(it.pid for it in psutil.net_connections("inet") if it.laddr == local)
                )
            )
        if "ss" in self._commands:
            words = ("ss", "-tnpH", f"src {ip}:{port}")
            found["ss -tnp, filtered"] = timed(lambda: _said(f"pid={pid},", run(*words)))
        if "lsof" in self._commands:
            which = ("lsof", "-nP", "-Fp", f"-iTCP@{ip}:{port}")
            found["lsof -nP -i, filtered"] = timed(lambda: _said(f"p{pid}\n", run(*which)))
        program = self._gopsutil
        if program is not None:
            path = os.path.realpath(f"/proc/{pid}/exe")
            found["gopsutil net.Connections() + process.Exe()"] = lambda: self._told(
                _said(path, run(program, "1", ip, str(port)))
            )
        return found

    @staticmethod
    def _told(text: str) -> float:
        return int(text.split(maxsplit=1)[0]) / 1e9


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def timed(action: Callable[[], object]) -> Round:
    def once() -> float:
        begun = time.perf_counter()
        action()
        return time.perf_counter() - begun

    return once


def in_turns(contestants: Mapping[str, Round], rounds: int) -> dict[str, list[float]]:
    """Let each do a round, then each the next: what disturbs the machine disturbs all of them."""
    spent: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, once in contestants.items():
            spent[name].append(once())
    return spent


def _same(pid: int, *found: int | None) -> None:
    if pid not in found:
        raise SystemExit(f"a peer says {found} instead of {pid}")


def _said(what: str, text: str) -> str:
    if what not in text:
        raise SystemExit(f"a peer says {text!r}, which lacks {what!r}")
    return text
