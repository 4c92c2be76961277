"""Files that several processes make together: each appears whole, and on one machine, or a file system with locks, is made once."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

try:
    import fcntl
except ImportError:  # a system without file locks
    fcntl = None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name of this process alone to write to, which becomes `path` at once; nothing is left of a file that was not finished."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def make_all(files: Mapping[Path, Callable[[Path], None]], lock: Path, report: Callable[[str], None] = lambda line: None) -> None:
    """Make the files that are not there yet, each by its function, while other processes may be doing the same.

    What another one has under way is left for the end; should that process die, it is made here. `lock`: a file that they share.
    """
    for wait in (False, True):
        left = [path for path in files if not path.exists()]
        if wait and left:
            report(f"another process has {len(left)} groups under way; waiting for it")
        for path in left:
            with turn(lock, path.name, wait) as mine:
                if mine and not path.exists():
                    files[path](path)


@contextmanager
def turn(lock: Path, name: str, wait: bool) -> Iterator[bool]:
    """Whether it is for this process to make `name`: a lock on a byte of the file `lock`, which the system takes back from the dead."""
    byte = int.from_bytes(blake2b(name.encode(), digest_size=7).digest(), "big")
    with open(lock, "ab") as file:
        try:
            if fcntl:
                fcntl.lockf(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            mine = True
        except (BlockingIOError, PermissionError):
            mine = False
        except OSError:  # a file system without locks
            mine = True
        yield mine
