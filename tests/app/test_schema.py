"""The schema for editors: it accepts what loads, and refuses what has the wrong shape."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.control.helpers import ROOT, tunowner
from tests.core.rules.test_rules_broken_structure import BROKEN
from tunowner.app.schema import rules_schema
from tunowner.core.rules import load
from tunowner.core.rules.outbounds import _TYPES
from tunowner.core.rules.supposed import FIELDS
from tunowner.core.rules.table import CONDITIONS
from tunowner.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

jsonschema = pytest.importorskip("jsonschema")


class Core(yaml.SafeLoader):
    """YAML as editors read it: no dates, and of booleans only true and false."""


Core.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in pairs if not tag.endswith((":timestamp", ":bool"))]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Core.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(true|false)$"), list("tf"))


def complaints(text: str) -> list[str]:
    validator = jsonschema.Draft7Validator(rules_schema())
    document = yaml.load(text, Core)
    return [error.message for error in validator.iter_errors(document)]


def rule(fields: str) -> str:
    return f"version: 1\nrules: [ {{ name: a, match: any, action: direct, {fields} }} ]\n"


def match(fields: str) -> str:
    return f"version: 1\nrules: [ {{ name: a, match: {fields}, action: direct }} ]\n"


def test_it_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(rules_schema())


def test_the_command_prints_it() -> None:
    done = tunowner("schema")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == rules_schema()
    assert tunowner("schema", "--json").stdout == done.stdout


@pytest.mark.parametrize("file", sorted((ROOT / "rules").glob("*.yaml")), ids=lambda it: it.name)
def test_it_accepts_what_ships(file: Any) -> None:
    assert complaints(file.read_text(encoding="utf-8")) == []


GOOD = [
    match("{ app: [curl, /opt/x/, 're:a.b'], path: /usr/bin/*, cmdline: '*--fast*' }"),
    match("{ script: /opt/backup.py, parent: { app: git }, ancestor: [bash, { user: ana }] }"),
    match("{ parent: { app: git, parent: bash }, ancestor: { user: [ana, 5], package: deb:x } }"),
    match("{ package: flatpak:org.x.Y, service: ssh.service, cgroup: /system.slice/** }"),
    match("{ container: docker:*, user: [1000, ana], pid: 7 }"),
    match(f"{{ sha256: {'ab' * 32} }}"),
    match("{ ip: [10.0.0.0/8, 'fc00::/7'], port: [443, 8000-8999], protocol: quic }"),
    match("{ host: ['*.example.org'], interface: eth0, owner: unknown, profile: [home] }"),
    match(
        "{ all: [ { app: a }, { any: [ { app: b }, { not: { app: c } } ] } ], not: { port: 1 } }"
    ),
    rule("mode: audit, log: false, tag: [a, b]"),
    rule("expires: 2099-12-01T00:00:00Z"),
    rule("for: 15m"),
    rule("until: restart"),
    "version: 1\nrules: [ { name: marks, match: any, tag: x } ]\n",
    "version: 1\nrules: [ { name: quiet, match: any, log: false, for: 1h } ]\n",
    (
        "version: 1\nprofile: [home, work]\ndefaults: { action: drop, when_unknown: vpn }\n"
        "outbounds: { vpn: { type: interface, name: wg0 }, t: { type: table, table: 7 },"
        " m: { type: mark, mark: 0x51 } }\nrules: []\n"
    ),
    (
        "version: 1\nsets: { a: { ip: 10.0.0.0/8 }, b: { include: [a], app: [x] } }\n"
        "rules: [ { name: a, match: { ip: $b }, action: block } ]\n"
        "tests:\n  - { flow: { to: '10.0.0.1:1', app: /x, pid: 7, parent: [/a, /b] }, expect: a }\n"
        "  - { flow: { to: '11.0.0.1:1' }, expect: default, action: direct }\n"
    ),
]


@pytest.mark.parametrize("text", GOOD)
def test_it_accepts_what_loads(text: str) -> None:
    load([("a.yaml", text)])
    assert complaints(text) == []


BAD = [
    "rules: []\n",
    "version: 2\n",
    "version: 1\nrulez: []\n",
    "version: 1\nrules: {}\n",
    "version: 1\nrules: [ { match: any, action: direct } ]\n",
    "version: 1\noutbounds: { a: { type: socks9, server: x } }\n",
    "version: 1\noutbounds: { a: { type: table, table: wg0 } }\n",
    "version: 1\nsets: { a: {} }\n",
    "version: 1\nsets: { a: { colour: red } }\n",
    "version: 1\ntests: [ { flow: { app: /x }, expect: a } ]\n",
    rule("mode: perhaps"),
    rule("log: yes please"),
    rule("tag: []"),
    rule("colour: red"),
    match("{}"),
    match("everything"),
    match("{ ap: curl }"),
    match("{ app: [] }"),
    match("{ app: 7 }"),
    match("{ port: [0] }"),
    match("{ port: https }"),
    match("{ protocol: icmp }"),
    match("{ sha256: abc }"),
    match("{ not: [] }"),
    match("{ all: { app: x } }"),
    match("{ parent: {} }"),
    match("{ parent: { ip: 192.0.2.7 } }"),
    match("{ ancestor: [git, { ap: bash }] }"),
    "version: 1\nrules: [ { name: a, match: any } ]\n",
    "version: 1\nrules: [ { name: a, match: any, tag: x, mode: audit } ]\n",
    rule("for: 1h, until: restart"),
    rule("for: 1h, expires: 2099-12-01T00:00:00Z"),
]


@pytest.mark.parametrize("text", BAD)
def test_it_refuses_what_has_the_wrong_shape(text: str) -> None:
    with pytest.raises(ConfigError):
        load([("a.yaml", text)])
    assert complaints(text) != []


def broken() -> Iterator[tuple[str, list[str]]]:
    """The broken files of the loader's own tests, one at a time, and what is wrong with them."""
    for texts, expected in BROKEN.values():
        if len(texts) == 1:
            yield (
                texts[0],
                [line.split(": error ")[1][:4] for line in expected if " error " in line],
            )


OF_SHAPE = {"E011", "E012", "E014"}
"""A key is missing, unknown, or empty."""


def test_it_refuses_the_broken_files_of_that_kind() -> None:
    of_shape = [text for text, codes in broken() if set(codes) & OF_SHAPE]
    assert len(of_shape) >= 5
    accepted = [text for text in of_shape if not complaints(text)]
    assert accepted == []


def test_every_condition_and_every_key_is_in_it() -> None:
    schema = rules_schema()
    conditions = schema["definitions"]["conditions"]["properties"]
    assert set(conditions) == {*CONDITIONS, "all", "any", "not"}
    assert all(it["description"] for it in conditions.values())
    outbounds = schema["properties"]["outbounds"]["additionalProperties"]["anyOf"]
    keys = {it["properties"]["type"]["const"]: set(it["properties"]) for it in outbounds}
    assert keys == {kind: {"type", key} for kind, (key, _) in _TYPES.items()}
    flow = schema["definitions"]["test"]["properties"]["flow"]
    assert set(flow["properties"]) == set(FIELDS)
