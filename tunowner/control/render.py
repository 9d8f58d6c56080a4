"""Words for people: a line for an event. JSON needs none of this."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunowner.app.events import Event


def clean(value: object) -> str:
    r"""Return text with what does not print spelled out: a program's name must not draw on us.

    That is control characters, those that turn the direction of writing, and bytes of a path that
    are no UTF-8 (`\x1b`, `\u202e`, `\udcff`).
    """
    text = str(value)
    if text.isprintable():
        return text
    return "".join(it if it.isprintable() else _spelled_out(it) for it in text)


def _spelled_out(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def event_line(event: Event) -> str:
    """Return one line, without its end, for any event."""
    match event["event"]:
        case "open":
            return _flow_line(event)
        case "ready":
            dry = ", dry run: everything passes" if event.get("dry_run") else ""
            return f"ready: {event['device']}, {event['rules']} rules{dry}. Ctrl-C ends it."
        case "stopped":
            counts = event["statistics"].items()
            return "stopped: " + ", ".join(f"{name} {count}" for name, count in counts if count)
        case other:
            return clean(other)


def _flow_line(event: Event) -> str:
    owner = event["owner"]
    clock = time.strftime("%H:%M:%S", time.localtime(event["ts"]))
    milliseconds = int(event["ts"] * 1000) % 1000
    rule = f"  rule={clean(event['rule'])}" if event["rule"] else ""
    return (
        f"{clock}.{milliseconds:03d} {event['proto']} {_program(owner)} "
        f"{event['src']} -> {event['dst']} {clean(event['action'])}{rule}"
        f"  {clean(event['why'])}{_marks(event)}  lookup={event['lookup_us'] / 1000:.1f}ms"
    )


def _marks(event: Event) -> str:
    """Return what rules left on a flow that they did not decide."""
    audits = "".join(f"  audit: {it['rule']} would {it['action']}" for it in event["audited"])
    tags = "".join(f" #{tag}" for tag in event["tags"])
    return clean(audits) + (f" {clean(tags)}" if tags else "")


def _program(owner: dict[str, object]) -> str:
    if owner["pid"] is None:
        user = f" {clean(owner['user'])}" if owner["user"] else ""
        return f"(unknown: {owner['grade']}){user}"
    return f"{clean(owner['name'] or '?')}[{owner['pid']}] {clean(owner['user'] or owner['uid'])}"
