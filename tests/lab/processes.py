"""Processes that a test starts: each leads its own group, and none outlives its keeper."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def reap(process: subprocess.Popen[str]) -> int:
    """Wait for a process that is about to end, and let go of its pipes."""
    status = process.wait(10.0)
    _close_pipes(process)
    return status


def kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a process that nobody has waited for yet, with its group, and reap it."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    _close_pipes(process)


def _close_pipes(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()


def kill_pid(pid: int) -> None:
    """Kill one process, found in a namespace of ours, and wait until it is gone."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            _await_end(descriptor)
        finally:
            os.close(descriptor)


def _await_end(pidfd: int, timeout: float = 5.0) -> None:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    if not poller.poll(timeout * 1000):
        raise AssertionError("a killed process did not end")


@dataclass
class Keeper:
    """Starts processes and remembers them."""

    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(list(argv), text=True, process_group=0, **options)
        self.started.append(process)
        return process

    def kill_all(self) -> None:
        while self.started:
            kill_group(self.started.pop())


def finish(
    process: subprocess.Popen[str], text: str | None, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Wait for the end and the output of `process`; kill it with its group when time is up."""
    try:
        out, err = process.communicate(text, timeout)
    except BaseException:
        kill_group(process)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
