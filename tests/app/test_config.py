"""Reading rule files: what cannot be read is a finding with a place, never a traceback."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from tunowner.app.config import MAX_FILE_BYTES, load_rules, usual_paths
from tunowner.errors import ConfigError, Finding

if TYPE_CHECKING:
    from pathlib import Path

EMPTY = "version: 1\nrules: []\n"


def rule(name: str) -> str:
    return f"version: 1\nrules:\n  - {{name: {name}, match: {{app: curl}}, action: block}}\n"


def findings(*paths: Path) -> tuple[Finding, ...]:
    with pytest.raises(ConfigError) as caught:
        load_rules(list(map(str, paths)))
    return caught.value.findings


def only_finding(*paths: Path) -> Finding:
    (finding,) = findings(*paths)
    return finding


def test_no_paths_leave_everything_direct() -> None:
    rules = load_rules([])
    assert (rules.rules, rules.only_direct) == ((), True)


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(rule("one"))
    assert [(it.name, it.place.file) for it in load_rules([str(file)]).rules] == [
        ("one", str(file))
    ]


def test_a_folder_in_file_name_order(tmp_path: Path) -> None:
    names = {"20-b.yaml": "b", "10-a.yml": "a", "30-c.yaml": "c"}
    for file, name in names.items():
        (tmp_path / file).write_text(rule(name))
    (tmp_path / "README.md").write_text("not a rule file")
    (tmp_path / "40.yaml.bak").write_text("neither")
    assert [it.name for it in load_rules([str(tmp_path)]).rules] == ["a", "b", "c"]


def test_paths_in_the_order_given(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(rule(name))
    paths = [str(tmp_path / "b.yaml"), str(tmp_path / "a.yaml")]
    assert [it.name for it in load_rules(paths).rules] == ["b", "a"]


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + EMPTY.encode())
    assert load_rules([str(file)]).rules == ()


def test_a_missing_file(tmp_path: Path) -> None:
    finding = only_finding(tmp_path / "none.yaml")
    assert (finding.code, finding.severity, finding.line) == ("E001", "error", 0)
    assert "No such file" in str(finding)
    assert str(tmp_path / "none.yaml") in str(finding)


def test_a_folder_without_rules(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("")
    finding = only_finding(tmp_path)
    assert (finding.code, finding.file) == ("E002", str(tmp_path))


def test_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_bytes(b"version: 1\n# caf\xe9\n")
    finding = only_finding(file)
    assert finding.code == "E001"
    assert "byte 16" in finding.message


def test_a_fifo_does_not_make_it_wait(tmp_path: Path) -> None:
    fifo = tmp_path / "a.yaml"
    os.mkfifo(fifo)
    assert "not a regular file" in only_finding(fifo).message


def test_a_folder_that_is_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").mkdir()
    assert "not a regular file" in only_finding(tmp_path).message


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to(tmp_path / "none")
    assert "No such file" in only_finding(tmp_path).message


def test_a_link_that_leads_to_itself(tmp_path: Path) -> None:
    loop = tmp_path / "a.yaml"
    loop.symlink_to(loop)
    assert only_finding(loop).code == "E001"


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    assert "too long" in only_finding(tmp_path / ("x" * 300)).message


def test_a_path_through_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(EMPTY)
    assert only_finding(tmp_path / "a.yaml" / "b.yaml").code == "E001"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; see test_cli_privilege")
def test_what_may_not_be_read(tmp_path: Path) -> None:
    for name in ("secret.yaml", "shut"):
        (tmp_path / name).mkdir() if name == "shut" else (tmp_path / name).write_text(EMPTY)
        (tmp_path / name).chmod(0)
    paths = [tmp_path / "secret.yaml", tmp_path / "shut", tmp_path / "shut" / "a.yaml"]
    found = findings(*paths)
    (tmp_path / "shut").chmod(0o700)
    assert [finding.code for finding in found] == ["E001"] * 3
    assert all("Permission denied" in finding.message for finding in found)


def test_a_file_that_cannot_be_a_rule_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    with file.open("wb") as sparse:
        sparse.truncate(MAX_FILE_BYTES + 1)
    assert "larger" in only_finding(file).message


def test_every_finding_of_every_file_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("version: 2\nrules: []\n")
    (tmp_path / "b.yaml").write_bytes(b"\xff")
    (tmp_path / "c.yaml").write_text("version: 1\nrulez: []\n")
    (tmp_path / "d.yaml").write_text(EMPTY)
    found = findings(tmp_path, tmp_path / "none.yaml")
    assert sorted((it.file.rpartition("/")[2], it.code) for it in found) == [
        ("a.yaml", "E013"),
        ("b.yaml", "E001"),
        ("c.yaml", "E012"),
        ("none.yaml", "E001"),
    ]


def test_an_unreadable_file_makes_the_others_no_rule_set(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(rule("one"))
    assert only_finding(tmp_path / "good.yaml", tmp_path / "none.yaml").code == "E001"


def test_files_that_editors_leave_are_no_rule_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(rule("a"))
    (tmp_path / ".#a.yaml").symlink_to("ana@host.812")  # the lock of Emacs
    (tmp_path / ".a.yaml").write_text("half written")
    (tmp_path / "a.yaml~").write_text("of yesterday")
    assert [it.name for it in load_rules([str(tmp_path)]).rules] == ["a"]


def test_a_socket_is_no_rule_file(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "a.yaml"))
        assert "not a regular file" in only_finding(tmp_path / "a.yaml").message


def test_a_folder_with_thousands_of_files_is_one_line(tmp_path: Path) -> None:
    for number in range(5000):
        (tmp_path / f"{number}.yaml").touch()
    finding = only_finding(tmp_path)
    assert str(finding) == (
        f"{tmp_path}: error E022: the folder holds 5000 rule files, and 1000 are the most; "
        "write more rules into each file"
    )


def test_the_paths_that_are_named_are_used() -> None:
    assert usual_paths(["a", "b"]) == ("a", "b")


def test_the_folder_of_the_service_is_used_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunowner.app.config.RULES_FOLDER", str(tmp_path / "rules.d"))
    assert usual_paths([]) == ()
    (tmp_path / "rules.d").mkdir()
    assert usual_paths([]) == (str(tmp_path / "rules.d"),)
