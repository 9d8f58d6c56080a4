"""A flow that stays busy, for tests that pull the network from under it."""

from __future__ import annotations

import shutil
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lab.apps import App

_SCRIPT = Path(__file__).parent / "programs" / "ticker.py"


@dataclass
class Ticker:
    """A running programs/ticker.py. `answers` grows as long as the flow works."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def answers(self) -> int:
        return self.lines.count("answer")

    def stop(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10.0)
        self._reader.join(10.0)
        assert self.process.stdout
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout
        self.lines.extend(line.strip() for line in self.process.stdout)


def start_ticker(app: App, proto: str, target: str) -> Ticker:
    script = app.path.with_name("ticker.py")
    if not script.exists():
        shutil.copy(_SCRIPT, script)
    pipe = subprocess.PIPE
    return Ticker(app.popen("-S", "-u", str(script), proto, target, stdin=pipe, stdout=pipe))
