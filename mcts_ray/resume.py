"""A run directory to be resumed from the command line, checked before a model is loaded, and the searcher that goes on with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcts_ray.actors.cluster import find
from mcts_ray.diffusion.resolve import Model, resolve_model
from mcts_ray.executor.record import read_journal
from mcts_ray.report.run import RunDirectory
from mcts_ray.request import check_where

if TYPE_CHECKING:
    from mcts_ray.searcher import Searcher

DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class Resumption:
    """What goes on where. budget: NFE in all, None: what it had."""

    model: Model
    device: str
    dtype: str
    executor: str
    workers: int | None
    address: str | None
    budget: int | None


def check(path: Path, add: int, executor: str, workers: int | None, address: str | None) -> Resumption:
    """The device and precision are those that the run began with. ValueError with a sentence for what cannot be resumed."""
    run = RunDirectory.reopen(path)
    if run.job["status"] == "done" and not add:
        raise ValueError(f"the search in {path} is done; there is nothing to resume, but --add NFE gives it more budget")
    device, dtype = run.job["device"].partition(":")[0], DTYPES.get(run.job["dtype"], "fp32")
    check_where(executor, device, dtype, workers, address)
    _, records, _ = read_journal(path)
    had = run.job["config"]["budget"] + sum(record["nfe"] for record in records if record["type"] == "extend")
    if executor == "ray":
        address = find(address) or "local"
    model = resolve_model(run.job["model"])
    return Resumption(model, device, dtype, executor, workers, address, had + add if add else None)


def open_searcher(request: Resumption) -> Searcher:
    """A searcher for it; to be closed by the caller."""
    from mcts_ray.searcher import Searcher

    where = {"executor": request.executor, "workers": request.workers, "address": request.address}
    return Searcher.from_pretrained(request.model, request.device, request.dtype, **where)
