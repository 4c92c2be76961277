"""Transitions made on the engine: trajectories, and from states on them every jump, several times, each completed.

The recorder is a step scorer whose scores are tickets, the numbers of the rows that it has noted. The first noise of a jump is none (phi = 0);
the others are drawn from the state and their number alone, so that all jumps from a state meet the same noises.

Legend: n states, F features, K jumps, J noises, C x H x W latent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from mcts_ray.auto import TREE
from mcts_ray.config import SearchConfig
from mcts_ray.diffusion.adapters.make import make_adapter
from mcts_ray.diffusion.decode import Decoder
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.engine import Engine, Walked
from mcts_ray.diffusion.jump import phi_from_eta
from mcts_ray.diffusion.load import load_pipeline
from mcts_ray.diffusion.noise import draw
from mcts_ray.diffusion.resolve import Model
from mcts_ray.gain.folder import finite
from mcts_ray.gain.reader import Pooled, Trunk, fingerprint
from mcts_ray.reward import resolve_reward
from mcts_ray.reward.step import States, StepScorer
from mcts_ray.search import BestOfN, Edge, Setting, Work
from mcts_ray.search.branching import scheduled
from mcts_ray.search.ids import child_id, jump_id

RECORDER = ("recorder", "")  # as a step reward and model


@dataclass(frozen=True)
class Scale:
    """How much is recorded: trajectories of each prompt, the first half without noise; states of each, at levels `at` or one from each
    part of the levels; jumps; noises of each, the first one none; stride of completions; phi at full angle and its schedule, those of the
    tree that is best on scenes (`mcts_ray.auto`)."""

    trajectories: int = 2
    states: int = 4
    at: tuple[int, ...] | None = None
    jumps: tuple[int, ...] = (1, 2, 4, 8)
    noises: int = 3
    stride: int = 2
    phi: float = TREE["phi"]
    schedule: str = TREE["phi_schedule"]


@dataclass(eq=False)
class _State:
    """A state under way: `parent` of all its jumps. x0s: predicted on the fine path, by level; ends: what its units have left."""

    prompt: int
    trajectory: int
    node: str
    level: int
    text: str
    ticket: int
    fine: dict[int, torch.Tensor] = field(default_factory=dict)
    jumped: dict[int, torch.Tensor] = field(default_factory=dict)
    landed: dict[int, int] = field(default_factory=dict)
    end: float = float("nan")
    rewards: dict[tuple[int, int], float] = field(default_factory=dict)

    @property
    def key(self) -> int:
        """64 bits that no two states share."""
        digest = hashlib.blake2b(f"{self.text}\x1f{self.node}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little", signed=True)


class Recorder:
    """Notes the states it is shown, and gives each its row's number. reads: whether features are noted too."""

    forwards = 0

    def __init__(self, reader, scorer: StepScorer | None) -> None:
        self._reader, self._scorer = reader, scorer
        self.taps = tuple(dict.fromkeys([*reader.taps, *(scorer.taps if scorer else ())]))
        self.reads = True
        self.clear()

    def score(self, states: States) -> torch.Tensor:
        """Tickets (B,)."""
        first = len(self.x0s)
        self.x0s += states.x0.float().cpu().unbind(0)
        self.features += self._reader.read(states).half().cpu().unbind(0) if self.reads else [None] * len(states)
        self.scores += self._scorer.score(states).tolist() if self._scorer else [float("nan")] * len(states)
        assert len(self.x0s) < 2**24, "more rows than fp32 can number"
        return torch.arange(first, len(self.x0s), dtype=torch.float32)

    def clear(self) -> None:
        """Forget all rows."""
        self.x0s: list[torch.Tensor] = []
        self.features: list[torch.Tensor | None] = []
        self.scores: list[float] = []


