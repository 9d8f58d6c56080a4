"""Put owner.bpf.o into the kernel, attach it to a cgroup, read its maps.

Programs are attached by links with ALLOW_MULTI, so that those of others stay (cgroup_bpf_link_attach()
in kernel/bpf/cgroup.c). A link lives as long as its descriptor: however this process ends, nothing
stays behind. What is attached to the root of the hierarchy sees all sockets of the machine.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tunowner.backends.linux.bpf import libbpf
from tunowner.backends.linux.bpf.closings import Closings
from tunowner.backends.linux.bpf.programs import Programs
from tunowner.backends.linux.bpf.records import (
    DEPARTURE,
    ENTRY,
    FLOW,
    NANOSECONDS,
    RECORD,
    departure_key,
    flow_key,
    parse_entry,
    parse_record,
)
from tunowner.backends.linux.bpf.witness import Witness
from tunowner.errors import BackendError, PrivilegeError, TunOwnerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from tunowner.backends.linux.bpf.records import Record, Use
    from tunowner.core.model import FlowKey

OBJECT = Path(__file__).with_name("owner.bpf.o")
BTF = Path("/sys/kernel/btf/vmlinux")
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
"""PROC_PID_INIT_INO in <linux/proc_ns.h>."""
_SO_NETNS_COOKIE = 71
"""<asm-generic/socket.h>, Linux 5.14."""
_LOG_SIZE = 1 << 16
_UNUSED = 64
"""Entries of a map that is not used; one has to have some."""
_ON_DEVICE = b"leaves"
"""The program that is attached to a network device; all others are to the cgroup."""


def cgroup_root() -> Path:
    """Return where cgroup v2 is mounted. Raises BackendError where it is not."""
    mounts = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    for fields in (line.split(" ") for line in mounts):
        if len(fields) > 2 and fields[2] == "cgroup2":
            return Path(fields[1].replace("\\040", " "))
    hint = "mount -t cgroup2 none /sys/fs/cgroup/unified"
    raise BackendError("cgroup v2 is not mounted", where="eBPF", hint=hint)


def open_map(cgroup: str | None, interface: int = 0) -> OwnerMap | None:
    """Attach to a cgroup, or to the whole machine; there it is done without where it is refused."""
    if cgroup is not None:
        return OwnerMap(Path(cgroup), interface=interface)
    with suppress(TunOwnerError, OSError):
        return OwnerMap(interface=interface)
    return None


class OwnerMap:
    """The program, attached to `cgroup` (the root of the hierarchy when None).

    `interface` is the index of a device of ours that packets are read from, 0 where there is none:
    then it is noted which socket they come from. `sockets` is how many it remembers; the one used longest ago goes first. `reads_tasks` is
    whether the kernel's BTF is used; None tries, and does without where that fails. Without
    `attach` the kernel is only asked whether it would take the program. Raises PrivilegeError or BackendError with nothing left behind.
    """

    def __init__(
        self,
        cgroup: Path | None = None,
        *,
        sockets: int | None = None,
        reads_tasks: bool | None = None,
        interface: int = 0,
        attach: bool = True,
    ) -> None:
        self.reads_tasks = BTF.exists() if reads_tasks is None else reads_tasks
        self.sockets_fd = self.flows_fd = self.departures_fd = -1
        self._interface = interface if attach else 0
        self.clock = BootClock()
        self._programs = Programs(self.clock)
        self.library = libbpf.open_library()
        self._undo = ExitStack()
        _check_pid_namespace()
        with libbpf.silence(self.library):
            try:
                self._open(sockets, may_do_without=reads_tasks is None)
                directory = cgroup or cgroup_root()
                if attach:
                    self._attach(directory)
                if self._interface:
                    self._attach_to_device(self._interface)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach, forget. Safe to call twice."""
        self.sockets_fd = self.flows_fd = self.departures_fd = -1
        self._undo.close()
        self._programs.clear()

    def witness(self) -> Witness:
        """Return what answers from the maps, for one thread."""
        return Witness(Reader(self), self._programs)

    def closings(self) -> Closings | None:
        """Tell of UDP sockets of this network namespace that close; None where that cannot be had."""
        netns = _network_namespace()
        with suppress(OSError):
            return Closings(self, netns) if netns else None
        return None

    def fd(self, name: bytes) -> int:
        """Return the descriptor of a map, which lives as long as this does."""
        return int(self.library.bpf_map__fd(self._map(name)))

    def _open(self, sockets: int | None, *, may_do_without: bool) -> None:
        try:
            self._load(sockets)
        except BackendError:
            if not (may_do_without and self.reads_tasks):
                raise
            self._undo.close()
            self.reads_tasks = False
            self._load(sockets)

    def _load(self, sockets: int | None) -> None:
        log = ctypes.create_string_buffer(_LOG_SIZE)
        options = libbpf.OpenOptions(
            size=ctypes.sizeof(libbpf.OpenOptions),
            kernel_log_buf=ctypes.addressof(log),
            kernel_log_size=_LOG_SIZE,
        )
        if not self.reads_tasks:  # then the offsets do not matter, and its own BTF will do
            options.btf_custom_path = bytes(OBJECT)
        made = _try("open", lambda: self.library.bpf_object__open_file(bytes(OBJECT), options), log)
        self._object = made
        self._undo.callback(self.library.bpf_object__close, made)
        self._configure(sockets)
        _try("load", lambda: self.library.bpf_object__load(made), log)
        self.sockets_fd = self.fd(b"sockets")
        self.flows_fd = self.fd(b"flows")

    def _configure(self, sockets: int | None) -> None:
        flag = ctypes.c_uint32(self.reads_tasks)
        constants = self._map(b".rodata")
        libbpf.check(self.library.bpf_map__set_initial_value(constants, ctypes.byref(flag), 4))
        self.library.bpf_program__set_autoload(self._on_device(), bool(self._interface))
        if not self._interface:
            libbpf.check(self.library.bpf_map__set_max_entries(self._map(b"departures"), _UNUSED))
        if sockets is not None:
            for name in (b"sockets", b"flows"):
                libbpf.check(self.library.bpf_map__set_max_entries(self._map(name), sockets))

    def _map(self, name: bytes) -> int:
        return libbpf.check(self.library.bpf_object__find_map_by_name(self._object, name))

    def _on_device(self) -> int:
        name = _ON_DEVICE
        return libbpf.check(self.library.bpf_object__find_program_by_name(self._object, name))

    def _attach(self, cgroup: Path) -> None:
        try:
            directory = os.open(cgroup, os.O_RDONLY)
        except OSError as error:
            raise BackendError(
                f"{cgroup} cannot be opened ({error.strerror})", where="eBPF"
            ) from error
        try:
            program = self.library.bpf_object__next_program(self._object, None)
            while program:
                if self.library.bpf_program__name(program) != _ON_DEVICE:
                    self._attach_program(program, directory)
                program = self.library.bpf_object__next_program(self._object, program)
        finally:
            os.close(directory)

    def _attach_program(self, program: int, directory: int) -> None:
        name = self.library.bpf_program__name(program).decode()
        link = _try(
            f"attach {name}", lambda: self.library.bpf_program__attach_cgroup(program, directory)
        )
        self._undo.callback(self.library.bpf_link__destroy, link)

    def _attach_to_device(self, interface: int) -> None:
        """Attach to a device; where the kernel has no sch_clsact, do without."""
        hook = libbpf.TcHook(ctypes.sizeof(libbpf.TcHook), interface, libbpf.TC_EGRESS)
        program = self.library.bpf_program__fd(self._on_device())
        options = libbpf.TcOptions(ctypes.sizeof(libbpf.TcOptions), program)
        made = self.library.bpf_tc_hook_create(hook)
        if made == 0:
            whole = libbpf.TcHook(hook.size, interface, libbpf.TC_EGRESS | libbpf.TC_INGRESS)
            self._undo.callback(self.library.bpf_tc_hook_destroy, whole)
        if made in (0, -errno.EEXIST) and not self.library.bpf_tc_attach(hook, options):
            ours = libbpf.TcOptions(options.size, handle=options.handle, priority=options.priority)
            self._undo.callback(self.library.bpf_tc_detach, hook, ours)
            self.departures_fd = self.fd(b"departures")


