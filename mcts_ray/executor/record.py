"""What is written of a search while it runs, its journal and its anytime curve, and how the journal is read again.

Where the storage is full or cannot be written, lines wait in memory, `Recorder.trouble` says why, and the search pauses until they
have been written. A process that dies leaves whole lines and at most the beginning of one more, which does not count.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from mcts_ray.search import journal
from mcts_ray.search.base import Cost, Outcome, Search, Work

try:
    import fcntl
except ImportError:  # a system without file locks
    fcntl = None

log = logging.getLogger(__name__)
PATIENCE = 20.0  # seconds for a process that is about to die to let its journal go


class Recorder:
    """An observer that appends one search to `journal.jsonl` and `metrics.jsonl` of its run directory.

    It runs where the search runs; the directory and the header of the journal are there already. It holds the journal until
    `close`: ValueError where another process does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble: str | None = None
        self._journal = _Appended(path / "journal.jsonl")
        self._metrics = _Appended(path / "metrics.jsonl")
        hold(self._journal.fd, path, PATIENCE)

    def close(self) -> None:
        """Nothing more comes."""
        self.flush()
        self._journal.close()
        self._metrics.close()

    def flush(self) -> None:
        """Write what waits. `trouble` then says why that cannot be, in a sentence, or is None."""
        try:
            self._journal.flush()
            self._metrics.flush()
            trouble = None
        except OSError as error:
            trouble = f"run directory {self.path} cannot be written ({error.strerror}); the search goes on when it can"
        if trouble and not self.trouble:
            log.warning("paused: %s", trouble)
        self.trouble = trouble

    def asked(self, search: Search, works: Sequence[Work]) -> None:
        """Units went out; written with the next outcome."""
        for work in works:
            self._journal.put(journal.asked(work))

    def reissued(self, search: Search, work: Work) -> None:
        """A lost unit went out again."""
        self._journal.put(journal.reissued(work))

    def told(self, search: Search, outcome: Outcome) -> None:
        """An outcome has been applied."""
        seconds = search.ledger.seconds
        self._journal.put(journal.told(outcome, seconds))
        if outcome.reward is not None and outcome.error is None:
            self._metrics.put({"nfe": search.ledger.nfe, "seconds": round(seconds, 3), "best": search.top})
        self.flush()

    def extended(self, search: Search, nfe: int) -> None:
        """The search may spend more."""
        self._journal.put(journal.extended(nfe))
        self.flush()

    def halted(self, search: Search, costs: Sequence[Cost]) -> None:
        """The search was ended with units in flight."""
        self._journal.put(journal.halted(costs, search.ledger.seconds))
        self.flush()


class _Appended:
    """A file to which lines are appended; those that could not be written yet wait, in their order."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._waiting = bytearray()

    def put(self, record: dict[str, Any]) -> None:
        """Append a line with the next `flush`."""
        self._waiting += line(record)

    def flush(self) -> None:
        """Write; OSError where it cannot be, and the rest waits: even half a line, which the next call completes."""
        while self._waiting:
            written = os.write(self.fd, self._waiting)
            del self._waiting[:written]

    def close(self) -> None:
        os.close(self.fd)


def hold(fd: int, path: Path, patience: float = 0.0) -> None:
    """Keep a journal for this process while the file is open. ValueError if another one has it after `patience` seconds."""
    deadline = time.monotonic() + patience
    while fcntl:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise ValueError(f"run directory {path} is being written by a search that is running") from None
            time.sleep(0.2)
        except OSError:  # a file system without locks
            return


def read_journal(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """The header of the journal in a run directory, its records, and its length in bytes up to the last whole line.

    Raises ValueError with a sentence if there is none, or a line that is not a record.
    """
    try:
        data = (path / "journal.jsonl").read_bytes()
    except OSError as error:
        raise ValueError(f"run directory {path} holds no journal that can be read ({error.strerror})") from error
    whole = data[: data.rfind(b"\n") + 1]
    try:
        header, *records = [json.loads(text) for text in whole.splitlines()]
        if header["type"] != "header" or not all(isinstance(record["type"], str) for record in records):
            raise KeyError
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"the journal in {path} is damaged: it holds a line that is not a record of a search") from None
    return header, records, len(whole)


def line(record: dict[str, Any]) -> bytes:
    """One JSON object on one line; NaN and infinities as Python's `json` reads them."""
    return to_json(record) + b"\n"
