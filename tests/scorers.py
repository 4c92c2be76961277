"""Step scorers that need no training, loaded as others are: `use(monkeypatch)` puts this module where lrm and value are looked up.

A source is a folder whose file `which` names one of SCORERS.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from mcts_ray.reward import step


@dataclass(eq=False)
class MeanEps:
    """The mean of eps: nothing of its own is run, nothing is tapped."""

    taps: tuple = ()
    forwards: int = 0
    seen: list = field(default_factory=list)

    def score(self, states):
        self.seen.append(states)
        return states.eps.mean(dim=(1, 2, 3))


class Tapped(MeanEps):
    """The mean of a feature map, minus the level's log-SNR; stands for a network with two forwards of its own."""

    def __init__(self):
        super().__init__(("mid",), 2)

    def score(self, states):
        self.seen.append(states)
        return states.taps["mid"].mean(dim=(1, 2, 3)) - states.log_snr


class Moody(MeanEps):
    """Not a number for every other state."""

    def score(self, states):
        self.seen.append(states)
        return torch.where(torch.arange(len(states)) % 2 == 0, torch.nan, states.x0.mean(dim=(1, 2, 3)))


SCORERS = {"eps": MeanEps, "tapped": Tapped, "moody": Moody}


def folder(tmp_path: Path, which: str) -> str:
    """The folder of a scorer."""
    path = tmp_path / which
    path.mkdir(exist_ok=True)
    (path / "which").write_text(which)
    return str(path)


def load(source, adapter):
    """As `mcts_ray.reward.value.load`."""
    return SCORERS[(Path(source) / "which").read_text()]()


def use(monkeypatch) -> None:
    """Have `load` of this module make the scorers lrm and value."""
    for kind in step.IN_ENGINE:
        monkeypatch.setitem(step.IN_ENGINE, kind, __name__)
