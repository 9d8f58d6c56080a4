"""Details of real processes; whatever happens to one meanwhile, another is never described."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.backends.linux.children import Child
from tunowner.backends.linux import details as module
from tunowner.backends.linux.details import LinuxInspector, lineage_of
from tunowner.backends.linux.process import OpenProcess
from tunowner.backends.linux.procfs import UserNames
from tunowner.core.model import Process, ProcessDetails

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., Process]

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

WAIT = "tell(); wait()"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def inspector() -> LinuxInspector:
    return LinuxInspector()


@pytest.fixture
def start(inspector: LinuxInspector) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(code: str = WAIT, **options: Any) -> Process:
            child = stack.enter_context(Child(code, **options))
            child.hear()
            process = inspector.process(child.pid)
            assert process is not None
            return process

        yield begin


@pytest.fixture
def other_python(tmp_path: Path) -> str:
    path = tmp_path / "otherpython"
    shutil.copy(os.path.realpath(sys.executable), path)
    return str(path)


def known(inspector: LinuxInspector, process: Process, **options: Any) -> ProcessDetails:
    details = inspector.details(process, **options)
    assert details is not None
    return details


def test_ourselves(inspector: LinuxInspector) -> None:
    process = inspector.process(os.getpid())
    assert process is not None
    assert (process.pid, process.path) == (os.getpid(), os.path.realpath(sys.executable))
    details = known(inspector, process)
    file = Path(sys.executable).stat()
    assert details.file == (file.st_dev, file.st_ino)
    assert details.command_line == tuple(Path("/proc/self/cmdline").read_text()[:-1].split("\0"))
    assert details.started_at is not None
    assert time.time() - 3600 * 24 < details.started_at < time.time()
    group = Path("/proc/self/cgroup").read_text()
    assert f"0::{details.cgroup}\n" in group or "0::" not in group
    assert details.sha256 is None


def test_started_when_it_was_started(inspector: LinuxInspector, start: Start) -> None:
    before = time.time()
    details = known(inspector, start())
    assert details.started_at is not None
    assert before - 0.05 <= details.started_at <= time.time() + 0.05


def test_a_long_command_line_with_any_bytes(inspector: LinuxInspector) -> None:
    words = ["x" * 30_000, "", "a b\n", "\udcff"]
    code = ["-c", "import time; print(1, flush=True); time.sleep(60)", *words]
    with subprocess.Popen([sys.executable, *code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = inspector.process(process.pid)
        assert found is not None
        assert known(inspector, found).command_line == (sys.executable, *code)
        process.kill()


class TestParents:
    def test_the_chain(self, inspector: LinuxInspector, start: Start) -> None:
        details = known(inspector, start())
        assert [it.pid for it in details.parents[:2]] == [os.getpid(), os.getppid()]
        assert details.parents[0].path == os.path.realpath(sys.executable)
        assert details.parents_whole
        assert details.parents[-1].pid == 1
        starts = [it.start for it in (details.process, *details.parents)]
        assert starts == sorted(starts, reverse=True)

    def test_the_first_process_has_none(self, inspector: LinuxInspector) -> None:
        first = inspector.process(1)
        assert first is not None
        details = known(inspector, first)
        assert (details.parents, details.parents_whole) == ((), True)

    def test_a_parent_that_exited_is_replaced(self, inspector: LinuxInspector) -> None:
        code = """
middle = os.fork()
if middle == 0:
    if os.fork() == 0:
        time.sleep(0.1); print(json.dumps({'pid': os.getpid(), 'sockets': []}), flush=True)
        time.sleep(60)
    os._exit(0)
os.waitpid(middle, 0); wait()"""
        with Child(code) as child:
            child.hear()
            orphan = inspector.process(child.pid)
            assert orphan is not None
            details = known(inspector, orphan)
            os.kill(child.pid, 9)
        assert child.process.pid not in [it.pid for it in details.parents]
        assert details.parents_whole

    def test_a_reused_pid_is_no_parent(self, monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
        """The parent's pid leads to a process that started later than the child."""
        opened, younger = OpenProcess.open(os.getpid()), start()
        assert opened is not None
        real = OpenProcess.open
        monkeypatch.setattr(OpenProcess, "open", lambda _pid: real(younger.pid))
        lineage = lineage_of(opened, UserNames())
        assert (lineage.parents, lineage.whole) == ((), False)

    def test_a_circle_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        opened = OpenProcess.open(os.getpid())
        assert opened is not None
        monkeypatch.setattr(module, "_parent", lambda child: (child.pid, child))
        lineage = lineage_of(opened, UserNames())
        assert (len(lineage.parents), lineage.whole) == (0, False)


