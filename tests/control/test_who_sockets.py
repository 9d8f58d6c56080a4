"""`who` and `sockets` as a user runs them."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.control.helpers import ROOT, tunowner
from tunowner.app.who import Answer
from tunowner.control.listing import sockets_table
from tunowner.control.tables import answer_block, process_lines
from tunowner.core.model import (
    TCP,
    Connection,
    Grade,
    Owner,
    Process,
    ProcessDetails,
    SocketHolder,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

EVIL = "/tmp/\x1b[2Jx\n\u202e\udcff"


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


class TestWho:
    def test_a_listener_with_all_that_is_known(self, server: tuple[str, int]) -> None:
        title = f"tcp 127.0.0.1:{server[1]}"
        done = tunowner("who", *title.split(), "--hash")
        assert done.returncode == 0
        lines = done.stdout.splitlines()
        assert lines[0] == title
        assert f"  socket  127.0.0.1:{server[1]} -> *  LISTEN" in lines
        assert f"  path    {os.path.realpath(sys.executable)}" in lines
        digest = hashlib.sha256(Path(sys.executable).read_bytes()).hexdigest()
        assert f"  sha256  {digest}" in lines
        (parents,) = [line for line in lines if line.startswith("  parents ")]
        assert f" {os.getppid()} <- " in parents
        assert lines[-1].startswith("  grade   exact by ")

    def test_no_hash_unless_asked_for(self, server: tuple[str, int]) -> None:
        assert "sha256" not in tunowner("who", f":{server[1]}").stdout

    def test_json_tells_the_same(self, server: tuple[str, int]) -> None:
        with socket.create_connection(server) as client:
            mine = f"127.0.0.1:{client.getsockname()[1]}"
            theirs = f"127.0.0.1:{server[1]}"
            done = tunowner("who", "--json", "--hash", "tcp", mine, theirs)
        answer = json.loads(done.stdout)
        assert (answer["local"], answer["remote"]) == (mine, theirs)
        assert answer["socket"] == {"local": mine, "remote": theirs, "status": "ESTABLISHED"}
        (process,) = answer["processes"]
        assert (process["pid"], process["deleted"]) == (os.getpid(), False)
        assert process["parents"][0]["pid"] == os.getppid()
        assert process["command_line"][0]
        assert abs(process["started_at"] - time.time()) < 24 * 3600
        assert len(process["sha256"]) == 64

    @pytest.mark.parametrize("option", ["--tcp", "--udp"])
    def test_protocol_as_an_option(self, server: tuple[str, int], option: str) -> None:
        done = tunowner("who", "--json", f"127.0.0.1:{server[1]}", option)
        assert json.loads(done.stdout)["proto"] == option[2:]
        assert done.returncode == (0 if option == "--tcp" else 1)

    def test_a_process(self, server: tuple[str, int]) -> None:
        done = tunowner("who", "--pid", str(os.getpid()))
        assert done.returncode == 0
        assert done.stdout.startswith(f"pid {os.getpid()}\n  owner ")
        assert f"  socket  tcp 127.0.0.1:{server[1]} -> *  LISTEN\n" in done.stdout
        answer = json.loads(tunowner("who", "--json", "--pid", str(os.getpid())).stdout)
        assert answer["process"]["pid"] == os.getpid()
        assert server[1] in [it["local"]["port"] for it in answer["sockets"]]
        assert {it["pid"] for it in answer["sockets"]} == {os.getpid()}

    def test_no_such_process(self) -> None:
        done = tunowner("who", "--pid", str(2**22 + 1))
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1

    @pytest.mark.parametrize(
        "words",
        [
            [],
            ["tcp"],
            ["--pid", "0"],
            ["--pid", "x"],
            ["--pid", "1", ":80"],
            ["--pid", "1", "--tcp"],
            ["udp", "--tcp", ":80"],
            ["tcp", ":80", ":81"],
            ["tcp", ":80", "*:81"],
            ["icmp", ":80"],
            ["TCP", ":80"],
            ["tcp", ":\u0663\u0660"],
            ["tcp", "[1.2.3.4:80"],
            ["tcp", "-1:80"],
        ],
    )
    def test_usage_errors(self, words: list[str]) -> None:
        done = tunowner("who", *words)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert line.isprintable()

    def test_the_word_that_is_wrong_is_named(self) -> None:
        assert "'icmp' is not tcp or udp" in tunowner("who", "icmp", ":80").stderr
        assert "'1.2.3' is not ADDRESS:PORT" in tunowner("who", "1.2.3", ":80").stderr

    @pytest.mark.root
    def test_somebody_elses_socket_without_privilege(self, server: tuple[str, int]) -> None:
        code = f"""
