"""Put in, attach, detach, refuse: all on a cgroup of the test's own."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.backends.linux.bpf_cgroup import own_cgroup
from tunowner.backends.linux.bpf import libbpf, loader, records
from tunowner.backends.linux.bpf.loader import OBJECT, OwnerMap, Reader, cgroup_root
from tunowner.backends.linux.owners import LinuxOwners
from tunowner.backends.linux.procfs import ProcessDir
from tunowner.core.model import TCP, UDP, FlowKey, Grade
from tunowner.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform != "linux":
    pytest.skip("needs Linux", allow_module_level=True)

HOOKS = (2, 10, 11, 14, 15, 34)
"""BPF_CGROUP_INET_SOCK_CREATE, INET4_CONNECT, INET6_CONNECT, UDP4_SENDMSG, UDP6_SENDMSG and
INET_SOCK_RELEASE of <linux/bpf.h>."""
LOOPBACK = bytes((127, 0, 0, 1))


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with own_cgroup() as made:
        yield made


def attached(cgroup: Path) -> list[int]:
    """Return how many programs are attached to each hook of the cgroup."""
    library = ctypes.CDLL(libbpf.NAME, use_errno=True)
    directory = os.open(cgroup, os.O_RDONLY)
    counts = []
    for hook in HOOKS:
        count = ctypes.c_uint32(64)
        found, flags = (ctypes.c_uint32 * 64)(), ctypes.c_uint32()
        assert not library.bpf_prog_query(
            directory, hook, 0, ctypes.byref(flags), found, ctypes.byref(count)
        )
        counts.append(count.value)
    os.close(directory)
    return counts


def cookie(sock: socket.socket) -> int:
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, 57, 8), sys.byteorder)


def run(code: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    words = [*command, sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path.cwd())


class TestObject:
    def test_is_made_of_the_source_beside_it(self) -> None:
        source = OBJECT.with_name("owner.bpf.c").read_bytes()
        assert hashlib.sha256(source).hexdigest().encode() in OBJECT.read_bytes()

    def test_is_reproducible_in_its_layout(self) -> None:
        sizes = [
            layout.size for layout in (records.USER, records.RECORD, records.FLOW, records.USE)
        ]
        assert sizes == [56, 144, 32, 88]


@pytest.mark.root
class TestAttaching:
    def test_close_detaches(self, cgroup: Path) -> None:
        owner_map = OwnerMap(cgroup)
        assert attached(cgroup) == [1] * 6
        owner_map.close()
        owner_map.close()
        assert attached(cgroup) == [0] * 6

    def test_kill_detaches(self, cgroup: Path) -> None:
        code = f"""
