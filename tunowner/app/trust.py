"""Who may write the rules that root acts on: root, and whoever could change this program anyway.

Everybody else who can write a rule file, put one into the folder, or replace one of the folders
above, could route root's and everybody's traffic. Without root nothing is at stake, and Windows has
no such modes: there nobody is asked.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunowner.errors import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MAX_LINKS = 40
"""Linux follows as many (path_resolution(7)); the open that comes next complains of more."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Those who may write, besides nobody. `groups`: of which each member is as good as those.

    `above` are the folders above this program: who could replace one could replace the program.
    """

    users: frozenset[int]
    groups: frozenset[int]
    above: frozenset[Path] = frozenset()

    def finding(self, path: str, status: os.stat_result, *, sticky: bool = False) -> Finding | None:
        """Say what is wrong with what `path` leads to. `sticky`: in such a folder all may write.

        Nobody can replace what is not his in a folder with that bit (inode(7)), as /tmp has.
        """
        if status.st_uid not in self.users:
            what = f"belongs to user {status.st_uid}, who could change what root does"
            return Finding(path, 0, 0, "E020", what, f"chown root '{path}'")
        if sticky and status.st_mode & stat.S_ISVTX:
            return None
        others = status.st_mode & stat.S_IWOTH
        group = status.st_mode & stat.S_IWGRP and status.st_gid not in self.groups
        if not (others or group):
            return None
        who = "everybody" if others else f"group {status.st_gid}"
        what = f"{who} may write it, and could change what root does"
        return Finding(path, 0, 0, "E021", what, f"chmod go-w '{path}'")

    def way(self, path: Path) -> Iterator[Finding]:
        """Yield what is wrong with the links and folders that lead to `path`, the first only."""
        for folder in _folders(path):
            if folder in self.above:
                continue
            try:
                found = self.finding(str(folder), folder.stat(), sticky=True)
            except OSError:
                return  # whoever opens the file says it better
            if found is not None:
                yield found
                return
        yield from self._links(path)

    def _links(self, path: Path) -> Iterator[Finding]:
        """A link in a sticky folder belongs to somebody, who may turn it elsewhere."""
        for _ in range(MAX_LINKS):
            if not path.is_symlink():
                return
            if path.lstat().st_uid not in self.users:
                what = f"is a link of user {path.lstat().st_uid}, who could change what root does"
                yield Finding(str(path), 0, 0, "E020", what, f"chown -h root '{path}'")
                return
            path = path.parent / path.readlink()


def _folders(path: Path) -> Iterator[Path]:
    """Yield the folders above a path, as it is written and as it is once links are followed."""
    written = Path(os.path.abspath(path))  # noqa: PTH100 - `absolute` leaves `..` in
    yield from dict.fromkeys((*written.parents, *Path(os.path.realpath(path)).parents))


def trust_of_root(environment: Mapping[str, str] = os.environ) -> Trust | None:
    """Return whom to trust, None where this process is not root.

    Root, the user who called sudo(8), and those who may write this very program.
    """
    effective_user: Callable[[], int] | None = getattr(os, "geteuid", None)
    if effective_user is None or effective_user() != 0:
        return None
    program = Path(__file__).resolve()
    code = program.stat()
    users, groups = {0, code.st_uid}, set()
    if code.st_mode & stat.S_IWGRP:
        groups.add(code.st_gid)
    sudo = environment.get("SUDO_UID", ""), environment.get("SUDO_GID", "")
    if all(text.isdecimal() for text in sudo):
        users.add(int(sudo[0]))
        groups.add(int(sudo[1]))  # the private group of a user with umask 002, mostly
    return Trust(frozenset(users), frozenset(groups), frozenset(program.parents))
