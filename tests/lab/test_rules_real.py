"""Rules as people write them, against the programs they mean: matched, and explained alike.

Whatever no rule matches is blocked here, so that a rule which does not match is seen at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.backends.linux.bpf_cgroup import remove
from tests.lab.apps import App, RunningProbe, probe_arguments
from tests.lab.engine import ROOT
from tests.lab.topology import SERVICE4, SERVICE6
from tests.lab.wait import wait_until
from tests.lab.world import ECHO_PORT
from tunowner.backends.linux.bpf.loader import cgroup_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.engine import Engine
    from tests.lab.world import World

pytestmark = pytest.mark.root
NOBODY = 65_534
both = pytest.mark.parametrize(("proto", "target"), [("tcp", SERVICE4), ("udp", SERVICE6)])


class Desk:
    """A running engine with one rule, and `explain` with the same rule."""

    def __init__(self, world: World, match: str) -> None:
        self.world = world
        self.rules = (
            "version: 1\n"
            "defaults: { action: block, when_unknown: block }\n"
            f"rules: [ {{ name: meant, match: {match}, action: direct }} ]\n"
        )
        self.file = world.folder / "desk.yaml"
        self.file.write_text(self.rules)
        self.engine: Engine = world.engine(self.rules)

    def explain(self, pid: int, *arguments: str) -> list[dict[str, Any]]:
        """Return what `explain --pid` says of the flows that a process has open."""
        command = [sys.executable, "-m", "tunowner", "explain", "--rules", str(self.file), "--json"]
        done = self.world.client.run(
            [*command, "--pid", str(pid), *arguments], env={"PYTHONPATH": str(ROOT)}
        )
        assert not done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def expect_match(self, probe: RunningProbe, because: str) -> None:
        """The flow of a probe matches, and `explain` says so in the same words."""
        flow = probe.next()
        assert flow.ok, flow.error
        event = self.engine.wait_for_event("open", src=flow.src, rule="meant")
        assert event["owner"]["pid"] == flow.pid
        assert event["why"] == because
        (answer,) = self.explain(flow.pid)
        assert (answer["rule"], answer["why"]) == ("meant", because)
        (step,) = answer["steps"]
        assert (step["result"], step["because"]) == ("yes", because)
        probe.finish()

    def expect_none(self, app: App, proto: str, target: str, **options: Any) -> None:
        """The flow of an app does not match."""
        (flow,) = app.probe(proto, target, **options)
        assert flow.error == "ECONNREFUSED"
        self.engine.wait_for_event("open", src=flow.src, rule=None, action="block")


def probe_by(world: World, app: App, proto: str, target: str, *words: object) -> RunningProbe:
    """Start a probe by other words than its own path; they come before its arguments."""
    pipe = subprocess.PIPE
    arguments = probe_arguments(proto, target, {"hold": True})
    command = [*map(str, words), *arguments]
    process = world.client.popen(command, env=app.env, stdin=pipe, stdout=pipe)
    return RunningProbe(process)


def at(app: App, path: Path) -> App:
    """Return a copy of an app at another path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(app.path, path)
    shutil.copy(app.script, path.with_name("probe.py"))
    return App(path, app.client, app.env)


@contextmanager
def held_back(world: World, app: App, proto: str, target: str) -> Iterator[RunningProbe]:
    """Start a probe that opens its flow only at the end of this."""
    fifo = world.folder / "start"
    os.mkfifo(fifo)
    gate = os.open(fifo, os.O_RDWR)
    probe = app.start_probe(proto, target, start=str(fifo))
    wait_until(lambda: str(fifo) in open_files(probe.pid), "the probe to wait")
    yield probe
    os.close(gate)
    fifo.unlink()


def open_files(pid: int) -> list[str]:
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            links.append(str(link.readlink()))
    return links


@contextmanager
def unit(name: str) -> Iterator[Path]:
    """A control group as systemd would make it for a unit; what runs in it must have ended."""
    group = cgroup_root() / "tuo.slice" / name
    group.mkdir(parents=True)
    try:
        yield group
    finally:
        remove(group)
        group.parent.rmdir()


