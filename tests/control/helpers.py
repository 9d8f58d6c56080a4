"""Run the command line as a user does, and look at what a user would see."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tunowner(
    *arguments: str, prefix: tuple[str, ...] = (), cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `tunowner ARGUMENTS`. A traceback is never what a user should see."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "tunowner", *arguments],
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=60,
        check=False,
        cwd=cwd,
    )
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return done
