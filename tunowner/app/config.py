"""Find and read rule files. The rules themselves are `core.rules`' business."""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tunowner.app.trust import Trust, trust_of_root
from tunowner.core.rules import load
from tunowner.core.rules.rules_section import Loading
from tunowner.errors import ConfigError, Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunowner.core.rules import RuleSet

RULES_FOLDER = "/etc/tunowner/rules.d"
"""Where the rules of the service are; used where no other path is named, if it is there."""
MAX_FILE_BYTES = 16 * 1024 * 1024
"""A rule file larger than this is a mistake: 10,000 rules are about 1 MiB."""
MAX_FILES = 1_000
"""Rule files in one folder. More is a folder of something else, or the work of a program that could
as well write one file."""

Sources = list[tuple[str, str]]


def load_rules(
    paths: Sequence[str], *, before: RuleSet | None = None, restarted: bool = False
) -> RuleSet:
    """Read rule files and folders (their *.yaml and *.yml, in file-name order) as one rule set.

    `before` are the rules that these replace, `restarted` says that the program has just started:
    both are for rules that end. Raises ConfigError with every finding of every file.
    """
    sources, findings = read_sources(paths)
    try:
        rules = load(sources, Loading(time.time(), before, restarted))
    except ConfigError as error:
        raise ConfigError([*findings, *error.findings]) from None
    if findings:
        raise ConfigError(findings)
    return rules


def usual_paths(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the paths that were named, else the service's folder where there is one."""
    if paths or not Path(RULES_FOLDER).exists():
        return tuple(paths)
    return (RULES_FOLDER,)


def read_sources(paths: Sequence[str]) -> tuple[Sources, list[Finding]]:
    """Return (name, text) of every file that can be read, and what is wrong with the others."""
    reader = _Reader(trust_of_root())
    for path in paths:
        reader.take(Path(path))
    return reader.sources, reader.findings


@dataclass
class _Reader:
    """Reads what it may. `trust`: who may write the files, None for anybody."""

    trust: Trust | None
    sources: Sources = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def take(self, path: Path) -> None:
        """Read a file, or the files of a folder."""
        try:
            if self._led_astray(path):
                return
            if not path.is_dir():
                self._read(path)
                return
            for file in self._files(path):
                if not (file.is_symlink() and self._led_astray(file)):
                    self._read(file)
        except OSError as error:
            self._cannot(path, error.strerror or str(error))

    def _led_astray(self, path: Path) -> bool:
        """Look whether somebody else could turn the way to `path` elsewhere."""
        wrong = [*self.trust.way(path)] if self.trust else []
        self.findings += wrong
        return bool(wrong)

    def _files(self, folder: Path) -> list[Path]:
        """Return the rule files of a folder; none when something is wrong with it."""
        if self.trust and (finding := self.trust.finding(str(folder), folder.stat())):
            self.findings.append(finding)
            return []
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if _is_rule_file(entry.name))
        if not names:
            hint = "put a .yaml file there, or name another folder"
            self._add(folder, "E002", "the folder holds no rule file", hint)
        if len(names) > MAX_FILES:
            what = f"the folder holds {len(names)} rule files, and {MAX_FILES} are the most"
            self._add(folder, "E022", what, "write more rules into each file")
            return []
        return [folder / name for name in names]

    def _read(self, path: Path) -> None:
        """Read a file, judged by what was opened: the path may lead elsewhere a moment later."""
        # A FIFO must not make us wait until somebody writes into it.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            descriptor = os.open(path, flags)
            try:
                text = self._text(path, descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            no_socket = error.errno == errno.ENXIO  # what opening one says
            self._cannot(path, "not a regular file" if no_socket else error.strerror or str(error))
        except UnicodeDecodeError as error:
            message = f"cannot read it (not UTF-8 at byte {error.start})"
            self._add(path, "E001", message, "save it as UTF-8")
        else:
            if text is not None:
                self.sources.append((str(path), text))

    def _text(self, path: Path, descriptor: int) -> str | None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            self._cannot(path, "not a regular file")
        elif status.st_size > MAX_FILE_BYTES:
            self._cannot(path, f"larger than {MAX_FILE_BYTES} bytes")
        elif self.trust and (finding := self.trust.finding(str(path), status)):
            self.findings.append(finding)
        else:
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(MAX_FILE_BYTES + 1).decode("utf-8")
        return None

    def _cannot(self, path: Path, reason: str) -> None:
        hint = "check the path and its permissions"
        self._add(path, "E001", f"cannot read it ({reason})", hint)

    def _add(self, path: Path, code: str, message: str, hint: str) -> None:
        self.findings.append(Finding(str(path), 0, 0, code, message, hint))


def _is_rule_file(name: str) -> bool:
    """A name with a dot in front is an editor's, or of nobody's concern."""
    return name.endswith((".yaml", ".yml")) and not name.startswith(".")
