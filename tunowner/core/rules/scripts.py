"""Which script an interpreter runs, by its command line.

The process may have written its command line itself (prctl(2), PR_SET_MM), so this tells honest
programs apart and proves nothing. Sources: python(1), node(1), perlrun(1), ruby(1), bash(1),
java(1); wine shows the Windows program's own words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Script(NamedTuple):
    """A script: its whole path, None where it cannot be known; and its name, or a module's."""

    path: str | None
    name: str


NO_SCRIPT = Script("", "")


class _Interpreter(NamedTuple):
    """How an interpreter's options are read, up to the first word that is none.

    Of single-letter options, which may stand together behind one dash: `takes` are followed by a
    value, `attached` have it in the same word, after `code` comes no script, after `module` the
    name of one. `words` are whole options that take the next word.
    """

    takes: str = ""
    code: str = ""
    module: str = ""
    attached: str = ""
    words: frozenset[str] = frozenset()
    code_words: frozenset[str] = frozenset()
    grouped: bool = True


_PYTHON = _Interpreter("WX", "c", "m", words=frozenset(("--check-hash-based-pycs",)))
_NODE = _Interpreter(
    "rC",
    "ep",
    words=frozenset(
        ("--require", "--import", "--loader", "--experimental-loader", "--conditions", "--env-file")
    ),
    code_words=frozenset(("--eval", "--print", "-pe")),
    grouped=False,
)
_PERL = _Interpreter("I", "eE", attached="iFMmDCx")
_RUBY = _Interpreter("IrCE", "e", attached="iFKTWx")
_SHELL = _Interpreter("oO", "c", words=frozenset(("--rcfile", "--init-file")))
_INTERPRETERS = {"python": _PYTHON, "node": _NODE, "perl": _PERL, "ruby": _RUBY, "shell": _SHELL}
_KIND = re.compile(
    r"(?P<python>(?:python|pypy)[0-9.]*[a-z]?)|(?P<node>node(?:js)?[0-9]*)|(?P<perl>perl[0-9.]*)"
    r"|(?P<ruby>ruby[0-9.]*)|(?P<shell>(?:ba|da|a|z|k|mk)?sh)|(?P<java>javaw?)"
    r"|(?P<wine>wine(?:64)?(?:-preloader)?)"
)
"""The name of a program: the group that fits says how its command line is read."""
_JAVA_WORDS = frozenset(
    (
        *("-cp", "-classpath", "--class-path", "-p", "--module-path", "--add-modules"),
        *("--upgrade-module-path", "--add-reads", "--add-exports", "--add-opens"),
    )
)
_DRIVE = re.compile(r"[A-Za-z]:/")
_ODD = re.compile(r"/(?:\.|/|$)")
"""Where a path may not be normal."""


def is_interpreter(program: str) -> bool:
    """Whether the program at this path is one whose scripts we know how to tell."""
    return _kind(program) is not None


def _kind(program: str) -> str | None:
    name = program.replace("\\", "/").rpartition("/")[2]
    known = _KIND.fullmatch(name[:-4] if name.lower().endswith(".exe") else name)
    return known.lastgroup if known else None


def script_of(program: str, words: Sequence[str], directory: str | None) -> Script:
    """Return the script that `program` (a path) runs, NO_SCRIPT for none.

    `words` is the command line, `directory` where relative names start, None if unknown.
    """
    kind = _kind(program)
    if kind is None:
        return NO_SCRIPT
    if kind == "wine":
        found = next((word for word in words if word.lower().endswith(".exe")), None)
    elif kind == "java":
        found = _jar(iter(words[1:]))
    else:
        what, found = _first_word(_INTERPRETERS[kind], iter(words[1:]))
        if what == "module":
            return Script("", found) if found else NO_SCRIPT
    return _resolved(found, directory) if found else NO_SCRIPT


def _jar(words: Iterator[str]) -> str | None:
    for word in words:
        if word == "-jar":
            return next(words, None)
        if word in _JAVA_WORDS:
            next(words, None)
        elif not word.startswith(("-", "@")):
            return None
    return None


def _first_word(reader: _Interpreter, words: Iterator[str]) -> tuple[str, str]:
    """Return ("script" or "module", its name), with an empty name for neither."""
    for word in words:
        if word == "--":
            return "script", next(words, "")
        if word == "-" or word in reader.code_words:
            return "script", ""
        if word in reader.words:
            next(words, None)
        elif word.startswith("--") or word[:1] not in ("-", "+"):
            if not word.startswith("--"):
                return "script", word
        else:
            effect, rest = _letters(reader, word[1:])
            if effect == "code":
                return "script", ""
            if effect == "module":
                return "module", rest or next(words, "")
            if effect == "takes" and not rest:
                next(words, None)
    return "script", ""


def _letters(reader: _Interpreter, letters: str) -> tuple[str, str]:
    """Return what the first letter that matters does, and what stands behind it."""
    for position, letter in enumerate(letters if reader.grouped else letters[:1]):
        rest = letters[position + 1 :]
        for effect in ("takes", "code", "module", "attached"):
            if letter in getattr(reader, effect):
                return effect, rest
    return "", ""


def _resolved(word: str, directory: str | None) -> Script:
    path = word if word.startswith("/") else word.replace("\\", "/")
    name = path.rpartition("/")[2]
    if not path.startswith("/") and not _DRIVE.match(path):
        if directory is None:
            return Script(None, name)
        path = f"{directory}/{path}"
    return Script(normal(path), name)


def normal(path: str) -> str:
    """Return an absolute path without `.`, `..` and doubled slashes. Links are not followed."""
    if path.startswith("/") and not _ODD.search(path):
        return path
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in ("", ".", ".."):
            parts.append(part)
    whole = "/".join(parts)
    return f"/{whole}" if path.startswith("/") else whole
