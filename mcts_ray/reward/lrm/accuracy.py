"""How well a latent reward model ranks pairs, level by level."""

from __future__ import annotations

import numpy as np
import torch

from mcts_ray.reward.lrm.data import Data, ranked_right
from mcts_ray.reward.lrm.model import LatentRewardModel

PAIRS = 256  # that are asked at every level
BATCH = 32


@torch.no_grad()
def accuracies(model: LatentRewardModel, data: Data, pair_P: np.ndarray, seed: int = 0) -> dict:
    """Pairwise accuracy at every level on up to `PAIRS` of the given pairs without ties, each with noise drawn once.

    {"pairs": how many, "accuracy": mean over levels, "levels": [{"level", "t", "accuracy", "standard_error"}, ...] from T down};
    accuracies are None where there is no pair that is not a tie.
    """
    decided = pair_P[data.pairs.label_P[pair_P] != 0.5]
    asked = decided[np.linspace(0, len(decided) - 1, min(PAIRS, len(decided))).round().astype(int)]
    found = []
    for level in range(data.levels.T, 0, -1):
        generator = torch.Generator().manual_seed(seed * 1000 + level)
        right = [_right(model, data, asked[at : at + BATCH], level, generator) for at in range(0, len(asked), BATCH)]
        share = float(np.concatenate(right).mean()) if right else None
        error = round(float(np.sqrt(share * (1 - share) / len(asked))), 4) if right else None
        t = int(data.levels.rows[level][0])
        found.append({"level": level, "t": t, "accuracy": share and round(share, 4), "standard_error": error})
    mean = round(float(np.mean([row["accuracy"] for row in found])), 4) if len(asked) else None
    return {"pairs": len(asked), "accuracy": mean, "levels": found}


def _right(model: LatentRewardModel, data: Data, pair_P: np.ndarray, level: int, generator: torch.Generator) -> np.ndarray:
    score_P2 = data.scores(model, pair_P, np.full(len(pair_P), level), generator).cpu()
    return ranked_right(score_P2, torch.from_numpy(data.pairs.label_P[pair_P])).numpy()
