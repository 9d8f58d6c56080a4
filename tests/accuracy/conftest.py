"""One arena for the whole suite, and its table at the end of the session."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.accuracy.model import Scores
from tests.accuracy.table import lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.accuracy.arena import Arena

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]

SCORES = pytest.StashKey[Scores]()


@pytest.fixture(scope="package")
def scores(request: pytest.FixtureRequest) -> Scores:
    return request.config.stash.setdefault(SCORES, Scores())


@pytest.fixture(scope="package")
def arena(scores: Scores) -> Iterator[Arena]:
    from tests.accuracy.arena import arena

    with arena(scores) as made:
        yield made


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    scores = config.stash.get(SCORES, None)
    if scores is not None and scores.tallies:
        terminalreporter.section("who opened this flow?")
        for line in lines(scores):
            terminalreporter.line(line)
