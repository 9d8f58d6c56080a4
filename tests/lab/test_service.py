"""`tunowner run` as a service: what it tells systemd, and the unit file that we ship."""

from __future__ import annotations

import shutil
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.lab.engine import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.world import World

RULES = """
version: 1
rules: [ { name: blocked, match: { app: block-app }, action: block } ]
"""
UNIT = ROOT / "examples" / "tunowner.service"


@contextmanager
def service_manager(address: str) -> Iterator[socket.socket]:
    """Listen as systemd does, sd_notify(3)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(10)
        yield manager


@pytest.mark.root
def test_systemd_is_told_when_it_is_ready_and_when_it_ends(world: World) -> None:
    address = str(world.folder / "notify")
    with service_manager(address) as manager:
        engine = world.engine(RULES, ready=None, prefix=("env", f"NOTIFY_SOCKET={address}"))
        assert manager.recv(100) == b"READY=1"
        (flow,) = world.app("block-app").probe()  # no wait: it is ready when it says so
        assert flow.error == "ECONNREFUSED"
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(100)
        assert engine.stop() == 0
        assert manager.recv(100) == b"STOPPING=1"
        with pytest.raises(BlockingIOError):
            manager.recv(100)


@pytest.mark.root
def test_a_service_manager_that_is_gone_harms_nothing(world: World) -> None:
    engine = world.engine(RULES, prefix=("env", f"NOTIFY_SOCKET={world.folder}/nobody"))
    assert engine.stop() == 0
    assert engine.stderr == ""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.skipif(not UNIT.exists(), reason="there is no unit file to check")
def test_the_unit_file_is_sound(tmp_path_factory: pytest.TempPathFactory) -> None:
    unit = tmp_path_factory.mktemp("unit") / UNIT.name
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    command = next(line for line in lines if line.startswith("ExecStart="))
    program = command.removeprefix("ExecStart=").split()[0]
    # Where it is not installed the verifier would complain of that, and see nothing else.
    unit.write_text("\n".join(lines).replace(program, "/bin/true"), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    about_it = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert about_it == []
    assert done.returncode == 0, done.stderr
    assert "Type=notify" in lines