def in_group(group: Path, app: App) -> list[str]:
    """Return the words that run an app's probe in a control group."""
    script = f'echo $$ > {shlex.quote(str(group / "cgroup.procs"))}; exec "$@"'
    return ["sh", "-c", script, "sh", str(app), "-S", "-u", str(app.script)]


@both
def test_a_script_run_by_python(world: World, proto: str, target: str) -> None:
    python = world.app("python3")
    desk = Desk(world, f"{{ app: 'python3*', script: {python.script} }}")
    desk.expect_match(
        python.start_probe(proto, target),
        f"app 'python3*' is {python}; script {python.script}",
    )
    other = at(python, world.folder / "elsewhere" / "python3")
    desk.expect_none(other, proto, target)


@both
def test_a_script_by_its_relative_name(world: World, proto: str, target: str) -> None:
    python = world.app("python3")
    desk = Desk(world, f"{{ script: {python.path.parent}/ }}")
    probe = probe_by(
        *(world, python, proto, target),
        *("env", "-C", python.path.parent, python, "-S", "-u", "./probe.py"),
    )
    desk.expect_match(probe, f"script {python.script}")


@both
def test_a_child_of_git(world: World, proto: str, target: str) -> None:
    helper = world.app("helper")
    desk = Desk(world, "{ app: helper, ancestor: git }")
    alias = f"alias.go=!{helper} -S -u {helper.script} $*; true"
    probe = probe_by(world, helper, proto, target, "git", "-c", alias, "go")
    desk.expect_match(probe, f"app 'helper' is {helper}; ancestor git")
    desk.expect_none(helper, proto, target)


@both
def test_a_program_that_is_renamed(world: World, proto: str, target: str) -> None:
    app = at(world.app("agent"), world.folder / "opt" / "agent-1")
    digest = hashlib.sha256(app.path.read_bytes()).hexdigest()
    desk = Desk(world, f"{{ sha256: {digest} }}")
    with held_back(world, app, proto, target) as probe:
        app.path.rename(app.path.with_name("something-else"))
    desk.expect_match(probe, f"sha256 {digest[:12]}...")
    other = at(world.app("agent"), world.folder / "opt" / "agent-1")
    with other.path.open("ab") as file:
        file.write(b"\n")
    desk.expect_none(other, proto, target)


@both
def test_a_program_that_is_replaced_while_it_runs(world: World, proto: str, target: str) -> None:
    app = at(world.app("agent"), world.folder / "opt" / "agent")
    desk = Desk(world, f"{{ app: {app} }}")
    with held_back(world, app, proto, target) as probe:
        new = app.path.with_name("agent.new")
        shutil.copy(app.path, new)
        new.rename(app.path)  # as a package manager does
        assert str(Path(f"/proc/{probe.pid}/exe").readlink()) == f"{app} (deleted)"
    desk.expect_match(probe, f"app '{app}' is {app}")


@both
def test_a_path_with_a_version_in_it(world: World, proto: str, target: str) -> None:
    """As flatpak has it: .../app/ID/ARCH/BRANCH/COMMIT/files/bin/NAME."""
    home = world.folder / "var/lib/flatpak/app/org.example.Player"
    desk = Desk(world, "{ app: '**/flatpak/app/org.example.Player/**' }")
    for commit in ("1f0c", "2e7d"):
        app = at(world.app("player"), home / f"x86_64/stable/{commit}/files/bin/player")
        desk.expect_match(
            app.start_probe(proto, target),
            f"app '**/flatpak/app/org.example.Player/**' is {app}",
        )


@both
def test_a_flatpak(world: World, proto: str, target: str) -> None:
    app = world.app("player")
    desk = Desk(world, "{ package: flatpak:org.example.Player }")
    with unit("app-flatpak-org.example.Player-812.scope") as group:
        probe = probe_by(world, app, proto, target, *in_group(group, app))
        desk.expect_match(probe, "package 'flatpak:org.example.Player'")
    desk.expect_none(app, proto, target)


