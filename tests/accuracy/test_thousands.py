"""Thousands of rounds: what goes wrong once in a thousand is wrong.

Played last, by the file's name: what it leaves in TIME_WAIT hides the sockets of later rows from
those baselines that take the first row with the port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.accuracy import runs
from tests.accuracy.stage import stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.accuracy.arena import Arena
    from tests.accuracy.stage import Stage

EBPF, PLAIN = "tunowner, eBPF", "tunowner, no eBPF"


@pytest.fixture
def on(arena: Arena) -> Iterator[Stage]:
    with stage(arena.folder) as made:
        yield made


def test_port_reuse(arena: Arena, on: Stage) -> None:
    rounds = 1000
    run, gaps = runs.reuse(arena, on, "run: port reused by two programs", rounds)
    soon = sum(gap <= 10 for gap in gaps)
    arena.scores.figures.append(
        f"port reuse: {rounds} rounds, {soon} within 10 ms, "
        f"median {sorted(gaps)[rounds // 2]:.2f} ms; not named with eBPF: {dict(run.why)}"
    )
    assert not run.wrong, run.wrong[:3]
    assert run.tallies[PLAIN].right == rounds


@pytest.mark.root
def test_senders_that_have_exited(arena: Arena, on: Stage) -> None:
    needs_ebpf(arena)
    rounds = 1000
    run = runs.exited(arena, on, "run: sendto() and exit", "udp", rounds)
    arena.scores.figures.append(_exited("sendto() and exit", run, rounds))
    assert not run.wrong, run.wrong[:3]
    assert run.tallies[EBPF].right >= 0.99 * rounds


@pytest.mark.root
def test_clients_that_have_exited(arena: Arena, on: Stage) -> None:
    needs_ebpf(arena)
    rounds = 2000
    run = runs.exited(arena, on, "run: connect(), one byte, exit", "tcp", rounds)
    arena.scores.figures.append(_exited("connect(), one byte, exit", run, rounds))
    assert not run.wrong, run.wrong[:3]
    assert run.tallies[EBPF].right == rounds


def needs_ebpf(arena: Arena) -> None:
    if not any(each.notes for each in arena.contestants):
        pytest.skip("no eBPF here")


def _exited(what: str, run: runs.Run, rounds: int) -> str:
    right = run.tallies[EBPF].right
    return (
        f"{what}: {right} of {rounds} attributed with eBPF after the exit, "
        f"{run.named} with the path; else {dict(run.why)}"
    )