import time
from pathlib import Path
from tunowner.backends.linux.bpf.loader import OwnerMap
kept = OwnerMap(Path({str(cgroup)!r}))
print("ready", flush=True); time.sleep(60)"""
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        with process:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            assert attached(cgroup) == [1] * 6
            process.send_signal(signal.SIGKILL)
            process.wait()
        deadline = time.monotonic() + 5  # the kernel does it after the process is reaped
        while attached(cgroup) != [0] * 6:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def test_two_at_once_see_the_same(self, cgroup: Path) -> None:
        with OwnerMap(cgroup) as one, OwnerMap(cgroup) as two:
            assert attached(cgroup) == [2] * 6
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.connect(("127.0.0.9", 9))
                for owner_map in (one, two):
                    record = Reader(owner_map).socket(cookie(sock))
                    assert record is not None
                    assert record.last is not None
                    assert record.last.pid == os.getpid()
            one.close()
            assert attached(cgroup) == [1] * 6

    def test_without_attaching(self, cgroup: Path) -> None:
        with OwnerMap(cgroup, attach=False):
            assert attached(cgroup) == [0] * 6

    def test_a_closed_map_knows_nothing(self, cgroup: Path) -> None:
        owner_map = OwnerMap(cgroup)
        reader = Reader(owner_map)
        with socket.socket() as sock:
            assert reader.socket(cookie(sock)) is not None
            owner_map.close()
            assert reader.socket(cookie(sock)) is None
        assert reader.flow(FlowKey(UDP, LOOPBACK, 1, LOOPBACK, 2)) == []

    def test_owners_close_it(self, cgroup: Path) -> None:
        with LinuxOwners(bpf=OwnerMap(cgroup)) as owners:
            assert attached(cgroup) == [1] * 6
        assert attached(cgroup) == [0] * 6
        flow = FlowKey(TCP, LOOPBACK, 1, LOOPBACK, 2)
        assert owners._near_witness.gone(flow, owners._users) is None

    def test_no_descriptor_is_left(self, cgroup: Path) -> None:
        OwnerMap(cgroup).close()
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(3):
            OwnerMap(cgroup).close()
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.root
class TestRecord:
    def test_tells_what_proc_and_stat_tell(self, cgroup: Path) -> None:
        own, exe = ProcessDir.open(os.getpid()), Path("/proc/self/exe").stat()
        assert own is not None
        with OwnerMap(cgroup) as owner_map, socket.socket() as sock:
            record = Reader(owner_map).socket(cookie(sock))
            assert record is not None
            creator = record.creator
            assert creator is not None
            assert (creator.pid, owner_map.clock.ticks(creator.start)) == (own.pid, own.start)
            assert (creator.inode, creator.uid) == (exe.st_ino, os.geteuid())
            assert creator.device == os.major(exe.st_dev) << 20 | os.minor(exe.st_dev)
            assert creator.comm == Path("/proc/self/comm").read_text().strip()
            assert 0 <= owner_map.clock.now() - creator.time < 1_000_000_000
            assert record.descriptor == sock.fileno()
            assert record.last is None
            assert record.netns == Reader(owner_map)._netns

    def test_without_btf_the_helpers_tell_the_rest(self, cgroup: Path) -> None:
        with OwnerMap(cgroup, reads_tasks=False) as owner_map, socket.socket() as sock:
            record = Reader(owner_map).socket(cookie(sock))
            assert record is not None
            creator = record.creator
            assert creator is not None
            assert (creator.pid, creator.uid) == (os.getpid(), os.getuid())
            assert (creator.start, creator.inode, creator.exec_id) == (0, 0, 0)
            assert record.descriptor == -1

    def test_a_gap_in_the_descriptors(self, cgroup: Path) -> None:
        with OwnerMap(cgroup) as owner_map:
            kept = [socket.socket() for _ in range(70)]
            numbers = [sock.fileno() for sock in kept]
            for place in (3, 40):
                kept[place].close()
            for place in (3, 40):
                with socket.socket() as sock:
                    assert sock.fileno() == numbers[3]
                    record = Reader(owner_map).socket(cookie(sock))
                    assert record is not None
                    assert record.descriptor == numbers[3]
                assert place
            for sock in kept:
                sock.close()

    def test_given_away_while_it_was_copied(self) -> None:
        user = records.USER.pack(1, 2, 3, 4, 5, 6, 7, b"name")
        whole = records.RECORD.pack(8, 9, 3, 0, user, user, 8)
        torn = records.RECORD.pack(8, 9, 3, 0, user, user, 7)
        assert records.parse_record(whole, 8) is not None
        assert records.parse_record(torn, 8) is None
        assert records.parse_record(whole, 7) is None

    def test_a_tuple_given_away_while_it_was_copied(self) -> None:
        user = records.USER.pack(1, 2, 3, 4, 5, 6, 7, b"name")
        key, other = (
            records.flow_key(1, FlowKey(UDP, LOOPBACK, port, LOOPBACK, 53)) for port in (1, 2)
        )
        use = records.USE.pack(8, bytes(16), user, records.SENT, 0)
        whole = records.ENTRY.pack(key, use, bytes(records.USE.size), 8)
        assert [found.user.pid for found in records.parse_entry(whole, key)] == [5]
        assert records.parse_entry(whole, other) == []
        assert records.parse_entry(whole[:-8] + bytes(8), key) == []


class TestRefusals:
    def test_no_library(self) -> None:
        with pytest.raises(BackendError, match="apt install libbpf1"):
            libbpf.open_library("libbpf-not-here.so.1")

    @pytest.mark.root
    def test_no_privilege(self, cgroup: Path) -> None:
        code = f"""
