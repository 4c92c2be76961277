"""The trainer actor: fine-tunes IGEs in the background on the transitions of running searches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from mcts_ray.gain.choose import Transition

if TYPE_CHECKING:
    from mcts_ray.gain.online import Version


class TrainerWorker:
    """Trainers by folder; a restarted actor goes on where the folders stand."""

    def __repr__(self) -> str:
        return "Trainer"

    def take(self, folder: str, transitions: Sequence[Transition]) -> Version | None:
        """Add transitions; a new version if one was due and is kept."""
        return self._learning.take(folder, transitions)

    @cached_property
    def _learning(self):
        import torch

        from mcts_ray.executor.learning import Learning

        torch.set_num_threads(1)  # the denoisers have the others
        return Learning()
