"""The slots of one latent shape: walks of different searches, levels and prompts that share every network call.

Shapes: n active slots of S, packed at the front in submission order; latents (C, H, W).
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import adaptive_avg_pool2d

from mcts_ray.diffusion.denoiser import Denoiser, Prediction
from mcts_ray.diffusion.jump import jump, second_order, second_order_weight
from mcts_ray.diffusion.levels import Levels
from mcts_ray.diffusion.noise import draw
from mcts_ray.diffusion.store import SIDE, Kept, Store
from mcts_ray.gain.choose import Gains
from mcts_ray.search.base import Cost, Edge, Work


@dataclass(frozen=True, eq=False)
class Walked:
    """A unit that has left its slot.

    latent: (C, H, W) fp32 if the walk ended at level 0, else None. forwards: network sample-forwards spent; seconds: its share of
    denoiser time, proportional to them; nfe: states evaluated; error: why the unit failed (None if it did not).
    The nodes in `work.scored`, in the order of the walk, have left their predicted x0 (C, H, W) in `x0s` where it is that which is
    scored, else their score in `scores`; both are empty if the unit failed. scored: states scored here, of a failed unit too.
    gains: what the IGE predicts at the kept nodes, where the setting has one; empty if the unit failed.
    """

    work: Work
    latent: torch.Tensor | None = None
    forwards: int = 0
    seconds: float = 0.0
    nfe: int = 0
    error: str | None = None
    x0s: tuple[torch.Tensor, ...] = ()
    scores: tuple[tuple[str, float | None], ...] = ()
    scored: int = 0
    gains: tuple[Gains, ...] = ()

    @property
    def cost(self) -> Cost:
        """What the walk has spent."""
        return Cost(self.nfe, self.forwards, reward_calls=self.scored, denoiser_seconds=self.seconds)

    @property
    def to_decode(self) -> tuple[torch.Tensor, ...]:
        """Everything that is to be decoded and rewarded: `x0s`, then the final latent if there is one."""
        return self.x0s if self.latent is None else (*self.x0s, self.latent)


@dataclass(eq=False)
class _Slot:
    """A walk under way, standing on the state of `work.edges[cursor]`, which is still to be evaluated.

    level: of the state that the next move starts from. previous: the level before it, if a deterministic edge led to it.
    """

    work: Work
    levels: Levels
    level: int
    previous: int | None = None
    cursor: int = -1
    forwards: int = 0
    seconds: float = 0.0
    nfe: int = 0
    x0s: tuple[torch.Tensor, ...] = ()
    scores: tuple[tuple[str, float | None], ...] = ()
    gains: tuple[Gains, ...] = ()

    @property
    def node(self) -> str:
        return self.work.edges[self.cursor].node

    @property
    def next_edge(self) -> Edge | None:
        edges = self.work.edges
        return edges[self.cursor + 1] if self.cursor + 1 < len(edges) else None

    def left(self, latent: torch.Tensor | None = None, error: str | None = None) -> Walked:
        x0s, scores, gains = ((), (), ()) if error else (self.x0s, self.scores, self.gains)
        return Walked(self.work, latent, self.forwards, self.seconds, self.nfe, error, x0s, scores, len(self.scores), gains)


class Lane:
    """Runs walks of one latent shape in S slots: finished ones leave, waiting ones join before every call. full: see `denoise`."""

    def __init__(self, denoiser: Denoiser, store: Store, shape: tuple[int, int, int], size: int, full: int = 0):
        self._denoiser = denoiser
        self._store = store
        self._shape = shape
        self._size, self._full = size, full
        self._waiting: deque[Work] = deque()
        self._slots: list[_Slot] = []
        self._given: dict[tuple[str, str], torch.Tensor] = {}  # noise (C, H, W), by search and node, that is not drawn
        self._made: dict[tuple[str, str], torch.Tensor] = {}  # states (C, H, W) that walks start from as they are
        self._entered: list[Walked] = []  # units that left the last step as they came, without a call
        self.spent: Counter[str] = Counter()  # states evaluated so far, by search
        self._x_SCHW = torch.zeros(size, *shape, device=denoiser.device)
        self._m1_SCHW = torch.zeros(size, *shape, device=denoiser.device)  # x0 before the last move, where `previous` is set

    def __len__(self) -> int:
        return len(self._waiting) + len(self._slots)

    @property
    def parents(self) -> set[tuple[str, str]]:
        """The states, by search and node, that waiting units start from."""
        return {(work.search, work.parent) for work in self._waiting if work.parent is not None}

    def submit(self, work: Work, noise: torch.Tensor | None = None, state: torch.Tensor | None = None) -> None:
        """Queue one unit; `noise` (C, H, W) stands in for what its first node would draw, `state` for the first move."""
        self._waiting.append(work)
        for made, tensor in ((self._given, noise), (self._made, state)):
            if tensor is not None:
                made[_first(work)] = tensor

    def drop(self, search: str) -> list[Walked]:
        """Forget the waiting and running units of a search; returns the running ones as far as they got."""
        dropped = [slot.left(error="dropped") for slot in self._slots if slot.work.search == search]
        self._given = {key: noise for key, noise in self._given.items() if key[0] != search}
        self._made = {key: state for key, state in self._made.items() if key[0] != search}
        self.spent[""] += self.spent.pop(search, 0)  # by name it is not asked for any more
        self._waiting = deque(work for work in self._waiting if work.search != search)
        rows = [i for i, slot in enumerate(self._slots) if slot.work.search != search]
        self._pack(self._slots, rows, self._x_SCHW[: len(self._slots)], self._m1_SCHW[: len(self._slots)])
        return dropped

    @torch.no_grad()
    def step(self, size: int = 0) -> list[Walked]:
        """Fill the slots, evaluate all of them in one call of at least `size` samples, move each along its next edge."""
        walked = self._entered = self._admit()
        return walked + self._advance(*self._evaluate(size)) if self._slots else walked

    def give_up(self, error: str) -> list[Walked]:
        """After a `step` that has raised: the units that had left when it did, and those of its call, which have failed."""
        slots, self._slots = self._slots, []
        for slot in slots:
            called = slot.cursor + 1
            self.spent[slot.work.search] += called - slot.nfe
            slot.nfe = called
        return self._entered + [slot.left(error=error) for slot in slots]

    # admit ---------------------------------------------------------------------------------------------------------

    def _admit(self) -> list[Walked]:
        walked = []
        while self._waiting and len(self._slots) < self._size:
            room = self._size - len(self._slots)
            entering = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
            faults = [self._fault(work) for work in entering]
            walked += [Walked(work, error=fault) for work, fault in zip(entering, faults, strict=True) if fault]
            valid = [work for work, fault in zip(entering, faults, strict=True) if not fault]
            drawn = [work for work in valid if _first(work) not in self._made]
            self._enter_states([work for work in valid if _first(work) in self._made])
            self._enter_seeds([work for work in drawn if work.parent is None])
            walked += self._enter_children([work for work in drawn if work.parent is not None])
        return walked

    def _fault(self, work: Work) -> str | None:
        """Why a unit cannot start, or None."""
        levels = [edge.level for edge in work.edges]
        if _first(work) in self._made:
            pass  # it starts where it is, whoever its parent is
        elif work.parent is None:
            if levels[0] != work.setting.levels:
                return f"a seed starts at level {work.setting.levels}, not {levels[0]}"
        else:
            kept = self._store.get(work.search, work.parent)
            if kept is None:
                return f"the state of parent {work.parent} is not kept here"
            if levels[0] <= kept.level or work.edges[0].phi == 0:  # otherwise a kept state is re-noised, which leads up
                levels.insert(0, kept.level)
        if any(s >= a for a, s in zip(levels, levels[1:], strict=False)) or levels[-1] < 0:
            return f"levels must descend to 0 at the lowest, not {levels}"
        return None

    def _enter_states(self, works: Sequence[Work]) -> None:
        """States made elsewhere, to be evaluated as they are."""
        for work in works:
            self._x_SCHW[len(self._slots)] = self._made.pop(_first(work)).to(self._x_SCHW.device)
            self._slots.append(self._slot(work, work.edges[0].level, cursor=0))

    def _enter_seeds(self, works: Sequence[Work]) -> None:
        """x_T = s_T z."""
        if not works:
            return
        slots = [self._slot(work, work.setting.levels, cursor=0) for work in works]
        scale_B = torch.tensor([slot.levels.start_scale for slot in slots])
        z_BCHW = self._draw([(work.search, work.edges[0].node) for work in works])
        start = len(self._slots)
        self._x_SCHW[start : start + len(works)] = (scale_B[:, None, None, None] * z_BCHW).to(self._x_SCHW.device)
        self._slots += slots

    def _enter_children(self, works: Sequence[Work]) -> list[Walked]:
        """The jump from the parent's stored (x0, eps)."""
        if not works:
            return []
        parents = [self._store.get(work.search, work.parent) for work in works]
        slots = [self._slot(work, kept.level, kept.previous) for work, kept in zip(works, parents, strict=True)]
        x0_BCHW = torch.stack([kept.x0 for kept in parents])
        eps_BCHW = torch.stack([kept.eps for kept in parents])
        m1_BCHW = torch.stack([kept.x0 if kept.m1 is None else kept.m1 for kept in parents])
        return self._move(slots, x0_BCHW, eps_BCHW, m1_BCHW)

    def _slot(self, work: Work, level: int, previous: int | None = None, cursor: int = -1) -> _Slot:
        return _Slot(work, self._denoiser.levels(work.setting.levels, work.setting.grid), level, previous, cursor)

    # evaluate ------------------------------------------------------------------------------------------------------

    def _evaluate(self, size: int = 0) -> tuple[Prediction, list[bool]]:
        """One call for all slots, filled up to `size` with copies of the first; books its time to them, scores what is to be scored,
        and says which predictions are finite."""
        n = len(self._slots)
        filled = [*range(n), *[0] * (size - n)]
        x_BCHW = self._x_SCHW[:n] if len(filled) == n else self._x_SCHW[filled]
        wanted, asked = self._wanted(), self._asked()
        taps = [name for key in wanted for name in self._denoiser.scorer(*key).taps]
        taps += [name for source in asked for name in self._denoiser.evaluator(source).taps]
        taps += [slot.work.setting.tap for slot in self._slots if slot.work.setting.tap]
        start = time.perf_counter()
        levels, settings = [self._slots[i].level for i in filled], [self._slots[i].work.setting for i in filled]
        prediction = self._denoiser.denoise(x_BCHW, levels, settings, tuple(dict.fromkeys(taps)), False, self._full)
        if len(filled) > n:
            prediction = prediction.first(n)
        finite_B = (torch.isfinite(prediction.x0) & torch.isfinite(prediction.eps)).flatten(1).all(1).tolist()
        seconds = time.perf_counter() - start
        self.spent.update(slot.work.search for slot in self._slots)
        for slot in self._slots:
            forwards = self._denoiser.forwards(slot.work.setting)
            slot.nfe += 1
            slot.forwards += forwards
            slot.seconds += seconds * forwards / prediction.forwards
        for key, rows in wanted.items():
            self._score(key, [row for row in rows if finite_B[row]], prediction)
        for source, rows in asked.items():
            self._evaluate_gains(source, [row for row in rows if finite_B[row]], prediction)
        return prediction, finite_B

    def _wanted(self) -> dict[tuple[str, str], list[int]]:
        """The rows of slots whose state is to be scored beside this call, by what scores them."""
        wanted: dict[tuple[str, str], list[int]] = {}
        for row, slot in enumerate(self._slots):
            setting = slot.work.setting
            if slot.node in slot.work.scored and not setting.score_decodes:
                wanted.setdefault((setting.step_reward, setting.step_model), []).append(row)
        return wanted

    def _asked(self) -> dict[str, list[int]]:
        """The rows of slots whose state is kept and whose jumps are to be predicted, by the IGE that does."""
        asked: dict[str, list[int]] = {}
        for row, slot in enumerate(self._slots):
            if slot.work.setting.ige_model and slot.node in slot.work.keep:
                asked.setdefault(slot.work.setting.ige_model, []).append(row)
        return asked

    def _evaluate_gains(self, source: str, rows: Sequence[int], prediction: Prediction) -> None:
        """What the jumps from the states in `rows` gain, in one batch; booked as time, since no network trunk is run."""
        if not rows:
            return
        start = time.perf_counter()
        levels, settings = [slot.level for slot in self._slots], [slot.work.setting for slot in self._slots]
        nodes = [self._slots[row].node for row in rows]
        gains = self._denoiser.gains(source, nodes, self._x_SCHW[: len(self._slots)], prediction, levels, settings, rows)
        seconds = (time.perf_counter() - start) / len(rows)
        for row, found in zip(rows, gains, strict=True):
            self._slots[row].gains += (found,)
            self._slots[row].seconds += seconds

    def _score(self, key: tuple[str, str], rows: Sequence[int], prediction: Prediction) -> None:
        """Step scores of the slots in `rows`, in one batch, and their cost."""
        if not rows:
            return
        start = time.perf_counter()
        scorer = self._denoiser.scorer(*key)
        levels, settings = [slot.level for slot in self._slots], [slot.work.setting for slot in self._slots]
        scores = self._denoiser.score(scorer, self._x_SCHW[: len(self._slots)], prediction, levels, settings, rows)
        seconds = (time.perf_counter() - start) / len(rows)
        for row, score in zip(rows, scores, strict=True):
            slot = self._slots[row]
            slot.scores += ((slot.node, score),)
            slot.forwards += scorer.forwards
            slot.seconds += seconds

    # advance -------------------------------------------------------------------------------------------------------

    def _advance(self, prediction: Prediction, finite_B: list[bool]) -> list[Walked]:
        """Keep what is to be kept, let ended walks go, move the others."""
        slots, self._slots = self._slots, []
        walked, rows = [], []
        for row, slot in enumerate(slots):
            if not finite_B[row]:
                walked.append(slot.left(error=f"the denoiser gave a non-finite prediction at level {slot.level}"))
                continue
            self._keep(slot, prediction, row)
            if slot.next_edge is None:
                walked.append(slot.left())
            else:
                rows.append(row)
        x0, eps, m1 = prediction.x0, prediction.eps, self._m1_SCHW[: len(slots)]
        if len(rows) < len(slots):
            x0, eps, m1 = x0[rows], eps[rows], m1[rows]
        return walked + (self._move([slots[row] for row in rows], x0, eps, m1) if rows else [])

    def _keep(self, slot: _Slot, prediction: Prediction, row: int) -> None:
        work, node = slot.work, slot.node
        if node in work.scored and work.setting.score_decodes:
            slot.x0s += (prediction.x0[row].clone(),)
        if node not in work.keep:
            return
        second = work.setting.order == 2 and slot.previous is not None
        m1, previous = (self._m1_SCHW[row].clone(), slot.previous) if second else (None, None)
        _, alpha, sigma = slot.levels.rows[slot.level]
        features = _small(prediction.taps[work.setting.tap][row]) if work.setting.tap else None
        x0, eps = prediction.x0[row].clone(), prediction.eps[row].clone()
        self._store.put(work.search, node, Kept(slot.level, x0, eps, alpha, sigma, m1, previous, features))

    def _move(self, slots: list[_Slot], x0_BCHW, eps_BCHW, m1_BCHW) -> list[Walked]:
        """Each slot along its next edge; those at level 0 leave with their latent, the others join the packed slots."""
        edges = [slot.next_edge for slot in slots]
        rows_B = [slot.levels.rows[edge.level] for slot, edge in zip(slots, edges, strict=True)]
        weights = [_weight(slot, edge) for slot, edge in zip(slots, edges, strict=True)]
        numbers = [(alpha, sigma, edge.phi, w) for (_, alpha, sigma), edge, w in zip(rows_B, edges, weights, strict=True)]
        alpha_B, sigma_B, phi_B, weight_B = torch.tensor(numbers, dtype=torch.float32).to(x0_BCHW.device).unbind(1)
        x_BCHW = jump(x0_BCHW, eps_BCHW, alpha_B, sigma_B, phi_B, self._noise(slots, edges))
        if any(weights):
            x_BCHW = second_order(x_BCHW, x0_BCHW, m1_BCHW, weight_B)
        walked, rows = [], []
        for row, (slot, edge) in enumerate(zip(slots, edges, strict=True)):
            slot.cursor += 1
            slot.previous, slot.level = (slot.level if edge.phi == 0 else None), edge.level
            if edge.level == 0:
                walked.append(slot.left(latent=x_BCHW[row].clone()))
            else:
                rows.append(row)
        self._pack(slots, rows, x_BCHW, x0_BCHW, keep=self._slots)
        return walked

    def _noise(self, slots: Sequence[_Slot], edges: Sequence[Edge]) -> torch.Tensor | None:
        """Noise for the edges that use it, zero elsewhere."""
        rows = [row for row, edge in enumerate(edges) if edge.phi > 0]
        if not rows:
            return None
        z_BCHW = torch.zeros(len(edges), *self._shape)
        z_BCHW[rows] = self._draw([(slots[row].work.search, edges[row].node) for row in rows])
        return z_BCHW.to(self._x_SCHW.device)

    def _draw(self, nodes: Sequence[tuple[str, str]]) -> torch.Tensor:
        """The noise of nodes (B, C, H, W) fp32 on the CPU: drawn from their ids, or as it was given."""
        z_BCHW = draw([node for _, node in nodes], self._shape)
        for row, key in enumerate(nodes):
            if key in self._given:
                z_BCHW[row] = self._given.pop(key)
        return z_BCHW

    def _pack(self, slots: Sequence[_Slot], rows: Sequence[int], x_BCHW, m1_BCHW, keep: Sequence[_Slot] = ()) -> None:
        """Put the given rows behind the slots in `keep`."""
        start, stop = len(keep), len(keep) + len(rows)
        whole = len(rows) == len(x_BCHW)
        self._x_SCHW[start:stop] = x_BCHW if whole else x_BCHW[rows]
        self._m1_SCHW[start:stop] = m1_BCHW if whole else m1_BCHW[rows]
        self._slots = [*keep, *(slots[row] for row in rows)]


def _first(work: Work) -> tuple[str, str]:
    """Search and first node of a unit."""
    return work.search, work.edges[0].node


def _small(feature_Chw: torch.Tensor) -> torch.Tensor:
    """A map of features as it is kept: averaged to at most `SIDE` x `SIDE`."""
    size = [min(SIDE, side) for side in feature_Chw.shape[-2:]]
    return adaptive_avg_pool2d(feature_Chw, size).clone()


def _weight(slot: _Slot, edge: Edge) -> float:
    """Second-order weight of a move; 0 for first order, without history (a seed, an edge with phi > 0), or with noise."""
    if slot.work.setting.order != 2 or slot.previous is None or edge.phi > 0:
        return 0.0
    return second_order_weight(slot.levels, slot.previous, slot.level, edge.level)
