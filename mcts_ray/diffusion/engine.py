"""The slot machine: many walks of many searches advance together, one network call at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import torch

from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.lane import Lane, Walked
from mcts_ray.diffusion.store import Store
from mcts_ray.search.base import Work
from mcts_ray.search.lineage import Again

__all__ = ["Engine", "Walked"]
ALIKE = 8  # from so many samples on the answers of a CPU do not depend on their number, nor between 2 and one less


class Engine:
    """Carries out walks in batches of up to `batch_size` samples, in submission order.

    A batch mixes searches, levels, jumps, prompts and guidance; only the latent shape (hence height and width) must
    agree, so each shape has a lane of its own and lanes take turns. The order of batches depends on the order of
    submissions alone, never on timing. cache: bytes of kept states that `trim` leaves. buckets: whether calls are filled up to one of
    a few sizes; None: on a GPU. Shapes in `sizes` have a batch size of their own, which holds from the first unit on.
    """

    def __init__(self, denoiser: Denoiser, batch_size: int = 64, cache: int | None = None, buckets: bool | None = None):
        if batch_size < 1:
            raise ValueError(f"batch size must be at least 1, not {batch_size}")
        self.denoiser = denoiser
        self.batch_size = batch_size
        self.buckets = denoiser.device.type == "cuda" if buckets is None else buckets
        self.sizes: dict[tuple[int, int, int], int] = {}
        self.store = Store(cache)
        self._lanes: dict[tuple[int, int, int], Lane] = {}

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs."""
        return not any(map(len, self._lanes.values()))

    @property
    def free(self) -> int:
        """Units that would still fit in one batch with those already submitted."""
        return max(0, self.batch_size - sum(map(len, self._lanes.values())))

    @property
    def nfe(self) -> int:
        """States evaluated since the engine was made."""
        return self.spent.total()

    @property
    def spent(self) -> Counter[str]:
        """States evaluated since the engine was made, by search."""
        return sum((lane.spent for lane in self._lanes.values()), Counter())

    def submit(
        self,
        works: Iterable[Work],
        noise: Mapping[str, torch.Tensor] = MappingProxyType({}),
        states: Mapping[str, torch.Tensor] = MappingProxyType({}),
    ) -> None:
        """Queue units; ValueError for a height, width, levels or grid that the model cannot do.

        Of first nodes that are fused, (C, H, W): their `noise` where it is not drawn from the id, or their `states`.
        """
        for work in works:
            setting = work.setting
            shape = self.denoiser.adapter.latent_shape(setting.height, setting.width)
            self.denoiser.levels(setting.levels, setting.grid)
            if shape not in self._lanes:
                self._lanes[shape] = self.lane(shape)
            node = work.edges[0].node
            self._lanes[shape].submit(work, noise.get(node), states.get(node))

    def size(self, shape: tuple[int, int, int]) -> int:
        """Samples of the largest batch of a shape."""
        return self.sizes.get(shape, self.batch_size)

    def lane(self, shape: tuple[int, int, int], slots: int = 0) -> Lane:
        """An empty lane on the states of this engine, whose calls are filled up as all are here; with the usual `slots`, or so many."""
        size = self.size(shape)
        return Lane(self.denoiser, self.store, shape, slots or size, size if self.buckets else 0)

    def step(self) -> list[Walked]:
        """One network call (none when idle), and the units that have left, failed ones included."""
        for shape, lane in self._lanes.items():
            if len(lane):
                self._lanes[shape] = self._lanes.pop(shape)  # to the back of the turn
                return lane.step()
        return []

    def give_up(self, error: str) -> list[Walked]:
        """After a `step` that has raised: what has left, and the units of its call, which have failed for this reason."""
        return next(reversed(self._lanes.values())).give_up(error)

    def resume(
        self,
        units: Sequence[Again],
        noise: Mapping[str, torch.Tensor] = MappingProxyType({}),
        states: Mapping[str, torch.Tensor] = MappingProxyType({}),
    ) -> list[Walked]:
        """Queue units that another engine had begun, and take each as far as it had got there, by the calls that `sizes` lists;
        returns those that have left over it, as `step` does."""
        walked: list[Walked] = []
        for ahead in range(max((len(unit.sizes) for unit in units), default=0), -1, -1):
            joining = [unit for unit in units if len(unit.sizes) == ahead]
            self.submit([unit.work for unit in joining], noise, states)
            if ahead:
                size = next(unit.sizes[-ahead] for unit in units if len(unit.sizes) >= ahead)
                for lane in self._lanes.values():
                    walked += lane.step(min(size, ALIKE)) if len(lane) else []
        return walked

    def trim(self) -> None:
        """Free kept states that are over the limit and that no waiting unit starts from; who needs one later has it made again."""
        self.store.trim(lambda: {key for lane in self._lanes.values() for key in lane.parents})

    def drop(self, search: str) -> list[Walked]:
        """Forget the units and free the kept states of a search that has ended; returns what its running units have spent."""
        self.store.drop(search)
        return [walked for lane in self._lanes.values() for walked in lane.drop(search)]
