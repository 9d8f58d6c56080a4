"""See the DNS packets of this network namespace: a packet socket with a filter in the kernel.

The kernel shows a packet here before it hands it on (packet(7); __netif_receive_skb_core() in
net/core/dev.c), so whoever acts on an answer has not read it before we could. The filter is
classic BPF (Documentation/networking/filter.rst): UDP from or to port 53, no later fragments.
"""

from __future__ import annotations

import ctypes
import socket
import struct

from tunowner.errors import BackendError, PrivilegeError

_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
_SO_ATTACH_FILTER = 26
_PROTOCOL = 0xFFFF_F000
"""SKF_AD_OFF + SKF_AD_PROTOCOL, <linux/filter.h>: the EtherType, where no header holds it."""
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_LOAD_HALF_AFTER_X, _LOAD_X_HEADER_LENGTH = 0x48, 0xB1
_JUMP_EQUAL, _JUMP_SET, _RETURN = 0x15, 0x45, 0x06
_UDP, _PORT = 17, 53
_LONGEST = 65_535
_RECEIVE_BUFFER = 1024 * 1024

_FILTER = (
    # code, jump if true, jump if false, constant; jumps count from the next instruction
    (_LOAD_WORD, 0, 0, _PROTOCOL),
    (_JUMP_EQUAL, 0, 9, _ETH_P_IP),
    (_LOAD_BYTE, 0, 0, 9),  # IPv4: protocol
    (_JUMP_EQUAL, 0, 15, _UDP),
    (_LOAD_HALF, 0, 0, 6),  # fragment offset
    (_JUMP_SET, 13, 0, 0x1FFF),
    (_LOAD_X_HEADER_LENGTH, 0, 0, 0),
    (_LOAD_HALF_AFTER_X, 0, 0, 0),
    (_JUMP_EQUAL, 9, 0, _PORT),
    (_LOAD_HALF_AFTER_X, 0, 0, 2),
    (_JUMP_EQUAL, 7, 8, _PORT),
    (_JUMP_EQUAL, 0, 7, _ETH_P_IPV6),
    (_LOAD_BYTE, 0, 0, 6),  # IPv6: next header
    (_JUMP_EQUAL, 0, 5, _UDP),
    (_LOAD_HALF, 0, 0, 40),
    (_JUMP_EQUAL, 2, 0, _PORT),
    (_LOAD_HALF, 0, 0, 42),
    (_JUMP_EQUAL, 0, 1, _PORT),
    (_RETURN, 0, 0, _LONGEST),
    (_RETURN, 0, 0, 0),
)
_INSTRUCTION = struct.Struct("=HBBI")
"""`struct sock_filter`, <linux/filter.h>."""
_PROGRAM = struct.Struct("@HP")
"""`struct sock_fprog`: how many, and where they are."""


class DnsTap:
    """A PacketTap of UDP packets from and to port 53, on all interfaces.

    Raises PrivilegeError without CAP_NET_RAW.
    """

    def __init__(self) -> None:
        try:
            # Until the filter is there all packets come in; whoever reads takes no notice.
            everything = socket.htons(_ETH_P_ALL)
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, everything)
        except PermissionError:
            raise PrivilegeError(
                "may not see DNS packets", where="packet socket", hint="run as root"
            ) from None
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            self._attach()
        except OSError as error:
            self._socket.close()
            raise BackendError(
                f"the kernel shows no DNS packets ({error.strerror})",
                where="packet socket",
                hint="rules that ask for a host need it; take them out",
            ) from error

    def _attach(self) -> None:
        code = b"".join(_INSTRUCTION.pack(*instruction) for instruction in _FILTER)
        memory = ctypes.create_string_buffer(code, len(code))
        program = _PROGRAM.pack(len(_FILTER), ctypes.addressof(memory))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bytes | None:
        """See PacketTap.read. Packets that found no room in the socket's buffer are lost."""
        try:
            return self._socket.recv(_LONGEST)
        except OSError:
            return None

    def close(self) -> None:
        self._socket.close()
