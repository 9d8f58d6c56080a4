"""The RPM package of a path, from a real package in a database of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backends.linux.children import Child
from tunowner.backends.linux.details import LinuxInspector
from tunowner.backends.linux.rpm import COMMAND, Rpm

SPEC = """\
%global __os_install_post %nil
%global debug_package %nil
Name: tunowner-demo
Version: 1
Release: 1
Summary: nothing
License: MIT
BuildArch: noarch
%description
%install
mkdir -p %{buildroot}$(dirname PROGRAM)
echo > %{buildroot}PROGRAM
%files
PROGRAM
"""


def run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of python, which no package of this machine has."""
    copy = tmp_path_factory.mktemp("opt") / "program"
    shutil.copy(Path(sys.executable).resolve(), copy)
    return copy


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Path:
    top = tmp_path_factory.mktemp("rpmbuild")
    (top / "demo.spec").write_text(SPEC.replace("PROGRAM", str(program)))
    run("rpmbuild", "-bb", "--quiet", "--define", f"_topdir {top}", str(top / "demo.spec"))
    (built,) = (top / "RPMS").rglob("*.rpm")
    return built


class Database:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        run(*self.command, "--initdb")

    @property
    def command(self) -> tuple[str, ...]:
        return (*COMMAND, "--dbpath", str(self.folder))

    def install(self, package: Path) -> None:
        run(*self.command, "-i", "--justdb", "--nodeps", "--ignoreos", "--ignorearch", str(package))

    def remove(self) -> None:
        run(*self.command, "-e", "--justdb", "--nodeps", "tunowner-demo")

    def rpm(self) -> Rpm:
        return Rpm(self.command, (self.folder,))


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "db")


def test_a_file_of_a_package_and_one_of_none(
    database: Database, package: Path, program: Path
) -> None:
    database.install(package)
    rpm = database.rpm()
    assert rpm.owner(str(program)) == "tunowner-demo"
    assert rpm.owner("/usr/bin/env") == ""
    assert rpm.owner("--eval") is None, "there is no such file, and it is no option"


def test_a_process_that_runs_a_file_of_a_package(
    database: Database, package: Path, program: Path
) -> None:
    database.install(package)
    inspector = LinuxInspector(rpm=database.rpm())
    with Child("tell(); wait()", executable=str(program)) as child:
        child.hear()
        process = inspector.process(child.pid)
        assert process is not None
        details = inspector.details(process)
        assert details is not None
        assert details.package == "rpm:tunowner-demo"


def test_an_answer_ends_when_a_package_changes(
    database: Database, package: Path, program: Path
) -> None:
    database.install(package)
    rpm = database.rpm()
    assert rpm.owner(str(program)) == "tunowner-demo"
    database.remove()
    assert rpm.owner(str(program)) == ""


def test_an_answer_is_kept_meanwhile(
    database: Database, package: Path, program: Path, tmp_path: Path
) -> None:
    database.install(package)
    script = tmp_path / "counting-rpm"
    script.write_text(
        f'#!/bin/sh\necho >> {tmp_path}/asked\nexec {" ".join(database.command)} "$@"\n'
    )
    script.chmod(0o755)
    rpm = Rpm((str(script),), (database.folder,))
    assert {rpm.owner(str(program)) for _ in range(5)} == {"tunowner-demo"}
    assert (tmp_path / "asked").read_text() == "\n"


def test_without_a_database_or_a_command_nobody_can_tell(
    tmp_path: Path, database: Database
) -> None:
    assert Rpm(folders=(tmp_path / "none",)).owner("/usr/bin/env") is None
    assert Rpm((str(tmp_path / "none"),), (database.folder,)).owner("/usr/bin/env") is None
