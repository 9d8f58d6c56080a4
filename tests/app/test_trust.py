"""Who may write the rules that root acts on. The modes and owners are real: it needs root."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tunowner.app import trust
from tunowner.app.config import load_rules
from tunowner.app.trust import Trust, trust_of_root
from tunowner.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root
ANA, BOB = 54_321, 54_322
RULE = "version: 1\nrules: [ { name: a, match: any, action: direct } ]\n"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others may reach, with one rule file in it, both of root."""
    made = Path(tempfile.mkdtemp(prefix="tuo-trust-")).resolve()
    made.chmod(0o755)
    file(made / "a.yaml")
    yield made
    shutil.rmtree(made)


def file(path: Path, mode: int = 0o644, user: int = 0) -> Path:
    path.write_text(RULE)
    path.chmod(mode)
    os.chown(path, user, user)
    return path


def complaints(*paths: Path) -> list[str]:
    try:
        load_rules(list(map(str, paths)))
    except ConfigError as error:
        return [str(finding) for finding in error.findings]
    return []


def writable(path: Path, who: str) -> str:
    return (
        f"{path}: error E021: {who} may write it, and could change what root does; "
        f"chmod go-w '{path}'"
    )


def foreign(path: Path, user: int = ANA) -> str:
    return (
        f"{path}: error E020: belongs to user {user}, who could change what root does; "
        f"chown root '{path}'"
    )


def test_what_only_root_may_write(folder: Path) -> None:
    assert complaints(folder) == complaints(folder / "a.yaml") == []


@pytest.mark.parametrize(("mode", "who"), [(0o664, "group 0"), (0o666, "everybody")])
def test_a_file_that_others_may_write(folder: Path, mode: int, who: str) -> None:
    bad = file(folder / "b.yaml", mode)
    assert complaints(folder) == complaints(bad) == [writable(bad, who)]
    assert complaints(folder / "a.yaml") == []


@pytest.mark.parametrize(("mode", "who"), [(0o775, "group 0"), (0o1777, "everybody")])
def test_a_folder_into_which_others_may_put_a_file(folder: Path, mode: int, who: str) -> None:
    rules = folder / "rules.d"
    rules.mkdir()
    file(rules / "a.yaml")
    rules.chmod(mode)
    assert complaints(rules) == [writable(rules, who)]


def test_a_file_of_somebody_else(folder: Path) -> None:
    bad = file(folder / "b.yaml", user=ANA)
    assert complaints(folder) == [foreign(bad)]


def test_a_folder_of_somebody_else(folder: Path) -> None:
    rules = folder / "rules.d"
    rules.mkdir()
    good = file(rules / "a.yaml")
    os.chown(rules, ANA, ANA)
    assert complaints(rules) == complaints(good) == [foreign(rules)]


def test_every_folder_above_counts(folder: Path) -> None:
    deep = folder / "one" / "two"
    deep.mkdir(parents=True)
    good = file(deep / "a.yaml")
    (folder / "one").chmod(0o777)
    assert complaints(good) == complaints(deep) == [writable(folder / "one", "everybody")]
    (folder / "one").chmod(0o1777)  # as /tmp: nobody can replace what is not his
    assert complaints(good) == []


def test_a_link_is_followed(folder: Path) -> None:
    away = folder / "away"
    away.mkdir()
    target = file(away / "rules.txt")
    rules = folder / "rules.d"
    rules.mkdir()
    (rules / "b.yaml").symlink_to("../away/rules.txt")
    assert complaints(rules) == []
    target.chmod(0o666)
    assert complaints(rules) == [writable(rules / "b.yaml", "everybody")]
    target.chmod(0o644)
    away.chmod(0o777)
    assert complaints(rules) == [writable(away, "everybody")]


def test_a_folder_that_is_a_link(folder: Path) -> None:
    away = folder / "away"
    away.mkdir()
    file(away / "a.yaml")
    (folder / "rules.d").symlink_to("away")
    assert complaints(folder / "rules.d") == []
    away.chmod(0o777)
    assert complaints(folder / "rules.d") == [writable(folder / "rules.d", "everybody")]


def test_a_link_that_somebody_else_may_turn_elsewhere(folder: Path) -> None:
    shared = folder / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    link = shared / "a.yaml"
    link.symlink_to(folder / "a.yaml")
    assert complaints(link) == []
    os.chown(link, ANA, ANA, follow_symlinks=False)
    (line,) = complaints(link)
    assert "E020: is a link of user 54321" in line
    onward = folder / "b.yaml"
    onward.symlink_to(link)
    assert complaints(onward) == [line]


def test_all_that_is_wrong_is_told_at_once(folder: Path) -> None:
    bad = [file(folder / "b.yaml", 0o666), file(folder / "c.yaml", user=BOB)]
    (folder / "d.yaml").write_text("version: 2")
    (folder / "d.yaml").chmod(0o644)
    found = complaints(folder)
    assert found[:2] == [writable(bad[0], "everybody"), foreign(bad[1], BOB)]
    assert "E013" in found[2]


def test_the_user_who_called_sudo_may_write_his_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = file(folder / "b.yaml", 0o664, ANA)
    monkeypatch.setenv("SUDO_UID", str(ANA))
    monkeypatch.setenv("SUDO_GID", str(ANA))
    assert complaints(own) == []
    own.chmod(0o666)
    assert complaints(own) == [writable(own, "everybody")]
    monkeypatch.setenv("SUDO_UID", "nonsense")
    own.chmod(0o644)
    assert complaints(own) == [foreign(own)]


def test_whoever_may_write_the_program_may_write_its_rules(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout of a user, run by root, as in a container."""
    (folder / "checkout" / "app").mkdir(parents=True)
    code = file(folder / "checkout" / "app" / "trust.py", 0o664, ANA)
    monkeypatch.setattr(trust, "__file__", str(code))
    above = frozenset(code.parents)
    assert trust_of_root({}) == Trust(frozenset((0, ANA)), frozenset((ANA,)), above)
    rules = file(folder / "checkout" / "b.yaml", 0o664, ANA)
    assert complaints(rules) == []
    folder.chmod(0o777)  # as a container's folder for checkouts may be
    assert complaints(rules) == []
    code.chmod(0o644)
    assert trust_of_root({}) == Trust(frozenset((0, ANA)), frozenset(), above)
    assert complaints(rules) == [writable(rules, f"group {ANA}")]


def test_without_root_nobody_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file(folder / "b.yaml", 0o666)
    monkeypatch.setattr(os, "geteuid", lambda: ANA)
    assert trust_of_root({}) is None
    (folder / "a.yaml").unlink()
    assert complaints(folder) == []