class TestIdentity:
    def test_another_start_is_another_process(
        self, inspector: LinuxInspector, start: Start
    ) -> None:
        process = start()
        assert inspector.details(process._replace(start=process.start - 1)) is None
        assert inspector.details(process) is not None

    def test_nobody(self, inspector: LinuxInspector) -> None:
        for pid in (2**22 + 1, 0, -1):
            assert inspector.process(pid) is None
        assert inspector.details(Process(2**22 + 1, 5)) is None

    def test_gone_though_details_are_kept(self, inspector: LinuxInspector) -> None:
        with Child(WAIT) as child:
            child.hear()
            process = inspector.process(child.pid)
            assert process is not None
            assert inspector.details(process) is not None
        assert inspector.details(process) is None

    def test_a_zombie(self, inspector: LinuxInspector) -> None:
        with subprocess.Popen(["sleep", "60"]) as child:
            time.sleep(0.05)
            process = inspector.process(child.pid)
            assert process is not None
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            assert inspector.details(process) is None
            nameless = inspector.process(child.pid)
            assert nameless is not None
            details = known(inspector, nameless, sha256=True)
            assert (details.file, details.command_line, details.sha256) == (None, (), None)
            assert details.parents[0].pid == os.getpid()

    def test_another_program_now(self, inspector: LinuxInspector, other_python: str) -> None:
        code = f"""
tell(); wait()
os.execv({other_python!r}, ['x', '-c', 'print("{{\\\\"sockets\\\\": []}}", flush=True); input()'])"""
        with Child(code) as child:
            child.hear()
            before = inspector.process(child.pid)
            pid = child.pid
            assert before is not None
            assert inspector.details(before) is not None
            child.say()
            child.hear()
            assert inspector.details(before) is None
            after = inspector.process(pid)
            assert after is not None
            assert (after.path, after.start) == (other_python, before.start)
            command = known(inspector, after).command_line
            assert command is not None
            assert command[0] == "x"

    def test_the_same_program_again_with_other_words(self, inspector: LinuxInspector) -> None:
        code = """
tell(); wait()
os.execv(sys.executable, ['second', '-c', 'print("{\\\\"sockets\\\\": []}", flush=True); input()'])"""
        with Child(code) as child:
            child.hear()
            process = inspector.process(child.pid)
            assert process is not None
            first = known(inspector, process).command_line
            child.say()
            child.hear()
            second = known(inspector, process).command_line
        assert first != second
        assert second is not None
        assert second[0] == "second"

    @pytest.mark.parametrize("step", ["_command_line", "lineage_of", "parse_groups", "_flatpak"])
    def test_it_dies_at_every_step(
        self, inspector: LinuxInspector, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        with Child(WAIT) as child:
            child.hear()
            process = inspector.process(child.pid)
            assert process is not None
            real = getattr(module, step)

            def then_die(*arguments: Any) -> Any:
                child.process.kill()
                child.process.wait()
                return real(*arguments)

            monkeypatch.setattr(module, step, then_die)
            assert inspector.details(process, sha256=True) is None

    def test_the_first_thread_has_exited(self, inspector: LinuxInspector) -> None:
        number = {"x86_64": 60}.get(os.uname().machine, 93)
        code = f"""
def work(): time.sleep(0.1); tell(); time.sleep(60)
threading.Thread(target=work).start(); libc.syscall({number}, 0)"""
        with Child(code) as child:
            child.hear()
            process = inspector.process(child.pid)
            assert process is not None
            assert process.path == os.path.realpath(sys.executable)
            details = known(inspector, process, sha256=True)
        assert details.file is not None
        assert details.command_line
        assert details.sha256 is not None


class TestHash:
    def digest(self, path: str) -> str:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()

    def test_the_executable(self, inspector: LinuxInspector, start: Start) -> None:
        assert known(inspector, start(), sha256=True).sha256 == self.digest(sys.executable)

    def test_a_replaced_file_is_never_hashed(
        self, inspector: LinuxInspector, start: Start, other_python: str
    ) -> None:
        real = self.digest(other_python)
        process = start(executable=other_python)
        Path(other_python).unlink()
        Path(other_python).write_bytes(b"something else")
        assert known(inspector, process, sha256=True).sha256 == real
        again = inspector.process(process.pid)
        assert again is not None
        assert again.deleted
        assert known(LinuxInspector(), again, sha256=True).sha256 == real

    def test_a_file_changed_in_place_is_hashed_again(
        self, inspector: LinuxInspector, start: Start, other_python: str
    ) -> None:
        first = known(inspector, start(executable=other_python), sha256=True).sha256
        times = Path(other_python).stat()
        for child in Path("/proc").glob("[0-9]*/exe"):
            if os.access(child, os.R_OK) and os.path.realpath(child) == other_python:
                os.kill(int(child.parent.name), 9)
        time.sleep(0.1)
        with Path(other_python).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
        os.utime(other_python, ns=(times.st_atime_ns, times.st_mtime_ns))
        second = known(inspector, start(executable=other_python), sha256=True).sha256
        assert first != second == self.digest(other_python)


class TestKept:
    def test_for_some_seconds_only(self, monkeypatch: pytest.MonkeyPatch, start: Start) -> None:
        clock, reads = Clock(), []
        inspector = LinuxInspector(clock)
        real = inspector._read
        monkeypatch.setattr(inspector, "_read", lambda *it: reads.append(1) or real(*it))  # type: ignore[func-returns-value]
        process = start()
        for now, count in ((0.0, 1), (4.9, 1), (5.1, 2)):
            clock.now = now
            known(inspector, process)
            assert len(reads) == count

    def test_a_hash_is_not_given_to_those_who_did_not_ask(
        self, inspector: LinuxInspector, start: Start
    ) -> None:
        process = start()
        assert known(inspector, process, sha256=True).sha256 is not None
        assert known(inspector, process).sha256 is None


class TestPackage:
    @pytest.mark.skipif(not shutil.which("dpkg"), reason="needs dpkg")
    def test_debian(self, inspector: LinuxInspector) -> None:
        with subprocess.Popen(["sleep", "60"]) as child:
            time.sleep(0.05)
            process = inspector.process(child.pid)
            assert process is not None
            assert known(inspector, process).package == "deb:coreutils"
            child.kill()

    def test_none(self, inspector: LinuxInspector, start: Start, other_python: str) -> None:
        package = known(inspector, start(executable=other_python)).package
        assert package == ("" if shutil.which("dpkg") else None)

    def test_appimage(self, inspector: LinuxInspector, start: Start, tmp_path: Path) -> None:
        folder = tmp_path / ".mount_FooXyz123" / "usr"
        folder.mkdir(parents=True)
        path = shutil.copy(os.path.realpath(sys.executable), folder / "foo")
        os.environ["APPIMAGE"] = "/home/ana/Foo.AppImage"
        try:
            process = start(executable=str(path))
        finally:
            del os.environ["APPIMAGE"]
        assert known(inspector, process).package == "appimage:/home/ana/Foo.AppImage"

    @pytest.mark.root
    @pytest.mark.parametrize("kind", ["file", "fifo", "link"])
    def test_flatpak(self, inspector: LinuxInspector, tmp_path: Path, kind: str) -> None:
        """A process with another root, where /.flatpak-info is a file, or a trap."""
        info = tmp_path / ".flatpak-info"
        if kind == "file":
            info.write_text("[Application]\nname=org.example.App\n")
        elif kind == "fifo":
            os.mkfifo(info)
        else:
            info.symlink_to("/etc/passwd")
        code = f"os.chroot({str(tmp_path)!r}); tell(); wait()"
        with Child(code) as child:
            child.hear()
            process = inspector.process(child.pid)
            assert process is not None
            package = known(inspector, process).package
        assert (package == "flatpak:org.example.App") == (kind == "file")
        assert package is None or not package.startswith("flatpak:") or kind == "file"

    @pytest.mark.root
    def test_the_same_path_in_a_container_is_not_our_package(
        self, inspector: LinuxInspector, tmp_path: Path
    ) -> None:
        """/usr/bin/sleep of another mount namespace is another file."""
        other = tmp_path / "sleep"
        shutil.copy("/bin/sleep", other)
        script = f"mount --bind {other} /usr/bin/sleep && exec /usr/bin/sleep 60"
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        with subprocess.Popen(command) as child:
            for _ in range(100):
                time.sleep(0.02)
                process = inspector.process(child.pid)
                if process is not None and process.name == "sleep":
                    break
            assert process is not None
            assert known(inspector, process).package is None
            child.kill()


@pytest.mark.root
def test_processes_of_others_without_privilege(start: Start) -> None:
    process = start()
    code = f"""
import os, pwd
from tunowner.backends.linux.details import LinuxInspector
os.setgroups([]); os.setgid(65534); os.setuid(65534)
inspector = LinuxInspector()
process = inspector.process({process.pid})
details = inspector.details(process, sha256=True)
print(process.path, details.file, details.sha256, details.package, process.uid, details.cgroup is None)"""
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert said.stdout.split() == ["None", "None", "None", "None", "0", "False"], said.stderr