@both
def test_a_snap(world: World, proto: str, target: str) -> None:
    made = not Path("/snap").exists()
    home = Path("/snap") / f"tuo-{world.token}"
    try:
        desk = Desk(world, f"{{ package: 'snap:tuo-{world.token}' }}")
        for revision in ("5917", "5920"):
            app = at(world.app("player"), home / revision / "usr/bin/player")
            desk.expect_match(app.start_probe(proto, target), f"package 'snap:tuo-{world.token}'")
        desk.expect_none(world.app("player"), proto, target)
    finally:
        shutil.rmtree(home)
        if made:
            Path("/snap").rmdir()


@both
def test_a_systemd_unit(world: World, proto: str, target: str) -> None:
    app = world.app("worker")
    desk = Desk(world, "{ service: tuo-backup }")
    with unit("tuo-backup.service") as group:
        probe = probe_by(world, app, proto, target, *in_group(group, app))
        desk.expect_match(probe, "service 'tuo-backup.service'")
    desk.expect_none(app, proto, target)


@both
def test_a_control_group(world: World, proto: str, target: str) -> None:
    app = world.app("worker")
    desk = Desk(world, "{ cgroup: '/tuo.slice/**' }")
    with unit("anything.scope") as group:
        probe = probe_by(world, app, proto, target, *in_group(group, app))
        desk.expect_match(probe, "cgroup '/tuo.slice/anything.scope'")


@both
def test_a_process_of_another_user(world: World, proto: str, target: str) -> None:
    app = world.app("worker")
    desk = Desk(world, f"{{ app: worker, user: {NOBODY} }}")
    desk.expect_match(
        app.start_probe(proto, target, user=NOBODY), f"app 'worker' is {app}; user nobody"
    )
    desk.expect_none(app, proto, target)


SHARE = """
import json, socket, subprocess, sys
proto, target, port, other = sys.argv[1:]
family = socket.AF_INET6 if ":" in target else socket.AF_INET
sock = socket.socket(family, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
pipe = subprocess.PIPE
wait = "import sys; print(flush=True); sys.stdin.read()"
child = subprocess.Popen([other, "-S", "-c", wait], pass_fds=[sock.fileno()], stdin=pipe, stdout=pipe)
child.stdout.readline()
sock.settimeout(5)
error = None
try:
    sock.connect((target, int(port)))
    sock.send(b"x")
    sock.recv(100)
except OSError as it:
    error = repr(it)
print(json.dumps({"error": error, "pid": child.pid}), flush=True)
sys.stdin.read()
child.stdin.close()
child.wait()
"""


@both
@pytest.mark.parametrize("meant", ["first", "second"])
def test_two_programs_that_share_a_socket(
    world: World, proto: str, target: str, meant: str
) -> None:
    first, second = world.app("first"), world.app("second")
    desk = Desk(world, f"{{ app: {meant} }}")
    pipe = subprocess.PIPE
    process = first.popen(
        *("-S", "-c", SHARE, proto, target, str(ECHO_PORT), str(second)), stdin=pipe, stdout=pipe
    )
    assert process.stdout
    told = json.loads(process.stdout.readline())
    assert told["error"] is None
    because = f"app '{meant}' is {world.app(meant)}"
    event = desk.engine.wait_for_event("open", rule="meant", why=because)
    assert {it["pid"] for it in event["owner"]["candidates"]} == {process.pid, told["pid"]}
    for pid in (process.pid, told["pid"]):
        (answer,) = desk.explain(pid)
        assert (answer["rule"], answer["why"]) == ("meant", because)
        assert len(answer["owner"]["candidates"]) == 2
    process.communicate("")


@both
def test_a_flow_that_is_not_open_yet(world: World, proto: str, target: str) -> None:
    """`explain --pid --to`: what would happen, and then it does."""
    app = world.app("worker")
    desk = Desk(world, "{ app: worker, port: 7001 }")
    with held_back(world, app, proto, target) as probe:
        end = f"[{target}]" if ":" in target else target
        to = ("--to", f"{end}:{ECHO_PORT}", "--proto", proto)
        (answer,) = desk.explain(probe.pid, *to)
        assert (answer["action"], answer["rule"]) == ("block", None)
        assert answer["steps"][0]["because"] == f"port is {ECHO_PORT}, not 7001"
        assert answer["nearest"]["failing"] == ["port"]
    (flow,) = probe.finish()
    assert flow.error == "ECONNREFUSED"
