"""Rule files to a `RuleSet`, or to every finding of every file. Pure: it is given the text."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from tunowner.core.collector import collector_at_rest
from tunowner.core.model import BUILTIN_ACTIONS, DIRECT

from .cases import Cases
from .findings import Findings, Place, quoted, suggestion
from .index import Index
from .lint import warn_of_catch_alls, warn_of_shadow, warn_of_shadows
from .matches import Matches
from .nodes import MappingNode, Scalar, read
from .outbounds import Outbounds
from .rules_section import Loading, RuleReader
from .ruleset import Rule, RuleSet
from .sets import Sets
from .shape import Shape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .nodes import Node

VERSION = 1
_RULES_HINT = "write - name: ... for each rule, or [] for none"
_TESTS_HINT = "write - { flow: { app: /usr/bin/curl, to: '192.0.2.7:443' }, expect: a-rule }"
_SECTIONS = ("defaults", "outbounds", "sets", "rules", "tests", "profile")
NO_CIRCUMSTANCES = Loading()


def load(sources: Sequence[tuple[str, str]], loading: Loading = NO_CIRCUMSTANCES) -> RuleSet:
    """Load rule files, given as (file name, text) in the order in which their rules count.

    The names are only repeated in findings. Raises `ConfigError` with every finding of every file;
    nothing is loaded unless everything is right and every test in the files passes. No sources
    give a set that leaves all direct.
    """
    with collector_at_rest():
        return _Loader(sources, loading).load()


class _Loader:
    """One load. Sections are read kind by kind, since rules may use what a later file defines."""

    def __init__(self, sources: Sequence[tuple[str, str]], loading: Loading) -> None:
        self.loading = loading
        self.findings = Findings([text for _, text in sources])
        self.shape = Shape(self.findings)
        self.outbounds = Outbounds(self.shape)
        self.sets = Sets(self.shape)
        self.cases = Cases(self.shape)
        self.defaults: dict[str, str] = {}
        self.defaults_at: Place | None = None
        self.files = [self._file(*source, order) for order, source in enumerate(sources)]

    def load(self) -> RuleSet:
        for name, node in self._definitions("outbounds"):
            self.outbounds.define(name, node)
        for name, node in self._definitions("sets"):
            self.sets.define(name, node)
        self.sets.check()
        for node in self._sections("defaults"):
            self._read_defaults(node)
        rules = self._rules()
        self._read_cases(rules)
        index = Index(rules)
        self._warn(rules, index)
        self.findings.raise_errors()
        return self._tested(
            RuleSet(
                tuple(rules),
                index,
                MappingProxyType(self.outbounds.defined),
                self.defaults.get("when_unknown", DIRECT),
                self.defaults.get("action", DIRECT),
                self.findings.all(),
                self.cases.found,
            )
        )

    def _tested(self, rules: RuleSet) -> RuleSet:
        self.cases.run(rules)
        self.findings.raise_errors()
        return rules

    def _read_cases(self, rules: list[Rule]) -> None:
        for section in self._sections("tests"):
            for node in self.shape.items(section, _TESTS_HINT):
                action = node.entries.get("action") if isinstance(node, MappingNode) else None
                self.cases.read(node, self._action(action[1]) if action else None)
        self.cases.check_names(tuple(rule.name for rule in rules))

    def _file(self, file: str, text: str, order: int) -> dict[str, Node]:
        root = read(text, file, order, self.findings)
        mapping = self.shape.mapping(root, "start with version: 1") if root else None
        if mapping is None:
            self.findings.unread = True
            return {}
        fields = self.shape.fields(mapping, "a rule file", ("version",), _SECTIONS)
        self._check_version(fields.pop("version", None))
        return fields

    def _check_version(self, node: Node | None) -> None:
        version = self.shape.scalar(node, "a number")
        if version is not None and (version.value != VERSION or version.value is True):
            message = f"version {quoted(version.text)} is not supported"
            self.findings.add(version.place, "E013", message, f"write version: {VERSION}")

    def _sections(self, name: str) -> Iterator[Node]:
        return (fields[name] for fields in self.files if name in fields)

    def _definitions(self, name: str) -> Iterator[tuple[Scalar, Node]]:
        for section in self._sections(name):
            yield from self.shape.definitions(section)

    def _read_defaults(self, node: Node) -> None:
        if self.defaults_at is not None:
            message = "defaults are set twice"
            self.findings.add(node.place, "E209", message, f"the first are at {self.defaults_at}")
            return
        self.defaults_at = node.place
        mapping = self.shape.mapping(node, "write { action: direct }, for example")
        if mapping is None:
            return
        fields = self.shape.fields(mapping, "defaults", (), ("action", "when_unknown"))
        for key, value in fields.items():
            action = self._action(value)
            if action is not None:
                self.defaults[key] = action

    def _rules(self) -> list[Rule]:
        matches = Matches(self.shape, self.sets)
        reader = RuleReader(self.shape, matches, self._action, self.loading)
        rules: list[Rule] = []
        for fields in self.files:
            profile = (
                matches.condition("profile", fields["profile"]) if "profile" in fields else None
            )
            if "rules" in fields:
                nodes = self.shape.items(fields["rules"], _RULES_HINT)
                read = (reader.read(node, profile) for node in nodes)
                rules += [rule for rule in read if rule]
        return rules

    def _action(self, node: Node | None) -> str | None:
        scalar = self.shape.text(node)
        if scalar is None:
            return None
        known = (*BUILTIN_ACTIONS, *self.outbounds.names)
        if scalar.text in known:
            return scalar.text
        message = f"{quoted(scalar.text)} is neither an action nor an outbound"
        self.findings.add_missing(
            scalar.place, "E201", message, suggestion(scalar.text, known, "actions")
        )
        return None

    def _warn(self, rules: list[Rule], index: Index) -> None:
        """Warn of what is hardly meant; of what hangs on values, only if they all are right."""
        catch_all = next((it for it in rules if it.matches_everything and it.decides), None)
        reached = rules.index(catch_all) + 1 if catch_all else len(rules)
        for rule in rules[reached:]:
            assert catch_all is not None
            warn_of_shadow(rule, catch_all, self.findings)
        if not self.findings.has_errors:
            warn_of_shadows(rules[:reached], index, self.findings)
            warn_of_catch_alls(rules, self.findings)
        if catch_all and "when_unknown" in self.defaults and self.defaults_at:
            hint = f"rule {quoted(catch_all.name)} ({catch_all.place}) matches every flow"
            self.findings.add(self.defaults_at, "W102", "when_unknown can never apply", hint)
