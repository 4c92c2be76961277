"""What is written of a search while it runs: its journal and its anytime curve, each line as it happens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcts_ray.search import journal
from mcts_ray.search.base import Cost, Outcome, Search, Work


class Recorder:
    """An observer that appends one search to `journal.jsonl` and `metrics.jsonl` of its run directory.

    It runs where the search runs; the directory and the header of the journal are there already.
    """

    def __init__(self, path: Path) -> None:
        self._journal = open(path / "journal.jsonl", "a", encoding="utf-8")
        self._metrics = open(path / "metrics.jsonl", "a", encoding="utf-8")

    def close(self) -> None:
        """Nothing more comes."""
        self._journal.close()
        self._metrics.close()

    def asked(self, search: Search, works: Sequence[Work]) -> None:
        """Units went out."""
        for work in works:
            write_line(self._journal, journal.asked(work))

    def reissued(self, search: Search, work: Work) -> None:
        """A lost unit went out again."""
        write_line(self._journal, journal.reissued(work))

    def told(self, search: Search, outcome: Outcome) -> None:
        """An outcome has been applied."""
        seconds = search.ledger.seconds
        write_line(self._journal, journal.told(outcome, seconds))
        self._journal.flush()
        if outcome.reward is not None and outcome.error is None:
            best = search.best(1)[0].reward
            write_line(self._metrics, {"nfe": search.ledger.nfe, "seconds": round(seconds, 3), "best": best})
            self._metrics.flush()

    def extended(self, search: Search, nfe: int) -> None:
        """The search may spend more."""
        write_line(self._journal, journal.extended(nfe))
        self._journal.flush()

    def halted(self, search: Search, costs: Sequence[Cost]) -> None:
        """The search was ended with units in flight."""
        write_line(self._journal, journal.halted(costs, search.ledger.seconds))
        self._journal.flush()


def write_line(file, record: dict[str, Any]) -> None:
    """One JSON object on one line."""
    file.write(json.dumps(record, ensure_ascii=False) + "\n")
