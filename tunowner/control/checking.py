"""What `check` prints: every finding, with the line it is about and a caret below."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from tunowner.app.config import read_sources, usual_paths
from tunowner.core.rules import load
from tunowner.core.rules.rules_section import Loading
from tunowner.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunowner.errors import Finding


def check(paths: Sequence[str], *, strict: bool, as_json: bool) -> bool:
    """Print what is wrong with rule files; return whether they may be used.

    With `strict` a warning is as bad as an error. Tests in the files are run.
    """
    named = usual_paths(paths)
    if not named:
        raise click.UsageError("give PATH: this machine has no rules of its own")
    findings, rules, tests = _load(named)
    errors = sum(finding.severity == "error" for finding in findings)
    counts = {"errors": errors, "warnings": len(findings) - errors, "rules": rules, "tests": tests}
    if as_json:
        fields = [finding_fields(finding) for finding in findings]
        click.echo(json.dumps({"findings": fields, **counts}, ensure_ascii=True))
    else:
        for finding in findings:
            click.echo(finding.report())
        click.echo(", ".join(_counted(count, name) for name, count in counts.items()))
    return not (errors or (strict and findings))


def _counted(count: int, names: str) -> str:
    return f"{count} {names.removesuffix('s') if count == 1 else names}"


def _load(paths: Sequence[str]) -> tuple[list[Finding], int, int]:
    """Return the findings, and how many rules and tests there are where the rules are sound."""
    sources, findings = read_sources(paths)
    try:
        rules = load(sources, Loading(now=time.time()))
    except ConfigError as error:
        return [*findings, *error.findings], 0, 0
    return [*findings, *rules.warnings], len(rules.rules), len(rules.cases)


def finding_fields(finding: Finding) -> dict[str, Any]:
    """Return a finding for machines. Keys are only ever added."""
    return {
        "file": finding.file,
        "line": finding.line,
        "column": finding.column,
        "severity": finding.severity,
        "code": finding.code,
        "message": finding.message,
        "hint": finding.hint,
        "source": finding.source,
    }