class Collector:
    """A loaded generator with a recorder, and the reward that judges; `scorer`: what scores states, None: the reward of x0."""

    def __init__(
        self, model: Model, reward: str, config: SearchConfig, scale: Scale, device: str, threads: int | None,
        step_reward: str = "x0", step_model: str | None = None, trunk: str | None = None,
    ) -> None:  # fmt: skip
        if threads:
            torch.set_num_threads(threads)
        self.config, self.scale = config, scale
        adapter = make_adapter(load_pipeline(model, device))
        self.denoiser, self.decoder = Denoiser(adapter), Decoder(adapter)
        self.reward = resolve_reward(reward, str(adapter.device))
        reader = Trunk(adapter, trunk) if trunk else Pooled(adapter)
        self.recorder = Recorder(reader, None if step_reward == "x0" else self.denoiser.scorer(step_reward, step_model))
        self.denoiser.register(*RECORDER, self.recorder)
        self.levels = self.denoiser.levels(config.levels, config.grid)
        self.nfe = 0
        self.facts = {"reader": dict(reader.facts), "features": reader.features, "log_snr": finite(self.levels.log_snr_L.tolist())}
        self.facts |= {"generator": list(fingerprint(adapter.unet))}

    def shard(self, texts: Sequence[str], first: int) -> dict[str, np.ndarray]:
        """The tensors of a shard: all transitions of some prompts, numbered from `first`."""
        self.recorder.clear()
        engine = Engine(self.denoiser, self._batch_size)
        states = self._walk(engine, texts, first)
        self.recorder.reads = False
        by_unit: dict[tuple[str, str], tuple[_State, int, int]] = {}
        for number, state in enumerate(states):
            for k, j, work, noise in self._units(state, number):
                by_unit[work.search, work.id] = state, k, j
                engine.submit([work], noise)
        for unit, reward in self._ended(engine):
            self._note(unit, reward, *by_unit[unit.work.search, unit.work.id])
        self.recorder.reads = True
        self.nfe = engine.nfe
        return self._table([state for state in states if 0 in state.fine])

    def features(self, texts: Sequence[str], first: int) -> dict[int, np.ndarray]:
        """By their keys, what is read of the states of a shard, (F,) fp16, without their jumps, which cost ten times as much."""
        self.recorder.clear()
        states = self._walk(Engine(self.denoiser, self._batch_size), texts, first)
        return {state.key: self.recorder.features[state.ticket].numpy() for state in states}

    # the walks -----------------------------------------------------------------------------------------------------

    def _walk(self, engine: Engine, texts: Sequence[str], first: int) -> list[_State]:
        """Walk the trajectories as far as their last noted state; the states stay in the engine."""
        walkers = {}
        for place, text in enumerate(texts):
            for trajectory, work in self._trajectories(text, first + place):
                walkers[work.search, work.id] = first + place, trajectory
                engine.submit([work])
        states = []
        while not engine.idle:
            for unit in engine.step():
                level = {edge.node: edge.level for edge in unit.work.edges}
                whose = walkers[unit.work.search, unit.work.id]
                text = unit.work.setting.prompt
                states += [_State(*whose, node, level[node], text, int(ticket)) for node, ticket in unit.scores]
        return sorted(states, key=lambda state: (state.prompt, state.trajectory, -state.level))

    def _trajectories(self, text: str, number: int) -> Iterator[tuple[int, Work]]:
        """The walks of one prompt, the first half without noise; their seeds are the prompt's own."""
        c, quiet = self.config, -(-self.scale.trajectories // 2)
        setting = self._setting(text)
        for trajectory in range(self.scale.trajectories):
            phi = partial(phi_from_eta, self.levels, eta=0.0 if trajectory < quiet else 1.0)
            search = BestOfN(str(number), setting, c.levels, seed=1_000_003 * c.seed + number, phi=phi)
            noted = noted_levels(c.levels, self.scale, np.random.default_rng([c.seed, number, trajectory]))
            edges = tuple(edge for edge in search.trajectory(trajectory) if edge.level >= min(noted))
            nodes = tuple(edge.node for edge in edges if edge.level in noted)
            yield trajectory, Work(f"t{trajectory}", str(number), setting, None, "seed", edges, nodes, scored=nodes)

    def _units(self, state: _State, number: int) -> Iterator[tuple[int, int, Work, dict[str, torch.Tensor]]]:
        """From one state: the fine path (k = 0), and for each jump and noise (k, j) a child and its completion."""
        a, setting, search = state.level, self._setting(state.text), str(state.prompt)
        ends = {a - k for k in self.scale.jumps}
        fine = _edges(Edge(jump_id(state.node, 1), a - 1), 1)
        scored = tuple(edge.node for edge in fine if edge.level in ends and edge.level)
        yield 0, 0, Work(f"{number}/fine", search, setting, state.node, "jump", fine, scored=scored), {}
        angle = scheduled(a, self.config.levels, self.scale.phi, self.scale.schedule)
        shape = self.denoiser.adapter.latent_shape(setting.height, setting.width)
        for k in (k for k in self.scale.jumps if k <= a):
            for j in range(self.scale.noises if angle > 0 and k < a else 1):
                edges = _edges(Edge(jump_id(state.node, k, j + 1), a - k, angle if j else 0.0), self.scale.stride)
                first = edges[0]
                noise = {first.node: draw([child_id(state.node, "noise", j)], shape)[0]} if j else {}
                scored = (first.node,) if first.level and not j else ()
                yield k, j, Work(f"{number}/{k}.{j}", search, setting, state.node, "jump", edges, scored=scored), noise

    def _ended(self, engine: Engine) -> Iterator[tuple[Walked, float]]:
        """Each unit that comes to its end, with its image's reward, or NaN."""
        finished: list[Walked] = []
        while not engine.idle:
            finished += [unit for unit in engine.step() if unit.latent is not None]
            if len(finished) >= engine.batch_size or engine.idle:
                rewards = self._rewards([unit.latent for unit in finished], [unit.work.setting.prompt for unit in finished])
                yield from zip(finished, rewards, strict=True)
                finished = []

    def _note(self, unit: Walked, reward: float, state: _State, k: int, j: int) -> None:
        level = {edge.node: edge.level for edge in unit.work.edges}
        noted = {level[node]: int(ticket) for node, ticket in unit.scores}
        x0s = {at: self.recorder.x0s[ticket] for at, ticket in noted.items()}
        if k == 0:
            state.fine, state.end = x0s | {0: unit.latent.float().cpu()}, reward
            return
        state.rewards[k, j] = reward
        if j == 0:
            end = state.level - k
            state.jumped[k] = x0s[end] if end else unit.latent.float().cpu()
            if end:
                state.landed[k] = noted[end]

    # the table -----------------------------------------------------------------------------------------------------

    def _table(self, states: Sequence[_State]) -> dict[str, np.ndarray]:
        scores = self._scores(states)
        rows = [self._row(state, scores) for state in states]
        names = rows[0] if rows else ()
        return {name: np.stack([row[name] for row in rows]) for name in names}

    def _row(self, state: _State, scores: dict[int, float]) -> dict[str, np.ndarray]:
        jumps, a = self.scale.jumps, state.level
        x0, end = self.recorder.x0s[state.ticket], state.fine[0]
        jumped = [state.jumped.get(k) for k in jumps]
        rewards = [[state.rewards.get((k, j), np.nan) for j in range(self.scale.noises)] for k in jumps]
        calls = [-(-(a - k) // self.scale.stride) if k <= a else -1 for k in jumps]
        return {
            "features": self.recorder.features[state.ticket].numpy(), "key": np.int64(state.key),
            "level": np.int64(a), "prompt": np.int64(state.prompt), "trajectory": np.int64(state.trajectory),
            "score": np.float32(scores[state.ticket]), "similarity": np.float32(cosine(x0, end)), "end": np.float32(state.end),
            "landed": np.array([scores.get(state.landed.get(k, -1), np.nan) for k in jumps], np.float32),
            "similar": np.array([np.nan if one is None else cosine(one, end) for one in jumped], np.float32),
            "error": np.array(
                [np.nan if one is None else max(0.0, 1 - cosine(one, state.fine[a - k])) for k, one in zip(jumps, jumped)], np.float32
            ),
            "reward": np.array(rewards, np.float32), "calls": np.array(calls, np.int64),
        }  # fmt: skip

    def _scores(self, states: Sequence[_State]) -> dict[int, float]:
        """Raw step scores by ticket; without a scorer the rewards of predicted images."""
        texts = {state.ticket: state.text for state in states}
        texts |= {ticket: state.text for state in states for ticket in state.landed.values()}
        if self.recorder._scorer:
            return {ticket: self.recorder.scores[ticket] for ticket in texts}
        found: list[float] = []
        tickets = list(texts)
        for at in range(0, len(tickets), self._batch_size):
            part = tickets[at : at + self._batch_size]
            found += self._rewards([self.recorder.x0s[ticket] for ticket in part], [texts[ticket] for ticket in part])
        return dict(zip(tickets, found, strict=True))

    def _rewards(self, latents: Sequence[torch.Tensor], texts: Sequence[str]) -> list[float]:
        if not latents:
            return []
        images_NHWC = self.decoder.decode(torch.stack([latent.to(self.denoiser.device) for latent in latents]))
        return [np.nan if one.score is None else one.score for one in self.reward.score(images_NHWC, list(texts))]

    def _setting(self, text: str) -> Setting:
        c = self.config
        size = {"height": c.height, "width": c.width}
        return Setting(text, c.negative_prompt, c.guidance, c.levels, c.grid, **size, step_reward=RECORDER[0], step_model=RECORDER[1])

    @property
    def _batch_size(self) -> int:
        shape = self.denoiser.adapter.latent_shape(self.config.height, self.config.width)
        cells = shape[1] * shape[2]
        return max(1, min(64, 2**14 // cells) if self.denoiser.device.type == "cpu" else min(256, 2**18 // cells))


def noted_levels(T: int, scale: Scale, rng: np.random.Generator) -> tuple[int, ...]:
    """The levels whose states are recorded, highest first: `scale.at`, or one from each part of T ... 2 (from level 1 there is one jump)."""
    if scale.at is not None:
        return tuple(sorted(set(scale.at), reverse=True))
    parts = np.array_split(np.arange(T, 1, -1), min(scale.states, T - 1))
    return tuple(int(rng.choice(part)) for part in parts)


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of two latents, as vectors."""
    one, other = one.double().flatten(), other.double().flatten()
    return float(one @ other / (one.norm() * other.norm()))


def _edges(first: Edge, stride: int) -> tuple[Edge, ...]:
    """`first`, and from it noise-free jumps of `stride` levels down to 0."""
    edges = [first]
    while edges[-1].level:
        k = min(stride, edges[-1].level)
        edges.append(Edge(jump_id(edges[-1].node, k), edges[-1].level - k))
    return tuple(edges)
