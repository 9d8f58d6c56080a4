"""sd_notify(3) against a socket that plays the service manager, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = "from tunowner.app.notify import notify; notify('READY=1')"


def notify(address: str | None) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "NOTIFY_SOCKET"}
    if address is not None:
        environment["NOTIFY_SOCKET"] = address
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=30)


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_hears_it(tmp_path: Path, *, abstract: bool) -> None:
    name = f"tunowner-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name if abstract else name)
        manager.settimeout(10)
        notify("@" + name if abstract else name)
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "/nowhere/at/all", "@nobody-listens"])
def test_without_one_nothing_happens(address: str | None) -> None:
    notify(address)
