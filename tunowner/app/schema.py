"""The JSON Schema of a rule file, for editors: completion, and red lines while one writes.

It is made of what each condition says of itself. It refuses nothing that `check` accepts; what only
`check` can tell (names that are defined nowhere, globs that make no sense) it lets pass.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

from tunowner.core.model import BUILTIN_ACTIONS
from tunowner.core.rules.condition import ProcessCondition
from tunowner.core.rules.load import VERSION
from tunowner.core.rules.rules_section import ENDS
from tunowner.core.rules.sets import INCLUDE
from tunowner.core.rules.supposed import FIELDS
from tunowner.core.rules.table import CONDITIONS

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The one that all editors know: yaml-language-server, JetBrains, Helix."""
_NAME = {"type": "string", "pattern": "^[A-Za-z0-9].{0,63}$"}
_SCALAR: Schema = {"type": ["string", "number", "boolean"]}


def rules_schema() -> Schema:
    """Return the schema of one file."""
    conditions = {key: condition.schema() for key, condition in CONDITIONS.items()}
    return {
        "$schema": DRAFT,
        "title": "tunowner rules",
        "description": "Which flows of which programs go where. The first rule that matches decides.",
        **_mapping(_sections(conditions), required=["version"]),
        "definitions": {
            "action": {
                "description": "direct, block (refuse), drop (silence), or an outbound's name.",
                "anyOf": [{"enum": list(BUILTIN_ACTIONS)}, _NAME],
            },
            "match": {"anyOf": [{"const": "any"}, {"$ref": "#/definitions/conditions"}]},
            "conditions": _conditions(conditions),
            "process": _mapping(_of_process(conditions), at_least=1),
            "rule": _rule(),
            "test": _test(),
        },
    }


def _sections(conditions: Schema) -> Schema:
    sets = _mapping({**conditions, INCLUDE: _one_or_more({"type": "string"})}, at_least=1)
    return {
        "version": {"description": "Of the language.", "const": VERSION},
        "profile": {**conditions["profile"], "description": "The file counts in these profiles."},
        "defaults": _mapping(
            {
                "action": _described("action", "For flows that no rule matches."),
                "when_unknown": _described(
                    "action", "For flows that a rule might have matched, had more been known."
                ),
            }
        ),
        "outbounds": {
            "description": "Ways out besides direct, block and drop.",
            "type": "object",
            "additionalProperties": {"anyOf": _outbounds()},
        },
        "sets": {
            "description": "Values to use in several rules, as $name.",
            "type": "object",
            "additionalProperties": sets,
        },
        "rules": {"type": "array", "items": {"$ref": "#/definitions/rule"}},
        "tests": {"type": "array", "items": {"$ref": "#/definitions/test"}},
    }


def _of_process(conditions: Schema) -> Schema:
    """Return what may be asked of a parent or an ancestor."""
    known = (key for key, it in CONDITIONS.items() if issubclass(it, ProcessCondition))
    return {key: conditions[key] for key in known}


def _conditions(conditions: Schema) -> Schema:
    nested = {"$ref": "#/definitions/conditions"}
    several = {"type": "array", "minItems": 1, "items": nested}
    combined = {
        "all": {"description": "All of these must match.", **several},
        "any": {"description": "One of these must match.", **several},
        "not": {"description": "This must not match; unknown stays unknown.", **nested},
    }
    return _mapping({**conditions, **combined}, at_least=1)


def _rule() -> Schema:
    """Return the schema of a rule: it acts or leaves a mark, and ends at most once."""
    marks = [{"required": [key], "not": {"required": ["mode"]}} for key in ("tag", "log")]
    twice = [{"required": list(pair)} for pair in combinations(ENDS, 2)]
    purpose = {"anyOf": [{"required": ["action"]}, *marks], "not": {"anyOf": twice}}
    return {**_rule_fields(), **purpose}


def _rule_fields() -> Schema:
    return _mapping(
        {
            "name": {"description": "One of its own; it is in every event.", **_NAME},
            "match": {
                "description": "All keys must fit; of a list, one value.",
                "$ref": "#/definitions/match",
            },
            "action": {"$ref": "#/definitions/action"},
            "mode": {
                "description": "audit: note what the rule would do, and go on.",
                "enum": ["audit", "enforce"],
            },
            "log": {"description": "Whether the flow is told of.", "type": "boolean"},
            "tag": {"description": "Words for the event.", **_one_or_more(_NAME)},
            "expires": {"description": "As 2026-12-31T23:59:00Z.", "type": "string"},
            "for": {"description": "From loading on, as 15m or 1h30m.", "type": "string"},
            "until": {"description": "The rule is over after a restart.", "const": "restart"},
        },
        required=["name", "match"],
    )


def _test() -> Schema:
    flow = {
        key: {"description": field.meaning, **_one_or_more(_SCALAR)}
        for key, field in FIELDS.items()
    }
    return _mapping(
        {
            "flow": _mapping(flow, required=["to"]),
            "expect": {"description": "The rule that decides; default or unknown.", **_NAME},
            "action": {"$ref": "#/definitions/action"},
        },
        required=["flow", "expect"],
    )


def _outbounds() -> list[Schema]:
    number = {"type": "integer", "minimum": 1, "maximum": 0xFFFF_FFFF}
    interface = {"type": "string", "minLength": 1, "maxLength": 15}
    fields = {
        "interface": ("name", interface),
        "table": ("table", number),
        "mark": ("mark", number),
    }
    return [
        _mapping({"type": {"const": kind}, key: value}, required=["type", key])
        for kind, (key, value) in fields.items()
    ]


def _mapping(fields: Schema, *, required: list[str] | None = None, at_least: int = 0) -> Schema:
    schema: Schema = {"type": "object", "properties": fields, "additionalProperties": False}
    if required:
        schema["required"] = required
    if at_least:
        schema["minProperties"] = at_least
    return schema


def _described(definition: str, text: str) -> Schema:
    return {"description": text, "allOf": [{"$ref": f"#/definitions/{definition}"}]}


def _one_or_more(value: Schema) -> Schema:
    return {"anyOf": [value, {"type": "array", "minItems": 1, "items": value}]}
