"""Find and read rule files. The rules themselves are `core.rules`' business."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tunowner.core.rules import load
from tunowner.errors import ConfigError, Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunowner.core.rules import RuleSet

MAX_FILE_BYTES = 16 * 1024 * 1024
"""A rule file larger than this is a mistake: 10,000 rules are about 1 MiB."""


def load_rules(paths: Sequence[str]) -> RuleSet:
    """Read rule files and folders (their *.yaml and *.yml, in file-name order) as one rule set.

    Raises ConfigError with every finding of every file.
    """
    findings: list[Finding] = []
    sources = []
    for path in paths:
        for file in _files(Path(path), findings):
            text = _read(file, findings)
            if text is not None:
                sources.append((str(file), text))
    try:
        rules = load(sources)
    except ConfigError as error:
        raise ConfigError([*findings, *error.findings]) from None
    if findings:
        raise ConfigError(findings)
    return rules


def _files(path: Path, findings: list[Finding]) -> list[Path]:
    try:
        if not path.is_dir():
            return [path]
        found = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
    except OSError as error:
        findings.append(_unreadable(path, error.strerror or str(error)))
        return []
    if not found:
        hint = "put a .yaml file there, or name another folder"
        findings.append(Finding(str(path), 0, 0, "E002", "the folder holds no rule file", hint))
    return found


def _read(file: Path, findings: list[Finding]) -> str | None:
    try:
        if not file.is_file():
            reason = "not a regular file" if file.exists() else "No such file or directory"
            findings.append(_unreadable(file, reason))
            return None
        if file.stat().st_size > MAX_FILE_BYTES:
            findings.append(_unreadable(file, f"larger than {MAX_FILE_BYTES} bytes"))
            return None
        return file.read_text(encoding="utf-8")
    except OSError as error:
        findings.append(_unreadable(file, error.strerror or str(error)))
    except UnicodeDecodeError as error:
        findings.append(_unreadable(file, f"not UTF-8 at byte {error.start}"))
    return None


def _unreadable(path: Path, reason: str) -> Finding:
    return Finding(
        str(path), 0, 0, "E001", f"cannot read it ({reason})", "check the path and its permissions"
    )
