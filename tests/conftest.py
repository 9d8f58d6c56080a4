"""Tests marked `root` are skipped, visibly, without root; with CI=true that is a failure."""

from __future__ import annotations

import os

import pytest

from tests.lab.fixtures import own_world, shared_world, world

__all__ = ["own_world", "shared_world", "world"]


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not _is_root():
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason="needs root"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to pass in CI with the tests that matter most left out."""
    needs_root = any(item.get_closest_marker("root") for item in session.items)
    if needs_root and not _is_root() and os.environ.get("CI") == "true":
        pytest.exit("CI=true, and tests marked `root` would be skipped: needs root", returncode=1)
