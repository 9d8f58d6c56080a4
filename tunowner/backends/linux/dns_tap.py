"""Copies of the DNS packets that this network namespace sends and receives, touching nothing.

A packet socket (packet(7)) with a filter in the kernel (the classic BPF of
Documentation/networking/filter.rst), so that nothing else costs anything: UDP from or to port
53, not a later fragment. On loopback a packet is seen twice, as it is sent and as it is received.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

from tunowner.errors import BackendError, PrivilegeError

_ETH_P_ALL = 3
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 4 * 1024 * 1024
"""About 3,000 answers with their questions: they wait until a rule asks for a name."""
_LARGEST = 65_535
_MOST_PACKETS = 8_192
"""Read in one go; more than the buffer holds."""

_LOAD_BYTE, _LOAD_HALF, _LOAD_WORD = 0x30, 0x28, 0x20
_LOAD_HALF_INDEXED, _LOAD_HEADER_LENGTH = 0x48, 0xB1
_AND, _EQUAL, _SET, _RETURN = 0x54, 0x15, 0x45, 0x06
_UDP, _DNS = 17, 53
_FILTER = (
    # code, jump if true, jump if false, operand; jumps count from the next line
    (_LOAD_BYTE, 0, 0, 0),  # the version, where the link's header is taken off (SOCK_DGRAM)
    (_AND, 0, 0, 0xF0),
    (_EQUAL, 0, 9, 0x40),
    (_LOAD_BYTE, 0, 0, 9),
    (_EQUAL, 0, 15, _UDP),
    (_LOAD_HALF, 0, 0, 6),
    (_SET, 13, 0, 0x1FFF),
    (_LOAD_HEADER_LENGTH, 0, 0, 0),
    (_LOAD_HALF_INDEXED, 0, 0, 0),
    (_EQUAL, 9, 0, _DNS),
    (_LOAD_HALF_INDEXED, 0, 0, 2),
    (_EQUAL, 7, 8, _DNS),
    (_EQUAL, 0, 7, 0x60),
    (_LOAD_BYTE, 0, 0, 6),
    (_EQUAL, 0, 5, _UDP),
    (_LOAD_HALF, 0, 0, 40),
    (_EQUAL, 2, 0, _DNS),
    (_LOAD_HALF, 0, 0, 42),
    (_EQUAL, 0, 1, _DNS),
    (_RETURN, 0, 0, _LARGEST),
    (_RETURN, 0, 0, 0),
)


class LinuxDnsTap:
    """A DnsTap. Raises PrivilegeError without CAP_NET_RAW."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)
            )
        except PermissionError as error:
            raise PrivilegeError(
                "rules ask for host names, and DNS answers may not be looked at",
                hint="it takes CAP_NET_RAW: run with sudo",
            ) from error
        except OSError as error:
            raise BackendError(
                f"the kernel has no packet sockets ({error.strerror})", hint="modprobe af_packet"
            ) from error
        self._socket.setblocking(False)
        self._attach_filter()
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)

    def _attach_filter(self) -> None:
        """What came before the filter was there is read like the rest, and is no DNS."""
        code = b"".join(struct.pack("=HBBI", *line) for line in _FILTER)
        buffer = ctypes.create_string_buffer(code)
        program = struct.pack("@HP", len(_FILTER), ctypes.addressof(buffer))  # struct sock_fprog
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def read(self) -> list[bytes]:
        """See DnsTap.read."""
        packets: list[bytes] = []
        while len(packets) < _MOST_PACKETS:
            try:
                packets.append(self._socket.recv(_LARGEST))
            except OSError as error:
                if error.errno not in (errno.ENETDOWN, errno.EINTR):  # an interface went down
                    break
        return packets

    def close(self) -> None:
        self._socket.close()
