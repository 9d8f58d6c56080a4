"""The rows of owner-lookup.md, sections 2 and 5a to 5c, and what picosnitch's scenarios ask for."""

from __future__ import annotations

from tests.accuracy.scenarios import elsewhere, programs, rare, sharing, tcp, threads, udp

SCENARIOS = [
    row
    for part in (tcp, udp, sharing, programs, threads, elsewhere, rare)
    for row in part.scenario.rows
]
