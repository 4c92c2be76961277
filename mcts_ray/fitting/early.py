"""Early stopping: the averaged weights are looked at on held-out data at every checkpoint, and the best are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from mcts_ray.fitting.loop import BEST, Progress, save


class EarlyStopping(ABC):
    """The `watch` of `fit`: keeps the best checkpoint in `out`, and says when to end. A subclass writes `_look`.

    patience: checkpoints without a better one after which training ends.
    """

    def __init__(self, network: nn.Module, out: Path, resume: bool, patience: int) -> None:
        self._patience = patience
        self._network, self._file = network, out / BEST
        self._found: dict[str, float] = {}
        self._saved = {"checkpoints": [], "step": None, "score": (), "state": None}
        if resume and self._file.exists():
            self._saved = torch.load(self._file, map_location="cpu", weights_only=True)

    @property
    def over(self) -> bool:
        """Whether the last `patience` checkpoints were not better than one before."""
        best = self._saved["step"]
        return best is not None and sum(step > best for step in self._saved["checkpoints"]) >= self._patience

    @property
    def best(self) -> tuple[int, dict[str, torch.Tensor]]:
        """The step of the best checkpoint, and its weights."""
        return self._saved["step"], self._saved["state"]

    def __call__(self, step: int, state: dict[str, torch.Tensor]) -> bool:
        """Look at the averaged weights after `step` steps; True if training is to end."""
        self._saved["checkpoints"] = [known for known in self._saved["checkpoints"] if known < step] + [step]
        self._found, score = self._look(state)
        best = self._saved["step"]
        if best is None or best >= step or score > tuple(self._saved["score"]):
            kept = {name: value.cpu().clone() for name, value in state.items()}  # the average itself goes on in place
            self._saved |= {"step": step, "score": score, "state": kept}
        save(self._file, self._saved)
        return self.over

    @abstractmethod
    def _look(self, state: dict[str, torch.Tensor]) -> tuple[dict[str, float], tuple[float, ...]]:
        """What is to be reported of these weights, and how good they are, higher being better."""

    @contextmanager
    def _with(self, state: dict[str, torch.Tensor]) -> Iterator[None]:
        """The network with other weights, in evaluation; its own come back."""
        own = {name: value.clone() for name, value in self._network.state_dict().items()}
        self._network.load_state_dict(state)
        self._network.eval()
        yield
        self._network.load_state_dict(own)
        self._network.train()

    def telling(self, report: Callable[[Progress], None] | None) -> Callable[[Progress], None] | None:
        """`report` with what was found last beside the metrics of the batch."""
        return report and (lambda progress: report(replace(progress, metrics=progress.metrics | self._found)))