class Reader:
    """Looks sockets and flows up in the maps; about 3 us each. For one thread."""

    def __init__(self, owner_map: OwnerMap) -> None:
        self._map = owner_map
        self._look_up = owner_map.library.bpf_map_lookup_elem
        self._cookie = ctypes.c_uint64()
        self._cookie_at = ctypes.addressof(self._cookie)
        self._key = ctypes.create_string_buffer(FLOW.size)
        self._record = ctypes.create_string_buffer(RECORD.size)
        self._record_at = ctypes.addressof(self._record)
        self._entry = ctypes.create_string_buffer(ENTRY.size)
        self._departure = ctypes.create_string_buffer(DEPARTURE.size)
        self._moment = ctypes.c_uint64()
        self._netns = _network_namespace()
        self.now = owner_map.clock.now
        self.monotonic = owner_map.clock.monotonic

    def socket(self, cookie: int) -> Record | None:
        self._cookie.value = cookie
        if self._look_up(self._map.sockets_fd, self._cookie_at, self._record_at):
            return None
        return parse_record(self._record, cookie)

    def flow(self, flow: FlowKey) -> list[Use]:
        """Return the uses of a tuple in this network namespace, the latest first."""
        if not self._netns:
            return []
        key = flow_key(self._netns, flow)
        self._key.raw = key
        if self._look_up(self._map.flows_fd, self._key, self._entry):
            return []
        return parse_entry(self._entry, key)

    @property
    def sees_departures(self) -> bool:
        return self._map.departures_fd >= 0

    def departed(self, flow: FlowKey, cookie: int) -> int:
        """Return when the socket last sent a packet of the flow by the device, monotonic ns; or 0."""
        return self._departed(departure_key(flow, cookie))

    def departed_untold(self) -> int:
        """The same of packets that tell too little."""
        return self._departed(bytes(DEPARTURE.size))

    def _departed(self, key: bytes) -> int:
        self._departure.raw = key
        if self._look_up(self._map.departures_fd, self._departure, ctypes.byref(self._moment)):
            return 0
        return self._moment.value


