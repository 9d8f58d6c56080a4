"""The shape of the package holds: who may import whom, what is pure, how large things get."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architecture import MAX_FILE_LINES, MAX_FUNCTION_LINES, breaches, third_party

ROOT = Path(__file__).parents[1]


def read_package() -> dict[str, str]:
    modules = {}
    for file in sorted((ROOT / "tunowner").rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = file.read_text(encoding="utf-8")
    return modules


def test_the_package_keeps_its_shape() -> None:
    modules = read_package()
    assert {"tunowner", "tunowner.core.engine", "tunowner.backends.linux.tun"} <= set(modules)
    assert breaches(modules) == []


def test_what_the_package_depends_on() -> None:
    assert third_party(read_package()) == {"cachetools", "click", "psutil", "pyroute2", "yaml"}


BREACHES = [
    # a layer reaches up, or sideways
    ("tunowner.errors", "import tunowner.core.model", "may not import tunowner.core.model"),
    ("tunowner.core.engine", "from tunowner.app import loop", "may not import tunowner.app"),
    ("tunowner.core.rules.load", "from ...app import loop", "may not import tunowner.app"),
    ("tunowner.core.model", "from tunowner.core import packet", "may not import"),
    ("tunowner.backends.base", "from tunowner.core.engine import Carry", "may not import"),
    ("tunowner.backends.linux.tun", "from tunowner.core import rules", "may not import"),
    ("tunowner.backends.linux.tun", "import tunowner.backends.memory", "may not import"),
    ("tunowner.backends.linux.tun", "from tunowner.backends import memory", "may not import"),
    ("tunowner.backends.memory", "from tunowner.backends.linux import tun", "may not import"),
    ("tunowner.app.loop", "from tunowner.backends.linux import tun", "may not import"),
    ("tunowner.app.loop", "from tunowner.backends import linux", "may not import"),
    ("tunowner.app.loop", "import tunowner.control.cli", "may not import"),
    ("tunowner.control.cli", "from tunowner.backends.memory import MemoryOwners", "may not import"),
    # imports that hide
    ("tunowner.core.engine", "def f():\n    import tunowner.app.loop", "may not import"),
    ("tunowner.core.engine", "if TYPE_CHECKING:\n    import tunowner.app.loop", "may not import"),
    # the core is pure
    ("tunowner.core.engine", "import time", "core is pure and may not import time"),
    ("tunowner.core.engine", "from os import path", "core is pure and may not import os"),
    ("tunowner.core.rules.load", "from pathlib import Path", "core is pure"),
    ("tunowner.core.rules.load", "import socket", "core is pure"),
    ("tunowner.core.rules.load", "import sys", "core is pure"),
    ("tunowner.core.rules.load", "import threading", "core is pure"),
    ("tunowner.core.rules.load", "import subprocess", "core is pure"),
    ("tunowner.core.rules.load", "def f():\n    open('x')", "may not use open"),
    ("tunowner.core.rules.load", "def f():\n    print('x')", "may not use print"),
    ("tunowner.core.rules.load", "def f():\n    datetime.now()", "may not use datetime.now"),
    # one switch
    ("tunowner.app.loop", "import sys\nA = sys.platform == 'linux'", "which system"),
    ("tunowner.backends.linux.tun", "import os\nA = os.name", "which system"),
    ("tunowner.app.loop", "from sys import platform", "which system"),
    # imports do nothing
    ("tunowner.app.loop", "import os\nHOME = os.getcwd()", "calls os.getcwd when imported"),
    ("tunowner.app.loop", "open('/etc/passwd')", "calls open when imported"),
    ("tunowner.app.loop", "class A:\n    x = open('/etc/passwd')", "calls open when imported"),
    ("tunowner.app.loop", "def f(x=open('/')): pass", "calls open when imported"),
    ("tunowner.app.loop", "if True:\n    print()", "calls print when imported"),
    ("tunowner.app.loop", "import socket\nS = socket.socket()", "calls socket.socket"),
    # everything has a place
    ("tunowner.relay", "", "has no place"),
    ("tunowner.backends.windows.tun", "", "has no place"),
    ("tunowner.helpers", "", "has no place"),
    # sizes
    ("tunowner.app.loop", "\n" * MAX_FILE_LINES, f"fewer than {MAX_FILE_LINES}"),
    ("tunowner.app.loop", "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES, "f has 41 lines"),
]


@pytest.mark.parametrize(("module", "text", "expected"), BREACHES)
def test_a_breach_is_caught(module: str, text: str, expected: str) -> None:
    found = breaches({module: text})
    assert any(expected in breach for breach in found), found


SOUND = [
    ("tunowner.app.loop", "from tunowner.backends import open_backend"),
    ("tunowner.app.loop", "from tunowner.core.rules import load"),
    ("tunowner.app.loop", "from tunowner.backends.base import DataPlane"),
    ("tunowner.core.rules.load", "from .nodes import Node\nfrom tunowner.errors import Finding"),
    ("tunowner.backends.linux.gate.gate", "from tunowner.core.packet import destination"),
    ("tunowner.backends", "import sys\nA = sys.platform"),
    ("tunowner.app.loop", "def f():\n    open('x')"),
    ("tunowner.app.loop", "if __name__ == '__main__':\n    print()"),
    ("tunowner.app.loop", "\n" * (MAX_FILE_LINES - 1)),
    ("tunowner.app.loop", "def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1)),
]


@pytest.mark.parametrize(("module", "text"), SOUND)
def test_what_is_sound_is_left_alone(module: str, text: str) -> None:
    assert breaches({module: text}) == []
