"""The fusion actor: barycenters of sibling noises, whole batches at a time, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mcts_ray.search.base import Work


class FusionWorker:
    """Fuses the noise of units; stateless, since noise is drawn again from the particles' ids."""

    def __repr__(self) -> str:
        return "Fusion"

    def fuse(self, works: Sequence[Work], shape: tuple[int, int, int]) -> tuple[dict[str, str], dict[str, np.ndarray]]:
        """For each unit, by its id: why its particles cannot be fused, or the fused noise (C, H, W) fp32."""
        from mcts_ray.fusion.fuser import noise_of
        from mcts_ray.tree.weights import Refusal

        made = {work.id: noise_of(work, shape) for work in works}
        refused = {id: noise.value for id, noise in made.items() if isinstance(noise, Refusal)}
        return refused, {id: noise.numpy() for id, noise in made.items() if id not in refused}
