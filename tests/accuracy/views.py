"""Answers as another user gets them: the contestants are made anew in a process of that user."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.accuracy.baselines import baselines
from tests.accuracy.contestants import without_ebpf
from tests.accuracy.model import View

if TYPE_CHECKING:
    from tests.accuracy.model import Answer, Question

ROOT = Path(__file__).parents[2]
HIDE = ("unshare", "--mount", "--propagation", "private", "sh", "-c")
MOUNT = 'mount -t proc -o hidepid=2 proc /proc && exec "$@"'


def answers(question: Question) -> dict[str, Answer]:
    """Return what the contestants that need no privilege say, by their names."""
    view = (*HIDE, MOUNT, "sh") if question.view is View.HIDDEN else ()
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.accuracy import views; views.serve()"
    argv = (*view, sys.executable, "-c", code)
    done = subprocess.run(argv, input=pickle.dumps(question), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    said: dict[str, Answer] = pickle.loads(done.stdout)
    return said


def serve() -> None:
    """Answer the question on standard input. Privilege is given up once all is imported."""
    question: Question = pickle.load(sys.stdin.buffer)
    _become_nobody()
    contestants = [without_ebpf(), *baselines()]
    said = {each.name: each.answer(question) for each in contestants}
    sys.stdout.buffer.write(pickle.dumps(said))


def _become_nobody() -> None:
    if sys.platform == "linux":
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
