"""The newcomer's first command, as the newcomer sees it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab.topology import SERVICE4, SERVICE6
from tests.lab.world import HTTP_PORT

if TYPE_CHECKING:
    from tests.lab.world import World

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(60)
def test_make_run_prints_flows_with_their_owner_and_leaves_no_trace(world: World) -> None:
    pipe = subprocess.PIPE
    make = world.client.popen(
        ["make", "-C", str(ROOT), "run", "RUN_ARGS=--no-ebpf"], stdout=pipe, stderr=pipe
    )
    assert make.stdout
    next(line for line in make.stdout if line.startswith("ready: tunowner0"))
    for host in (SERVICE4, f"[{SERVICE6}]"):
        url = f"http://{host}:{HTTP_PORT}/"
        world.client.run(["curl", "--silent", "--fail", "--output", "/dev/null", url])
        line = make.stdout.readline()
        assert " tcp curl[" in line
        assert f"-> {host}:{HTTP_PORT} direct" in line
    os.killpg(make.pid, signal.SIGINT)  # what Ctrl-C does
    output, errors = make.communicate(timeout=10)
    assert output.splitlines()[-1].startswith("stopped: packets 2, flows 2")
    assert "Traceback" not in errors
