"""What `explain` prints. Apart from `cli`, so that the commands stay readable there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tunowner.app.config import load_rules, usual_paths
from tunowner.app.explain import Question, explain_process, explain_supposed, explained_fields
from tunowner.control.arguments import endpoint
from tunowner.control.render import clean
from tunowner.core.model import TCP, UDP
from tunowner.core.rules.findings import BadValueError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from tunowner.app.explain import Explained
    from tunowner.core.model import Owner
    from tunowner.core.rules import RuleSet, Step

    Told = Mapping[str, Sequence[str]]

OF_A_LIVE_PROCESS = ("to", "protocol", "profile", "host")
"""What may be told together with `--pid`; the rest is read from the process."""
PROTOCOLS = {"tcp": TCP, "udp": UDP, "quic": UDP}


def explain(rules: Sequence[str], pid: int | None, told: Told, *, as_json: bool) -> bool:
    """Print why; return whether there was anything to explain."""
    paths = usual_paths(rules)
    if not paths:
        raise click.UsageError("give --rules PATH: this machine has no rules of its own")
    loaded = load_rules(paths)
    explained = _supposed(loaded, told) if pid is None else _live(loaded, pid, told)
    for each in explained:
        if as_json:
            click.echo(json.dumps(explained_fields(each), ensure_ascii=True))
        else:
            click.echo("\n".join(explained_lines(each)))
    return bool(explained)


def _supposed(rules: RuleSet, told: Told) -> list[Explained]:
    if "to" not in told:
        raise click.UsageError("give --to ADDRESS:PORT")
    try:
        return [explain_supposed(rules, {**told, **_resolved(told)})]
    except BadValueError as bad:
        hint = f"; {bad.hint}" if bad.hint else ""
        raise click.UsageError(f"{bad.message}{hint}") from None


def _resolved(told: Told) -> dict[str, list[str]]:
    """Return paths as a process would show them: a name found on PATH, links followed."""
    paths = {key: list(told[key]) for key in ("app", "parent") if key in told}
    return {key: [_program(text) for text in texts] for key, texts in paths.items()}


def _program(text: str) -> str:
    found = text if "/" in text or "\\" in text else shutil.which(text)
    if found is None:
        raise click.UsageError(f"'{text}' is no program on PATH; give its whole path")
    return os.path.realpath(found) if Path(found).exists() else found


def _live(rules: RuleSet, pid: int, told: Told) -> list[Explained]:
    if surplus := [key for key in told if key not in OF_A_LIVE_PROCESS]:
        raise click.UsageError(f"--pid tells all of the process, so leave out --{surplus[0]}")
    protocol, profile = ("".join(told.get(key, ())) for key in ("protocol", "profile"))
    if protocol and protocol not in PROTOCOLS:
        raise click.UsageError(f"'{protocol}' is no protocol; known: {', '.join(PROTOCOLS)}")
    to = endpoint(told["to"][0], remote=True) if "to" in told else None
    hosts = tuple(name.lower().rstrip(".") for name in told.get("host", ()))
    question = Question(pid, to, PROTOCOLS.get(protocol), profile, hosts)
    explained = explain_process(rules, question)
    if explained is None:
        click.echo(f"tunowner: no process has the pid {pid}", err=True)
    elif not explained:
        click.echo(f"tunowner: process {pid} has no flow open; give --to", err=True)
    return explained or []


def explained_lines(explained: Explained) -> Iterator[str]:
    """Yield the lines of an explanation."""
    flow, trace = explained.flow, explained.trace
    source = f"{flow.source} " if flow.local_port else ""
    yield f"{flow.protocol_name} {source}-> {flow.destination}  {_owner(trace.decision.owner)}"
    widest = max((len(step.rule) for step in trace.steps), default=0)
    digits = len(str(len(trace.steps)))
    for number, step in enumerate(trace.steps, 1):
        yield f"  {number:>{digits}} {step.rule:<{widest}}  {step.result:<7}  {_because(step)}"
    yield from _conclusion(explained)


def _because(step: Step) -> str:
    late = "" if step.reached else "  (not reached)"
    mode = f"  ({step.mode})" if step.mode != "decides" else ""
    return f"{clean(step.because)}{mode}{late}"


def _conclusion(explained: Explained) -> Iterator[str]:
    decision, nearest = explained.trace.decision, explained.trace.nearest
    place = f"rule '{decision.rule}' ({clean(decision.rule_file)})" if decision.rule else "default"
    yield f"  -> {decision.action}  {place}: {clean(decision.why)}"
    if nearest is not None:
        yield f"  nearest miss: {clean(nearest)} ({clean(nearest.place)})"
    yield f"  cost {explained.cost_us:.1f} us"


def _owner(owner: Owner) -> str:
    if not owner.candidates:
        user = f" of {clean(owner.user or owner.uid)}" if owner.user or owner.uid else ""
        return f"(unknown: {owner.grade}){user}"
    return ", ".join(
        f"{clean(it.path or '?')}" + (f"[{it.pid}]" if it.pid else "") for it in owner.candidates
    )


def told_of(options: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return what was told: options that were not given are None or empty."""
    texts = {key: value if isinstance(value, tuple) else (value,) for key, value in options.items()}
    return {key: value for key, value in texts.items() if value and value != (None,)}
