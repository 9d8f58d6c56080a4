"""A TUN device: the door through which the kernel hands us packets.

Facts (kernel Documentation/networking/tuntap.rst, <linux/if_tun.h>):
- The device lives as long as the descriptor, so a killed process leaves none behind.
- IFF_NO_PI: a read gives one IP packet and nothing before it. IFF_TUN_EXCL: an existing device of
  that name is an error (EBUSY) and is never joined.
- A read never gives half a packet; with O_NONBLOCK it fails with EAGAIN when none waits, and with
  EBADFD once somebody else has deleted the device.
"""

from __future__ import annotations

import errno
import os
import struct
from fcntl import ioctl
from pathlib import Path
from socket import if_nametoindex

from tunowner.errors import BackendError, DeviceClosed, PrivilegeError

NODE = Path("/dev/net/tun")
MTU = 65_535
"""The largest IP packet, so that a datagram of any size is one packet here, never fragments."""
QUEUE_LENGTH = 32_768
"""Packets that the kernel keeps for us (500 by default): 10,000 flows at once, and their SYNs sent
again while a busy machine has not come round to the first."""

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI, _IFF_TUN_EXCL = 0x0001, 0x1000, 0x8000
_IFREQ = struct.Struct("16sH22x")


class Tun:
    """A non-persistent, non-blocking TUN device. `open_tun` makes one."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self.name = name
        self.index = if_nametoindex(name)

    def fileno(self) -> int:
        return self._fd

    def read(self) -> bytes | None:
        """Return one packet, or None when none waits. Raise DeviceClosed when there is no device."""
        try:
            return os.read(self._fd, MTU)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EINTR:
                return None
            raise DeviceClosed(
                "the device has gone",
                where=self.name,
                hint="Somebody deleted it: start tunowner again",
            ) from error

    def close(self) -> None:
        """Remove the device. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_tun(name: str) -> Tun:
    """Create the device, still down and without addresses.

    Raises BackendError when there is no /dev/net/tun or the name is taken, and PrivilegeError
    without CAP_NET_ADMIN.
    """
    try:
        fd = os.open(NODE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError as error:
        raise _no_privilege(name) from error
    except OSError as error:
        raise BackendError(
            f"cannot open {NODE} ({error.strerror})",
            where=name,
            hint="Load it with `modprobe tun`, or give the container --device /dev/net/tun",
        ) from error
    try:
        ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_TUN_EXCL))
        return Tun(fd, name)
    except OSError as error:
        os.close(fd)
        raise _refused(name, error) from error


def _refused(name: str, error: OSError) -> BackendError | PrivilegeError:
    if error.errno == errno.EPERM:
        return _no_privilege(name)
    if error.errno in (errno.EBUSY, errno.EEXIST):
        return BackendError(
            "the device exists already, so another tunowner is running in this network namespace",
            where=name,
            hint="Stop that one first",
        )
    return BackendError(f"cannot create the TUN device ({error.strerror})", where=name)


def _no_privilege(name: str) -> PrivilegeError:
    return PrivilegeError(
        "cannot create the TUN device: CAP_NET_ADMIN is missing",
        where=name,
        hint="Run with sudo, or give the service AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW",
    )
