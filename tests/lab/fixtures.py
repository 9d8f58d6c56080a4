"""The fixtures; tests/conftest.py makes them known everywhere."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.lab.world import World, open_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.snapshot import Snapshot


class SharedWorld:
    """One world for many tests; made again after a test that left it changed."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._made: tuple[World, Snapshot] | None = None

    def get(self) -> tuple[World, Snapshot]:
        if self._made is None:
            world = self._stack.enter_context(open_world())
            self._made = world, world.client.snapshot()
        return self._made

    def discard(self) -> None:
        self._made = None
        self._stack.close()


def _lasting_changes(world: World, before: Snapshot, patience: float = 2.0) -> list[str]:
    """Return what stays changed; what a killed process held may take a moment to go."""
    deadline = time.monotonic() + patience
    while changed := before.diff(world.client.snapshot()):
        if time.monotonic() > deadline:
            break
    return changed


@pytest.fixture(scope="module")
def shared_world() -> Iterator[SharedWorld]:
    """Hold the world of a module; tests take `world`."""
    shared = SharedWorld()
    try:
        yield shared
    finally:
        shared.discard()


@pytest.fixture
def world(shared_world: SharedWorld) -> Iterator[World]:
    """Lend the module's world. The test must leave the client's network as it found it."""
    world, before = shared_world.get()
    world.forget()
    try:
        yield world
        world.end_test()
        changed = _lasting_changes(world, before)
        assert not changed, "the test left the client changed:\n" + "\n".join(changed)
    except BaseException:
        shared_world.discard()
        raise


@pytest.fixture
def own_world() -> Iterator[World]:
    """Make a world for this test alone, which may do to it what it likes."""
    with open_world() as made:
        yield made
