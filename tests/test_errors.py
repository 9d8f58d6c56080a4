"""Errors say where, what, and what to do; each knows the exit status it ends the program with."""

from __future__ import annotations

import pytest

import tunowner
from tunowner.errors import (
    BackendError,
    ConfigError,
    DeviceClosed,
    Finding,
    PrivilegeError,
    TunOwnerError,
)

TEXTS = [
    (TunOwnerError("it broke"), "it broke"),
    (TunOwnerError("it broke", where="tun0"), "tun0: it broke"),
    (TunOwnerError("it broke", hint="Mend it"), "it broke. Mend it"),
    (BackendError("it broke", where="tun0", hint="Mend it"), "tun0: it broke. Mend it"),
]


@pytest.mark.parametrize(("error", "text"), TEXTS)
def test_where_what_and_what_to_do(error: TunOwnerError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize(
    ("kind", "status"),
    [(TunOwnerError, 1), (BackendError, 1), (DeviceClosed, 1), (PrivilegeError, 4)],
)
def test_exit_status(kind: type[TunOwnerError], status: int) -> None:
    error = kind("it broke", where="here", hint="mend it")
    assert isinstance(error, TunOwnerError)
    assert (error.exit_code, error.what, error.where, error.hint) == (
        status,
        "it broke",
        "here",
        "mend it",
    )


FINDINGS = [
    (Finding("a.yaml", 3, 7, "E012", "no"), "error", "a.yaml:3:7: error E012: no"),
    (Finding("a.yaml", 3, 7, "W101", "hm", "do"), "warning", "a.yaml:3:7: warning W101: hm; do"),
    (Finding("a.yaml", 0, 0, "E001", "no"), "error", "a.yaml: error E001: no"),
]


@pytest.mark.parametrize(("finding", "severity", "text"), FINDINGS)
def test_a_finding(finding: Finding, severity: str, text: str) -> None:
    assert (finding.severity, str(finding)) == (severity, text)


def test_a_config_error_is_all_its_findings() -> None:
    findings = [finding for finding, _, _ in FINDINGS]
    error = ConfigError(findings)
    assert error.findings == tuple(findings)
    assert str(error).splitlines() == [text for _, _, text in FINDINGS]
    assert error.exit_code == 1


def test_findings_sort_by_place() -> None:
    late, early = Finding("a.yaml", 10, 1, "E001", ""), Finding("a.yaml", 9, 1, "E002", "")
    assert sorted([late, early]) == [early, late]


def test_every_error_is_part_of_the_api() -> None:
    for name in ("BackendError", "ConfigError", "DeviceClosed", "PrivilegeError", "TunOwnerError"):
        assert name in tunowner.__all__
    assert all(hasattr(tunowner, name) for name in tunowner.__all__)
