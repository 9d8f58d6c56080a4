"""The commands as a user runs them: what they print, where, and their exit status."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.control.helpers import tunowner
from tunowner.app.config import RULES_FOLDER

GOOD = """\
version: 1
rules:
  - { name: no-curl, match: { app: curl }, action: block }
"""
BROKEN = """\
version: 1
rules:
  - { name: no-curl, match: { app: curl }, action: blok }
  - { name: no-wget, match: { ap: wget }, action: block }
"""
NEVER = """\
version: 1
rules:
  - { name: all, match: any, action: direct }
  - { name: never, match: { app: curl }, action: block }
"""


def file(folder: Path, text: str, name: str = "rules.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


class TestMain:
    def test_version(self) -> None:
        done = tunowner("--version")
        assert done.returncode == 0
        assert done.stdout.startswith("tunowner")
        assert "0.1" in done.stdout

    @pytest.mark.parametrize("option", ["-h", "--help"])
    def test_help_lists_the_commands(self, option: str) -> None:
        done = tunowner(option)
        assert done.returncode == 0
        assert {"run", "who", "check", "doctor"} <= set(done.stdout.split())

    @pytest.mark.parametrize(
        "arguments", [["nonsense"], ["--nonsense"], ["who"], ["run", "rules.yaml"]]
    )
    def test_usage_errors(self, arguments: list[str]) -> None:
        done = tunowner(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("Usage: tunowner ")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_output_that_cannot_be_written(self, tmp_path: Path) -> None:
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "tunowner", "check", file(tmp_path, GOOD)],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                timeout=60,
            )
        assert done.returncode == 1
        assert done.stderr == "tunowner: cannot write: No space left on device\n"

    def test_a_reader_that_has_gone(self, tmp_path: Path) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tunowner", "check", file(tmp_path, GOOD)],
                stdout=writer,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                timeout=60,
            )
        finally:
            os.close(writer)
        assert (done.returncode, done.stderr) == (1, "")


class TestCheck:
    def test_good_rules(self, tmp_path: Path) -> None:
        done = tunowner("check", file(tmp_path, GOOD))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "0 errors, 0 warnings, 1 rule, 0 tests\n"

    def test_every_mistake_with_its_place(self, tmp_path: Path) -> None:
        path = file(tmp_path, BROKEN)
        done = tunowner("check", path)
        first, line, caret, second, *_, summary = done.stdout.splitlines()
        assert done.returncode == 1
        assert first.startswith(f"{path}:3:")
        assert "'blok'" in first
        assert "'block'" in first, "the word that was meant"
        assert second.startswith(f"{path}:4:")
        assert line.startswith("     3 | ")
        assert line[caret.index("^") :].startswith("blok")
        assert summary == "2 errors, 0 warnings, 0 rules, 0 tests"

    def test_warnings_are_told_and_no_failure(self, tmp_path: Path) -> None:
        done = tunowner("check", file(tmp_path, NEVER))
        assert done.returncode == 0
        assert "warning W101" in done.stdout
        assert done.stdout.endswith("0 errors, 1 warning, 2 rules, 0 tests\n")
        assert tunowner("check", "--strict", file(tmp_path, NEVER)).returncode == 1
        assert tunowner("check", "--strict", file(tmp_path, GOOD)).returncode == 0

    def test_json_of_good_rules(self, tmp_path: Path) -> None:
        done = tunowner("check", "--json", file(tmp_path, GOOD))
        counts = {"errors": 0, "warnings": 0, "rules": 1, "tests": 0}
        assert (done.returncode, json.loads(done.stdout)) == (0, {"findings": [], **counts})

    def test_json_of_broken_rules(self, tmp_path: Path) -> None:
        path = file(tmp_path, BROKEN)
        done = tunowner("check", "--json", path)
        answer = json.loads(done.stdout)
        assert done.returncode == 1
        assert [(it["file"], it["line"]) for it in answer["findings"]] == [(path, 3), (path, 4)]
        expected = {"file", "line", "column", "severity", "code", "message", "hint", "source"}
        assert all(expected == set(it) for it in answer["findings"])
        assert (answer["errors"], answer["warnings"]) == (2, 0)

    def test_the_tests_in_a_file_are_run(self, tmp_path: Path) -> None:
        flow = "{ flow: { app: /usr/bin/curl, to: '192.0.2.7:443' }, expect: "
        good, bad = (f"{GOOD}tests: [{flow}{expect} }}]\n" for expect in ("no-curl", "default"))
        done = tunowner("check", file(tmp_path, good))
        assert (done.returncode, done.stdout) == (0, "0 errors, 0 warnings, 1 rule, 1 test\n")
        done = tunowner("check", file(tmp_path, bad))
        assert done.returncode == 1
        assert "error E301: test expects 'default', but 'no-curl' decides" in done.stdout

    def test_without_rules_of_the_machine_a_path_is_needed(self) -> None:
        if Path(RULES_FOLDER).exists():
            pytest.skip("this machine has rules")
        for command in (["check"], ["explain", "--to", "192.0.2.7:443"]):
            done = tunowner(*command)
            assert (done.returncode, done.stdout) == (2, "")
            assert "this machine has no rules of its own" in done.stderr

    def test_several_paths(self, tmp_path: Path) -> None:
        paths = [file(tmp_path, BROKEN, "a.yaml"), str(tmp_path / "none.yaml")]
        done = tunowner("check", *paths)
        assert done.returncode == 1
        assert "E001" in done.stdout
        assert f"{paths[0]}:3:" in done.stdout

    def test_what_a_file_says_cannot_draw_on_the_terminal(self, tmp_path: Path) -> None:
        path = file(tmp_path, 'version: 1\nrules:\n  - { name: "\\e[2J", "a\\u202e": 1 }\n')
        done = tunowner("check", path)
        assert done.returncode == 1
        assert all(line.isprintable() for line in done.stdout.splitlines())

    @pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict", "latin-1:strict"])
    def test_a_file_name_that_the_terminal_cannot_show(self, tmp_path: Path, encoding: str) -> None:
        path = file(tmp_path, BROKEN, "\u4f60\udcff.yaml")
        done = tunowner("check", path, PYTHONIOENCODING=encoding)
        assert done.returncode == 1
        assert ".yaml:3:" in done.stdout


class TestRun:
    def test_a_missing_rule_file(self, tmp_path: Path) -> None:
        done = tunowner("run", "--rules", str(tmp_path / "none.yaml"))
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert str(tmp_path / "none.yaml") in line
        assert "No such file" in line

    def test_broken_rules_are_listed_and_nothing_is_started(self, tmp_path: Path) -> None:
        done = tunowner("run", "--json", "--rules", file(tmp_path, BROKEN))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.count(": error E") == 2

    @pytest.mark.root
    def test_rules_that_anybody_could_write_are_refused(self, tmp_path: Path) -> None:
        path = file(tmp_path, GOOD)
        Path(path).chmod(0o666)
        for command in (
            ["run", "--rules"],
            ["check"],
            ["explain", "--to", "192.0.2.7:1", "--rules"],
        ):
            done = tunowner(*command, path)
            assert done.returncode == 1
            assert f"{path}: error E021: everybody may write it" in done.stdout + done.stderr
            assert f"chmod go-w '{path}'" in done.stdout + done.stderr

    @pytest.mark.parametrize("byte", ["4", "-1", "x"])
    def test_a_mark_byte_that_there_is_not(self, byte: str) -> None:
        assert tunowner("run", "--mark-byte", byte).returncode == 2


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Any:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as server:
        host, port = server.getsockname()[:2]
        yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class TestWho:
    def test_the_owner_of_a_socket(self, listener: str) -> None:
        done = tunowner("who", "tcp", listener)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"tcp {listener}\n")
        assert f"pid {os.getpid()}\n" in done.stdout
        assert f"path    {Path(sys.executable).resolve()}\n" in done.stdout

    def test_json(self, listener: str) -> None:
        done = tunowner("who", "--json", "tcp", listener)
        assert done.returncode == 0
        answer = json.loads(done.stdout)
        assert set(answer) >= {"proto", "local", "owner", "backend", "lookup_us"}
        assert (answer["proto"], answer["local"]) == ("tcp", listener)
        owner = answer["owner"]
        assert (owner["grade"], owner["pid"], owner["uid"]) == ("exact", os.getpid(), os.geteuid())
        assert set(owner) >= {"grade", "pid", "start", "name", "path", "uid", "user"}
        assert isinstance(answer["lookup_us"], int)

    def test_any_address_and_any_protocol(self, listener: str) -> None:
        done = tunowner("who", "--json", f":{listener.rpartition(':')[2]}")
        assert done.returncode == 0
        assert json.loads(done.stdout)["owner"]["pid"] == os.getpid()

    def test_one_connection_by_both_its_ends(self, listener: str) -> None:
        host, _, port = listener.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port))) as connection:
            mine = f"{host}:{connection.getsockname()[1]}"
            done = tunowner("who", "--json", "tcp", mine, listener)
        assert done.returncode == 0
        assert json.loads(done.stdout)["owner"]["pid"] == os.getpid()

    def test_udp(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unconnected:
            unconnected.bind(("127.0.0.1", 0))
            done = tunowner("who", "--json", "udp", f"*:{unconnected.getsockname()[1]}")
        assert done.returncode == 0
        assert json.loads(done.stdout)["owner"]["pid"] == os.getpid()

    @pytest.mark.parametrize("option", [[], ["--json"]])
    def test_nobody(self, option: list[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            free = server.getsockname()[1]  # as UDP, nobody has it
        done = tunowner("who", *option, "udp", f"127.0.0.1:{free}")
        assert done.returncode == 1
        assert "absent" in done.stdout

    @pytest.mark.parametrize(
        "words",
        [
            ["tcp"],
            ["tcp", "localhost:80"],
            ["sctp", ":80"],
            [":0"],
            [":65536"],
            [":99999999999999999999"],
            [":http"],
            ["127.0.0.1"],
            ["::1:80:"],
            ["tcp", ":80", ":81", ":82"],
            ["tcp", ":80", "nowhere:81"],
            ["127.0.0.1 :80"],
            [""],
        ],
    )
    def test_what_is_no_socket_is_a_usage_error(self, words: list[str]) -> None:
        done = tunowner("who", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Error: " in done.stderr

    def test_it_loads_no_more_than_it_needs(self, listener: str) -> None:
        """Start-up is counted: pyroute2 alone costs 134 ms."""
        program = (
            "import sys; from tunowner.control.cli import cli\n"
            f"cli.main(['who', 'tcp', '{listener}'], standalone_mode=False)\n"
        )
        heavy = ("pyroute2", "scapy", "psutil", "yaml", "asyncio", "tunowner.backends.linux.gate")
        report = "import atexit, sys; atexit.register(lambda: print(sorted(sys.modules)))\n"
        done = subprocess.run(
            [sys.executable, "-c", report + program],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        loaded = json.loads(done.stdout.splitlines()[-1].replace("'", '"'))
        assert "tunowner.backends.linux.owners" in loaded, "the probe works"
        assert [it for it in loaded if it in heavy] == []


class TestDoctor:
    def test_it_tells_what_this_machine_can_do(self) -> None:
        done = tunowner("doctor")
        assert done.returncode in (0, 1)
        assert done.stderr == ""
        lines = done.stdout.splitlines()
        assert all(line.startswith(("ok    ", "lacks ", "      ")) for line in lines)
        assert any(line.startswith("ok    kernel") for line in lines)

    def test_json(self) -> None:
        done = tunowner("doctor", "--json")
        checks = json.loads(done.stdout)["checks"]
        assert {"name", "ok", "detail", "hint", "needed"} == set(checks[0])
        lacking = [it for it in checks if it["needed"] and not it["ok"]]
        assert done.returncode == (1 if lacking else 0)
        assert all(it["hint"] for it in checks if not it["ok"])
