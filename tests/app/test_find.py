from __future__ import annotations

from typing import Any

import pytest

from tunowner import TunOwnerError, find_process


@pytest.mark.parametrize(
    ("question", "complaint"),
    [
        (("icmp", "127.0.0.1", 1), "protocol 'icmp' is not one of tcp, udp"),
        ((6, "127.0.0.1", 1), "protocol 6 is not one of tcp, udp"),
        (("tcp", "localhost", 1), "'localhost' is no IP address"),
        (("tcp", "127.0.0.1", 0), "port 0 is not in"),
        (("tcp", "127.0.0.1", 65536), "port 65536 is not in"),
        (("tcp", "127.0.0.1", "80"), "port '80' is not in"),
        (("tcp", "::1", 80, ("::1", 81, 0, 0)), r"name\[:2\]"),
        (("tcp", "127.0.0.1", 80, "127.0.0.1:81"), "is not \\(address, port\\)"),
        (("tcp", "127.0.0.1", 80, ("127.0.0.1",)), "is not \\(address, port\\)"),
        (("tcp", "127.0.0.1", 80, ("", 81)), "needs an address"),
        (("tcp", "127.0.0.1", 80, ("::1", None)), "port None is not in"),
        (("tcp", "::1", 80, ("127.0.0.1", 81)), "of different IP versions"),
        (("udp", "192.0.2.1", 80, ("2001:db8::1", 81)), "of different IP versions"),
    ],
)
def test_what_cannot_be_asked(question: tuple[Any, ...], complaint: str) -> None:
    with pytest.raises(TunOwnerError, match=complaint):
        find_process(*question)
