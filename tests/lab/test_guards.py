"""The lab's guards: tests that leave traces fail, and no test of the lab is skipped unseen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AS_NOBODY = "import os; os.geteuid = lambda: 65534\n"
RUN = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
NEEDS_ROOT = """
    import pytest
    @pytest.mark.root
    def test_root(): raise AssertionError("ran without root")
    def test_plain(): pass
"""
LITTERING = """
    import pytest
    pytestmark = pytest.mark.root
    def test_litter(world): world.client.sh("ip rule add pref 7 fwmark 1 lookup 9")
    def test_next(world): assert "fwmark" not in world.client.sh("ip rule")
"""


def _pytest(folder: Path, text: str, *, prelude: str = "", ci: str = "") -> tuple[int, str]:
    """Run the tests in `text` below our conftest; return the exit status and the output."""
    lines = text.splitlines()
    file = folder / "test_inner.py"
    file.write_text("\n".join(line[4:] for line in lines), encoding="utf-8")
    options = ["-p", "tests.conftest", f"--rootdir={folder}", f"--confcutdir={folder}", "-ra"]
    markers = folder / "pytest.ini"
    markers.write_text("[pytest]\nmarkers = root: as in pyproject.toml\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", prelude + RUN, *options, "-c", str(markers), str(file)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_without_root_the_reason_is_shown(tmp_path: Path) -> None:
    status, output = _pytest(tmp_path, NEEDS_ROOT, prelude=AS_NOBODY)
    assert status == 0, output
    assert "1 passed, 1 skipped" in output
    assert "needs root" in output


def test_without_root_ci_fails(tmp_path: Path) -> None:
    status, output = _pytest(tmp_path, NEEDS_ROOT, prelude=AS_NOBODY, ci="true")
    assert status == 1, output
    assert "needs root" in output
    assert "passed" not in output


@pytest.mark.root
def test_a_test_that_leaves_traces_fails_and_harms_no_other(tmp_path: Path) -> None:
    status, output = _pytest(tmp_path, LITTERING)
    assert status == 1, output
    assert "2 passed, 1 error" in output
    assert "the test left the client changed" in output
    assert '+ rules v4: {"fwmark": "0x1"' in output
