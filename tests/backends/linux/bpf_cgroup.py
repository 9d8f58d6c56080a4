"""A cgroup of the test's own: whatever it starts is seen by the hooks, and nothing else is."""

from __future__ import annotations

import itertools
import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tunowner.backends.linux.bpf.loader import cgroup_root

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = itertools.count()


@contextmanager
def own_cgroup() -> Iterator[Path]:
    """Make a cgroup, move this process into it for the time being, and remove it with all in it."""
    root = cgroup_root()
    here = next(
        line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line[:3] == "0::"
    )
    cgroup = root / f"tunowner-test-{os.getpid()}-{next(_numbers)}"
    cgroup.mkdir()
    try:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
        yield cgroup
    finally:
        (root / here.lstrip("/") / "cgroup.procs").write_text(str(os.getpid()))
        remove(cgroup)


def remove(cgroup: Path) -> None:
    """End what is left in it, which are children of the test, and remove it."""
    for _ in range(200):
        for pid in (cgroup / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), 9)
        with suppress(OSError):
            cgroup.rmdir()
            return
        time.sleep(0.02)
    raise AssertionError(f"{cgroup} cannot be removed")
