"""What a decision costs with 10 and with 10,000 rules, beside asking every rule in turn.

`python -m tests.bench.bench_rules`. No root. Nothing is asserted about time.

The peer is a linear scan of the same compiled rules: what a decision would cost without indexes.
Rules that ask for nothing but a regular expression are in no index: they have no target.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from tests.bench.report import Report
from tunowner.core.model import TCP, FlowKey, Grade, Owner, Process, ProcessDetails
from tunowner.core.rules import Context, load
from tunowner.core.rules.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunowner.core.rules import RuleSet

FEW, MANY = 10, 10_000
ROUNDS, DECISIONS = 15, 400
SHAPES: dict[str, Callable[[int], str]] = {
    "a program's name": lambda n: f"app: program-{n}",
    "a program's path": lambda n: f"app: /opt/vendor-{n}/bin/run",
    "a folder": lambda n: f"app: /opt/vendor-{n}/",
    "the start of a name": lambda n: f"app: 'p{n}-*'",
    "the end of a name": lambda n: f"app: '*-p{n}'",
    "a network": lambda n: f"ip: 10.{n >> 8 & 255}.{n & 255}.0/24",
    "a port": lambda n: f"port: {n + 1024}",
    "a host": lambda n: f"host: '*.site-{n}.example'",
    "a program and a port": lambda n: f"app: curl, port: {n + 1024}",
    "a program, a user and a network": (
        lambda n: f"app: [program-{n}, 'p{n}-*'], user: {n}, ip: 10.{n >> 8 & 255}.{n & 255}.1"
    ),
    "a script": lambda n: f"app: python3*, script: /opt/job-{n}.py",
    "a parent": lambda n: f"parent: shell-{n}",
    "a package": lambda n: f"package: deb:package-{n}",
    "some of each": lambda n: list(islice(SHAPES.values(), 8))[n % 8](n),
}
REGEX = "a regular expression and nothing else"
CURL = Process(812, 4711, "/usr/bin/curl", 1000, "ana")
PYTHON = Process(813, 4712, "/usr/bin/python3.11", 1000, "ana")
OWNERS = {"known": Owner(Grade.EXACT, (CURL,), 1000, "ana"), "unknown": Owner(Grade.ABSENT)}
FLOWS = [FlowKey(TCP, bytes(4), port, bytes([198, 51, 100, port & 255]), 443) for port in range(64)]
DETAILS = ProcessDetails(
    *(CURL, None, None, ("curl", "-s"), (Process(7, 1, "/usr/bin/bash"),), True, "/", "x.service"),
    user_unit="",
    container="",
    package="deb:curl",
    directory="/",
)
PYTHON_DETAILS = replace(DETAILS, process=PYTHON, command_line=("python3", "/opt/other.py"))
CONTEXT = Context({CURL: DETAILS, PYTHON: PYTHON_DETAILS}.get, hosts=lambda _: ("www.example.org",))


def rules_text(shape: Callable[[int], str], count: int) -> str:
    rules = "".join(
        f"  - {{ name: rule-{n}, match: {{ {shape(n)} }}, action: block }}\n" for n in range(count)
    )
    return f"version: 1\nrules:\n{rules}"


def decide(rules: RuleSet, owner: Owner, decisions: int = DECISIONS) -> float:
    """Return the microseconds of one decision, the middle one of many: no rule matches."""
    spent = []
    for number in range(decisions):
        flow = FLOWS[number % len(FLOWS)]
        begun = time.perf_counter()
        decision = rules.decide(flow, owner, CONTEXT)
        spent.append((time.perf_counter() - begun) * 1e6)
        assert decision.rule is None
    return statistics.median(spent)


def scan(rules: RuleSet, owner: Owner) -> float:
    """The same by asking every rule."""
    begun = time.perf_counter()
    subject = Subject(FLOWS[0], owner, CONTEXT)
    assert not any(rule.match.test(subject) for rule in rules.rules)
    return (time.perf_counter() - begun) * 1e6


def measure(report: Report, what: str, few: RuleSet, many: RuleSet) -> list[float]:
    """Add the rows for one shape; return the ratios of the rounds."""
    ratios: list[float] = []
    owners = OWNERS | ({"a Python": Owner(Grade.EXACT, (PYTHON,))} if what == "a script" else {})
    for name, owner in owners.items():
        pairs = [(decide(few, owner), decide(many, owner)) for _ in range(ROUNDS)]
        ours = statistics.median(many_us for _, many_us in pairs)
        ratios = [many_us / few_us for few_us, many_us in pairs]
        scanned = statistics.median(scan(many, owner) for _ in range(3))
        label = f"{MANY:,} rules, {what}, owner {name}"
        report.add(label, ours, "us", peer=scanned, peer_is="linear scan", at_most=10)
        middle = statistics.median(ratios)
        report.add(f"  times that of {FEW} rules", middle, "x", at_most=2)
    return ratios


def measure_regexes(report: Report) -> None:
    """Add the row for rules that every flow is asked about."""
    rules = load([("rules.yaml", rules_text(lambda n: f"app: 're:^/opt/vendor-{n}/'", MANY))])
    spent = decide(rules, OWNERS["known"], decisions=20)
    report.add(f"{MANY:,} rules, {REGEX}, owner known", spent, "us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = Report()
    noise: list[float] = []
    for what, shape in SHAPES.items():
        text = rules_text(shape, MANY)
        begun = time.perf_counter()
        many = load([("rules.yaml", text)])
        spent = time.perf_counter() - begun
        report.add(f"loading {MANY:,} rules, {what}", spent, "s", at_most=2)
        noise = measure(report, what, load([("rules.yaml", rules_text(shape, FEW))]), many)
    measure_regexes(report)
    report.noise("10,000 rules over 10", noise)
    report.show(as_json=options.json)


if __name__ == "__main__":
    main()
