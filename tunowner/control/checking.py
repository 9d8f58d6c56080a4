"""What `check` prints: every finding, with the line it is about and a caret below."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

import click

from tunowner.app.config import read_sources, usual_paths
from tunowner.control.render import clean
from tunowner.core.rules import load
from tunowner.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tunowner.errors import Finding

WIDEST = 100
"""Characters of a line that are shown, around the place that is meant."""


def check(paths: Sequence[str], *, strict: bool, as_json: bool) -> bool:
    """Print what is wrong with rule files; return whether they may be used.

    With `strict` a warning is as bad as an error.
    """
    named = usual_paths(paths)
    if not named:
        raise click.UsageError("give PATH: this machine has no rules of its own")
    sources, findings = read_sources(named)
    counts = {"rules": 0, "tests": 0}
    try:
        rules = load(sources)
    except ConfigError as error:
        findings += error.findings
    else:
        findings += rules.warnings
        counts = {"rules": len(rules.rules), "tests": len(rules.tests)}
    errors = sum(finding.severity == "error" for finding in findings)
    counts = {"errors": errors, "warnings": len(findings) - errors, **counts}
    if as_json:
        fields = [{**asdict(it), "severity": it.severity} for it in findings]
        click.echo(json.dumps({"findings": fields, **counts}, ensure_ascii=True))
    else:
        click.echo("\n".join(check_lines(findings, dict(sources), counts)))
    return not (errors or (strict and findings))


def check_lines(
    findings: Sequence[Finding], texts: Mapping[str, str], counts: Mapping[str, int]
) -> Iterator[str]:
    """Yield the findings with their lines, and the counts."""
    lines = {file: text.splitlines() for file, text in texts.items()}
    for finding in findings:
        yield str(finding)
        yield from excerpt(finding, lines.get(finding.file, ()))
    yield ", ".join(f"{count} {name}" for name, count in counts.items())


def excerpt(finding: Finding, lines: Sequence[str]) -> Iterator[str]:
    """Yield the line that a finding is about, and a line with a caret below its place."""
    if not 1 <= finding.line <= len(lines):
        return
    line, place = lines[finding.line - 1], finding.column - 1
    begin = max(0, min(place - WIDEST // 2, len(line) - WIDEST))
    before, rest = clean(line[begin:place]), clean(line[max(begin, place) : begin + WIDEST])
    number = f"{finding.line:>5} | "
    yield f"{number}{before}{rest}"
    yield " " * (len(number) + sum(map(_columns, before))) + "^"


def _columns(character: str) -> int:
    """Return how many columns of a terminal a character takes."""
    return 2 if east_asian_width(character) in "WF" else 1
