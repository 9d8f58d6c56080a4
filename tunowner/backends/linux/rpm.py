"""The RPM package of a path, asked of rpm(8): its database has had four formats so far."""

from __future__ import annotations

import subprocess
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from cachetools import LRUCache

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMAND = ("/usr/bin/rpm",)
FOLDERS = (Path("/usr/lib/sysimage/rpm"), Path("/var/lib/rpm"))
"""Where the database is, on newer and on older systems (rpm(8), --dbpath)."""
DATABASES = ("rpmdb.sqlite", "Packages.db", "Packages")
"""By their format: sqlite, ndb, Berkeley."""
PATIENCE_S = 10.0
"""An answer takes about 20 ms; another rpm may hold the lock of the database for a while."""
_NOT_OWNED = "is not owned by any package"


class Rpm:
    """Finds the RPM package of a path. Any thread may ask; an answer is kept until a package changes."""

    def __init__(self, command: Sequence[str] = COMMAND, folders: Sequence[Path] = FOLDERS) -> None:
        self._command = command
        self._folders = folders
        self._lock = Lock()
        self._version: tuple[int, ...] = ()
        self._answers: LRUCache[str, str | None] = LRUCache(1024)

    def owner(self, path: str) -> str | None:
        """Return the package's name, "" for a file of no package, None where nobody can tell."""
        with self._lock:
            version = self._database()
            if not version:
                return None
            if version != self._version:
                self._answers.clear()
                self._version = version
            if path not in self._answers:
                self._answers[path] = self._ask(path)
            return self._answers[path]

    def _database(self) -> tuple[int, ...]:
        """Return when the files of the database changed; nothing where there is none."""
        files = [folder / name for folder in self._folders for name in DATABASES]
        try:
            return tuple(file.stat().st_mtime_ns for file in files if file.exists())
        except OSError:
            return ()

    def _ask(self, path: str) -> str | None:
        query = [*self._command, "-qf", "--queryformat", "%{NAME}\\n", "--", path]
        try:
            done = subprocess.run(
                query,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PATIENCE_S,
                env={"LC_ALL": "C"},
                text=True,
                errors="replace",
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        if done.returncode == 0:
            return done.stdout.partition("\n")[0]
        return "" if _NOT_OWNED in done.stdout + done.stderr else None