class BootClock:
    """Boot time of the kernel's notes, as this process and its /proc count it.

    A time namespace shifts both /proc/PID/stat (timens_add_boottime_ns() in fs/proc/array.c) and
    clock_gettime(), never what a program in the kernel reads (time_namespaces(7)).
    """

    def __init__(self) -> None:
        self._shift = _shift_of("boottime")
        self._monotonic_shift = _shift_of("monotonic")
        self._tick = NANOSECONDS // os.sysconf("SC_CLK_TCK")

    def ticks(self, nanoseconds: int) -> int:
        """Return what /proc/PID/stat says in field 22 for a process that started then."""
        return (nanoseconds + self._shift) // self._tick

    def now(self) -> int:
        """Return the time as the kernel's notes have it."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self._shift

    def monotonic(self, seconds: float) -> int:
        """Return a time of time.monotonic() as the kernel's notes have it."""
        return int(seconds * NANOSECONDS) - self._monotonic_shift

    def wall_time(self, nanoseconds: int) -> int:
        """Return the time of a note as ns since 1970, which clock changes since then shift."""
        return time.time_ns() - (self.now() - nanoseconds)


def _try(
    what: str, action: Callable[[], int | None], log: ctypes.Array[ctypes.c_char] | None = None
) -> int:
    try:
        return libbpf.check(action())
    except OSError as error:
        reason = _reason(log.value if log else b"") or error.strerror
        if error.errno in (errno.EPERM, errno.EACCES) and not (log and log.value):
            raise PrivilegeError(
                f"the kernel refused to {what} the program ({reason})",
                where="eBPF",
                hint="run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN",
            ) from error
        raise BackendError(
            f"the kernel refused to {what} the program ({reason})",
            where="eBPF",
            hint="Linux 5.9 or newer is needed",
        ) from error


def _reason(log: bytes) -> str:
    """Return the last line of the verifier's log that says something; statistics follow it."""
    lines = [line for line in log.decode(errors="replace").splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("processed ", "verification time"))]
    return telling[-1] if telling else ""


def _check_pid_namespace() -> None:
    """The kernel's notes hold pids of the initial namespace, which mean nothing in another."""
    if Path("/proc/self/ns/pid").stat().st_ino != _INITIAL_PID_NAMESPACE:
        raise BackendError(
            "this is a pid namespace of its own", where="eBPF", hint="run on the host"
        )


def _network_namespace() -> int:
    """Return the cookie of this namespace, 0 where the kernel does not tell (before 5.14)."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return int.from_bytes(
            probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder
        )
    return 0


def _shift_of(clock: str) -> int:
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/timens_offsets").read_text().splitlines():
            name, seconds, nanoseconds = line.split()
            if name == clock:
                return int(seconds) * NANOSECONDS + int(nanoseconds)
    return 0
