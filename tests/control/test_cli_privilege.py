"""What somebody without privileges gets. As root these run as nobody, otherwise as we are."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.control.helpers import ROOT, tunowner

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

NOBODY = 65534
IS_ROOT = os.geteuid() == 0


def _prefix() -> tuple[str, ...]:
    if not IS_ROOT:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv (util-linux) to become nobody")
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def unprivileged(*arguments: str) -> subprocess.CompletedProcess[str]:
    prefix = _prefix()
    if IS_ROOT and ROOT.stat().st_mode & 0o005 != 0o005:
        pytest.skip(f"nobody may not read {ROOT}")
    return tunowner(*arguments, prefix=prefix, cwd=ROOT)


def test_run_says_what_is_missing_and_how_to_get_it() -> None:
    done = unprivileged("run")
    assert (done.returncode, done.stdout) == (4, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("tunowner: ")
    assert "CAP_NET_ADMIN" in line
    assert "sudo" in line


def test_run_finds_broken_rules_before_it_needs_privileges() -> None:
    done = unprivileged("run", "--rules", "/nonexistent/rules.yaml")
    assert done.returncode == 1
    assert "E001" in done.stderr


def test_doctor_says_so_too() -> None:
    done = unprivileged("doctor", "--json")
    checks = {it["name"]: it for it in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert checks["CAP_NET_ADMIN"]["ok"] is False
    assert checks["CAP_NET_ADMIN"]["hint"]


def test_who_answers_as_well_as_it_can() -> None:
    assert unprivileged("who", "tcp", "127.0.0.1:1").returncode == 1


def test_rules_that_may_not_be_read_are_findings(tmp_path: Path) -> None:
    secret = tmp_path / "secret.yaml"
    secret.write_text("version: 1\nrules: []\n")
    secret.chmod(0)
    shut = tmp_path / "shut"
    shut.mkdir(mode=0)
    done = unprivileged("check", str(secret), str(shut), str(shut / "a.yaml"))
    shut.chmod(0o700)
    assert done.returncode == 1
    assert done.stdout.count("E001") == 3
    assert done.stdout.count("Permission denied") == 3
