"""Carrying out one job: the seam between the life cycle of jobs and whatever searches, a Ray cluster, this process, or a fake."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mcts_ray.executor.backend import ActorsLost
from mcts_ray.executor.base import Progress
from mcts_ray.executor.record import read_journal
from mcts_ray.report.run import summary
from mcts_ray.result import SearchFailed, SearchInterrupted, SearchResult
from mcts_ray.search import ALGORITHMS
from mcts_ray.search.base import Cost, Ledger
from mcts_ray.searcher import Searcher
from mcts_ray.service.models import SearchRequest


class Cancelled(KeyboardInterrupt):
    """Raised by `on_progress` to end a search; what was found is kept, as after Ctrl-C."""


class Lost(RuntimeError):
    """The search was lost with the actors that carried it out; it may be begun again."""


@dataclass(frozen=True)
class Ended:
    """How a job has ended: its status and error, the object of `search --json`, and seconds by phase since it was begun, for the metrics.
    """

    status: str
    result: dict[str, Any] | None = None
    error: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


class Runner(Protocol):
    """Carries out jobs, several at once, each in a thread of its caller."""

    def start(self) -> None:
        """Load what is needed; blocks until it can search."""

    def run(self, request: SearchRequest, out: Path, on_progress: Callable[[Progress], None]) -> Ended:
        """Carry out a search, writing its run directory; one that was finished there is not searched again. Raises Lost where it may be
        begun again."""

    def goes_on(self, out: Path, budget: int) -> bool:
        """Whether `run` with this budget goes on with what a search has left in `out`, rather than needs a new directory."""

    def spent(self, out: Path) -> int:
        """NFE of the search in `out` so far, by its journal."""

    def found(self, out: Path) -> dict[str, Any] | None:
        """The object of `search --json` for what lies in `out`; None without an image."""

    def extend(self, out: Path, nfe: int) -> bool:
        """Let the search that writes to `out` spend more; False if it cannot."""

    def census(self) -> list[dict[str, Any]]:
        """What each tree manager has in hand, for the metrics."""

    def close(self) -> None:
        """Let go of what it holds."""


class SearcherRunner:
    """By a `Searcher` for each model. make: makes the searcher of a model; at_once: False where only one may run at a time."""

    def __init__(self, models: tuple[str, ...], make: Callable[[str], Searcher], at_once: bool = True) -> None:
        self._models, self._make = models, make
        self._searchers: dict[str, Searcher] = {}
        self._making = threading.Lock()
        self._turn = threading.Semaphore(10**6 if at_once else 1)
        self._out: dict[Path, str] = {}

    def start(self) -> None:
        for model in self._models:
            self._searcher(model)

    def run(self, request: SearchRequest, out: Path, on_progress: Callable[[Progress], None]) -> Ended:
        with self._turn:
            if _standing(out, request.budget) == "done":  # the service has died before it could say so
                return Ended("done", self.found(out))
            searcher, before = self._searcher(request.model), _ledger(out)
            self._out[out] = request.model
            try:
                return _ended(self._search(searcher, request, out, on_progress), before)
            except SearchInterrupted as interrupt:
                return _ended(interrupt.results[0], before, cancelled=True)
            except SearchFailed as failure:
                return Ended("failed", error=str(failure))
            except ActorsLost as error:
                self._drop(request.model, searcher)
                raise Lost(str(error)) from error
            finally:
                del self._out[out]

    def goes_on(self, out: Path, budget: int) -> bool:
        return _standing(out, budget) is not None

    def spent(self, out: Path) -> int:
        return _ledger(out).nfe

    def found(self, out: Path) -> dict[str, Any] | None:
        result = (_job(out) or {}).get("result")
        return result if result and result["images"] else None

    def extend(self, out: Path, nfe: int) -> bool:
        searcher, search = self._searchers.get(self._out.get(out, "")), _search_id(out)
        try:
            return searcher is not None and search is not None and searcher.backend.extend(search, nfe)
        except RuntimeError:  # its actors have died
            return False

    def census(self) -> list[dict[str, Any]]:
        return [self._look(s.backend) for s in list(self._searchers.values()) if hasattr(s.backend, "census")]

    def close(self) -> None:
        for searcher in self._searchers.values():
            searcher.close()

    def _look(self, backend: Any) -> dict[str, Any]:
        """What the tree manager of one model has in hand."""
        return backend.census()

    def _search(self, searcher: Searcher, request: SearchRequest, out: Path, on_progress: Callable[[Progress], None]) -> SearchResult:
        if self.goes_on(out, request.budget):
            return searcher.resume(out, on_progress, request.budget)
        return searcher.many([request.prompt], request.config(), on_progress, [out])[0]

    def _searcher(self, model: str) -> Searcher:
        with self._making:
            if model not in self._searchers:
                self._searchers[model] = self._make(model)
            return self._searchers[model]

    def _drop(self, model: str, broken: Searcher) -> None:
        """Let go of a searcher whose actors have died; the first to notice does it."""
        with self._making:
            if self._searchers.get(model) is broken:
                del self._searchers[model]
                broken.close()


def _ended(result: SearchResult, before: Ledger, cancelled: bool = False) -> Ended:
    """before: what had been spent when it was begun."""
    ledger = result.ledger
    seconds = {"denoise": ledger.denoiser_seconds - before.denoiser_seconds, "wall": ledger.seconds - before.seconds}
    seconds = {phase: max(0.0, spent) for phase, spent in {**seconds, "score": result.scoring_seconds}.items()}
    if cancelled:
        return Ended("cancelled", summary(result), None, seconds)
    return Ended("failed" if result.failure else "done", summary(result), result.failure, seconds)


def _standing(out: Path, budget: int) -> str | None:
    """Of a search of `budget` NFE that has a run directory: "done" if it was carried out there, "stopped" if it can go on there, None if
    neither. It may have been stopped by a crash, with its actors, or by the end of a service; a client may have extended it since, which
    psp cannot use."""
    job = _job(out)
    try:
        records = read_journal(out)[1] if job else []
    except ValueError:
        return None
    if job is None or job["status"] not in ("running", "interrupted", "done"):
        return None
    had = job["config"]["budget"] + sum(record["nfe"] for record in records if record["type"] == "extend")
    if job["status"] == "done" and budget <= had:
        return "done"
    return "stopped" if ALGORITHMS[job["config"]["algorithm"]].extendable or job["config"]["budget"] == budget else None


def _job(out: Path) -> dict[str, Any] | None:
    """What job.json says, if it is there."""
    try:
        return json.loads((out / "job.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _ledger(out: Path) -> Ledger:
    """What the journal in a run directory has told of; nothing if there is none."""
    ledger = Ledger()
    try:
        told = [record for record in read_journal(out)[1] if record["type"] == "tell"]
    except ValueError:
        return ledger
    for record in told:
        ledger.add(Cost(**record["cost"]))
        ledger.seconds = record["seconds"]
    return ledger


def _search_id(out: Path) -> str | None:
    """The id of the search that writes to a run directory, once it does; a resumed one has another than at first."""
    try:
        header, records, _ = read_journal(out)
    except ValueError:
        return None
    return next((record["search"] for record in reversed(records) if record["type"] == "resume"), header["search"])