import os, pwd, sys
import json, tunowner.app.who, tunowner.control.answers, tunowner.control.cli
import tunowner.backends.linux.details, tunowner.backends.linux.namespaces
import tunowner.backends.linux.table
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.argv = ['tunowner', 'who', 'tcp', ':{server[1]}', '--json']
tunowner.control.cli.main()"""
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
        )
        assert done.returncode == 1, done.stderr
        owner = json.loads(done.stdout)["owner"]
        assert (owner["grade"], owner["pid"], owner["uid"]) == ("denied", None, 0)


class TestSockets:
    def rows(self, *words: str) -> list[dict[str, Any]]:
        done = tunowner("sockets", "--json", *words)
        assert (done.returncode, done.stderr) == (0, "")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_table(self, server: tuple[str, int]) -> None:
        done = tunowner("sockets", "--tcp", "--pid", str(os.getpid()), "--port", str(server[1]))
        assert done.returncode == 0
        heading, line = done.stdout.splitlines()
        assert heading.split() == [
            *("PROTO", "STATUS", "LOCAL", "REMOTE", "USER", "PID", "NAME", "PATH")
        ]
        words = line.split()
        assert words[:4] == ["tcp", "LISTEN", f"127.0.0.1:{server[1]}", "*"]
        assert words[5] == str(os.getpid())

    def test_json_lines(self, server: tuple[str, int]) -> None:
        (row,) = self.rows("--port", str(server[1]))
        assert (row["proto"], row["pid"], row["pids"]) == ("tcp", os.getpid(), [os.getpid()])
        assert (row["status"], row["local"]["port"]) == ("LISTEN", server[1])

    def test_filters(self, server: tuple[str, int]) -> None:
        name = Path(os.path.realpath(sys.executable)).name
        ports = {row["local"]["port"] for row in self.rows("--app", name, "--listening")}
        assert server[1] in ports
        assert self.rows("--udp", "--port", str(server[1])) == []
        assert {row["status"] for row in self.rows("--state", "listen")} == {"LISTEN"}

    @pytest.mark.parametrize(
        "words",
        [
            *(["--port", "0"], ["--port", "65536"], ["--pid", "-1"], ["--app", "re:("], ["x"]),
            *(["--app", ""], ["--state", "OPEN"], ["--state", ""]),
        ],
    )
    def test_usage_errors(self, words: list[str]) -> None:
        done = tunowner("sockets", *words)
        assert (done.returncode, done.stdout) == (2, "")

    def test_states_are_told_to_whoever_names_none(self) -> None:
        assert "SYN_RECV" in tunowner("sockets", "--state", "SYN").stderr


class TestWords:
    """What people read, from values."""

    CURL = Process(7, 1, "/usr/bin/curl", 1000, "ana")

    def test_everything_known(self) -> None:
        details = ProcessDetails(
            self.CURL._replace(deleted=True),
            time.mktime((2020, 1, 2, 3, 4, 5, 0, 0, -1)),
            command_line=("curl", "a b"),
            parents=(Process(5, 1, "/bin/bash"), Process(1, 0)),
            parents_whole=True,
            unit="user@1000.service",
            user_unit="app-x.scope",
            container="docker:00",
            package="deb:curl",
            sha256="ff",
        )
        assert list(process_lines(details)) == [
            "  owner   curl  pid 7",
            "  path    /usr/bin/curl (deleted)",
            "  user    ana (1000)",
            "  started 2020-01-02 03:04:05",
            "  command curl 'a b'",
            "  parents bash 5 <- ? 1",
            "  package deb:curl",
            "  unit    user@1000.service / app-x.scope",
            "  container docker:00",
            "  sha256  ff",
        ]

    def test_nothing_known(self) -> None:
        lines = list(process_lines(ProcessDetails(Process(7, 1), parents=(self.CURL,))))
        assert lines[1:] == ["  path    ?", "  user    None", "  parents curl 7 <- ?"]

    def test_nobody(self) -> None:
        block = answer_block("tcp :1", Answer("tcp", Owner(Grade.DENIED, uid=33, detail="why")))
        assert block == "tcp :1\n  user    33\n  grade   denied (why), 0.0 ms"

    def test_names_do_not_draw(self) -> None:
        evil = Process(7, 1, EVIL, 0, EVIL)
        details = ProcessDetails(
            evil, command_line=(EVIL,), parents=(evil,), package=EVIL, unit=EVIL
        )
        assert all(line.isprintable() for line in process_lines(details))
        row = Connection(TCP, 4, bytes(4), 1, bytes(4), 2, "LISTEN", holders=(SocketHolder(evil),))
        assert all(line.isprintable() for line in sockets_table([row]))

    def test_rows(self) -> None:
        one = bytes((127, 0, 0, 1))
        shared = (SocketHolder(self.CURL), SocketHolder(Process(8, 2, "/usr/bin/curl")))
        table = [
            Connection(TCP, 4, one, 1, one, 2, "ESTABLISHED", 0, 5, Grade.EXACT, shared),
            Connection(TCP, 4, one, 1, one, 0, "LISTEN", 33, 6, Grade.KERNEL),
        ]
        assert list(sockets_table(table)) == [
            "PROTO  STATUS       LOCAL        REMOTE       USER  PID   NAME      PATH",
            "tcp    ESTABLISHED  127.0.0.1:1  127.0.0.1:2  ana   7 +1  curl      /usr/bin/curl",
            "tcp    LISTEN       127.0.0.1:1  *            33    -     (kernel)",
        ]

    def test_no_rows(self) -> None:
        assert len(list(sockets_table([]))) == 1