import os, sys
from pathlib import Path
from tunowner.backends.linux.bpf.loader import OwnerMap
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try: OwnerMap(Path({str(cgroup)!r}))
except Exception as error: print(type(error).__name__, error)"""
        said = run(code)
        assert said.stdout.startswith("PrivilegeError eBPF: the kernel refused to load"), said
        assert "CAP_BPF" in said.stdout
        assert said.stderr == ""

    @pytest.mark.root
    def test_no_cgroup_v2(self) -> None:
        code = f"""
import ctypes
from tunowner.backends.linux.bpf.loader import OwnerMap
assert ctypes.CDLL(None).umount2({bytes(cgroup_root())!r}, 2) == 0  # MNT_DETACH
try: OwnerMap(attach=False)
except Exception as error: print(type(error).__name__, error)"""
        said = run(code, "unshare", "--mount", "--propagation", "private")
        assert said.stdout.startswith("BackendError eBPF: cgroup v2 is not mounted"), said

    @pytest.mark.root
    def test_a_pid_namespace(self) -> None:
        code = """
from tunowner.backends.linux.bpf.loader import OwnerMap
try: OwnerMap(attach=False)
except Exception as error: print(type(error).__name__, error)"""
        said = run(code, "unshare", "--pid", "--fork", "--mount-proc")
        assert said.stdout.startswith("BackendError eBPF: this is a pid namespace"), said

    @pytest.mark.root
    def test_no_such_cgroup(self, tmp_path: Path) -> None:
        with pytest.raises(BackendError, match="cannot be opened"):
            OwnerMap(tmp_path / "none")

    @pytest.mark.root
    def test_a_directory_that_is_no_cgroup(self, tmp_path: Path) -> None:
        with pytest.raises(BackendError, match="refused to attach"):
            OwnerMap(tmp_path)

    @pytest.mark.root
    def test_what_the_verifier_says(
        self, cgroup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broken = tmp_path / "owner.bpf.o"
        data = OBJECT.read_bytes()
        call = bytes((0x85, 0, 0, 0, 125, 0, 0, 0))  # of bpf_ktime_get_boot_ns()
        broken.write_bytes(data.replace(call, call[:4] + b"\xff\xff\0\0"))
        monkeypatch.setattr(loader, "OBJECT", broken)
        with pytest.raises(BackendError, match=r"refused to load.*(invalid|unknown) func"):
            OwnerMap(cgroup)
        assert attached(cgroup) == [0] * 6

    def test_the_last_line_that_tells_something(self) -> None:
        log = b"0: R1=ctx()\n1: (85) call x#9\nunknown func x#9\nprocessed 2 insns (limit 1)\n\n"
        assert loader._reason(log) == "unknown func x#9"
        assert loader._reason(b"") == ""


@pytest.mark.root
class TestBackend:
    def test_a_cgroup_by_name(self, cgroup: Path) -> None:
        from tunowner.backends.base import EbpfSettings
        from tunowner.backends.linux import LinuxBackend

        backend = LinuxBackend()
        owners = backend.open_owners(0, EbpfSettings(str(cgroup)))
        assert attached(cgroup) == [1] * 6
        owners.close()
        with pytest.raises(BackendError):
            backend.open_owners(0, EbpfSettings(str(cgroup / "none")))
        plain = backend.open_owners(0)
        assert attached(cgroup) == [0] * 6
        answer = plain.quick(FlowKey(UDP, LOOPBACK, 1, LOOPBACK, 2))
        assert answer is not None
        assert answer.grade == Grade.ABSENT
        plain.close()

    def test_doctor(self) -> None:
        from tunowner.backends.linux.doctor import checks

        (check,) = [check for check in checks() if check.name == "eBPF"]
        assert check.ok, check
