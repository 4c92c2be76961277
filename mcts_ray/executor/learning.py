"""What running searches teach the IGE: their transitions go to the trainer of its folder. No torch until something has to be learned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mcts_ray.executor.base import Job
from mcts_ray.gain.choose import Transition

if TYPE_CHECKING:
    from mcts_ray.gain.online import OnlineTrainer, Version


def drained(jobs: Iterable[Job]) -> dict[str, list[Transition]]:
    """New transitions of searches that learn online, by the folder of their IGE."""
    found: dict[str, list[Transition]] = {}
    for job in jobs:
        setting = job.search.setting
        if setting.ige_features and (transitions := job.search.transitions()):
            found.setdefault(setting.ige_model, []).extend(transitions)
    return found


class Learning:
    """Trainers by the folder of their IGE, made when they are needed; each goes on where its folder stands."""

    def __init__(self) -> None:
        self._trainers: dict[str, OnlineTrainer] = {}

    def take(self, folder: str, transitions: Iterable[Transition]) -> Version | None:
        """Add transitions; a new version if one was due and is kept."""
        if folder not in self._trainers:
            from mcts_ray.gain.online import OnlineTrainer

            self._trainers[folder] = OnlineTrainer(folder)
        trainer = self._trainers[folder]
        trainer.add(transitions)
        return trainer.learn() if trainer.due else None
