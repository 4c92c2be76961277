"""Walks through the engine with a recorder: what it sees on the way, and what the image reward says of the ends.

Walks are those of best-of-n. The recorder is a step scorer whose scores are tickets: the number of the row that it has noted, by which
rows and rewards find together.

Legend: B states, C x H x W latent, N images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from mcts_ray.config import SearchConfig
from mcts_ray.diffusion.adapters.make import make_adapter
from mcts_ray.diffusion.decode import Decoder
from mcts_ray.diffusion.denoiser import Denoiser
from mcts_ray.diffusion.device import batch_size
from mcts_ray.diffusion.engine import Engine
from mcts_ray.diffusion.jump import phi_from_eta
from mcts_ray.diffusion.load import load_pipeline
from mcts_ray.diffusion.resolve import Model
from mcts_ray.reward import resolve_reward
from mcts_ray.reward.step import States
from mcts_ray.reward.value.head import default_taps, fingerprint
from mcts_ray.reward.value.network import to_grid
from mcts_ray.search import BestOfN, Setting, Work

STATES = 10  # of each trajectory
RECORDER = ("recorder", "")  # as a step reward and model
HALF = 65504.0  # the largest fp16
# Of a walk that got a reward: whose it is, the reward, its notes as (level, ticket), and the verdicts (L, 5), if the reward tells some.
End = tuple["Walker", float, list[tuple[int, int]], np.ndarray | None]


def noted_levels(T: int, at: Sequence[int] | None, rng: np.random.Generator) -> tuple[int, ...]:
    """The levels whose states are noted, highest first: `at`, or one from each tenth of T..1."""
    if at is not None:
        return tuple(sorted(set(at), reverse=True))
    tenths = np.array_split(np.arange(T, 0, -1), min(STATES, T))
    return tuple(int(rng.choice(tenth)) for tenth in tenths)


def noted(
    x_BCHW: torch.Tensor, x0_BCHW: torch.Tensor, maps: Mapping[str, torch.Tensor], taps: Sequence[str], grid: int
) -> dict[str, torch.Tensor]:
    """What is noted of states, by its name in a shard: `x`, `x0` and the feature maps `taps`, at most grid x grid, in fp16."""
    values = {"x": x_BCHW, "x0": x0_BCHW} | {f"tap.{name}": maps[name] for name in taps}
    return {name: to_grid(value, grid).clamp(-HALF, HALF).half() for name, value in values.items()}


class Recorder:
    """A step scorer that notes the states it is shown, fp16 on the CPU, and gives each its row's number as its score."""

    forwards = 0

    def __init__(self, taps: Sequence[str], grid: int) -> None:
        self.taps, self.grid = tuple(taps), grid
        self._parts: list[dict[str, torch.Tensor]] = []
        self._count = 0

    def score(self, states: States) -> torch.Tensor:
        """Tickets (B,)."""
        part = noted(states.x, states.x0, states.taps, self.taps, self.grid)
        self._parts.append({name: value.cpu() for name, value in part.items()} | {"log_snr": states.log_snr.cpu()})
        self._count += len(states)
        assert self._count < 2**24, "more rows than fp32 can number"
        return torch.arange(self._count - len(states), self._count, dtype=torch.float32)

    def rows(self) -> dict[str, torch.Tensor]:
        """All rows noted so far, which are forgotten."""
        parts, self._parts, self._count = self._parts, [], 0
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Walker:
    """Whose walk a unit is: the number of its prompt in the shard and of its trajectory, and its eta."""

    prompt: int
    trajectory: int
    eta: float


class Collector:
    """A loaded generator with a recorder, and the reward that judges."""

    def __init__(self, model: Model, reward: str, config: SearchConfig, device: str, threads: int | None, taps, grid: int) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.config, self._refused = config, ""
        adapter = make_adapter(load_pipeline(model, device))
        self.denoiser, self.decoder = Denoiser(adapter), Decoder(adapter)
        self.reward = resolve_reward(reward, str(adapter.device))
        self.recorder = Recorder(taps or default_taps(adapter.unet), grid)
        self.denoiser.register(*RECORDER, self.recorder)
        self.denoiser.levels(config.levels)
        sample = _sample(self.denoiser, self.recorder, config)
        self.bytes_of_state = sum(value[0].numel() * value.element_size() for value in sample.values())
        maps = {name.removeprefix("tap."): list(value.shape[1:]) for name, value in sample.items() if name.startswith("tap.")}
        text = list(self.denoiser.prompts.get("").embedding.shape)
        self.facts = {"taps": maps, "latent": adapter.unet.config.in_channels, "text": text, "generator": list(fingerprint(adapter))}

    def shard(self, prompts: Sequence[str], first: int, trajectories: int, at: Sequence[int] | None) -> dict[str, torch.Tensor]:
        """The tensors of a shard: all trajectories of some prompts, numbered from `first`. ValueError if no image gets a reward."""
        ends = list(self._walk(prompts, first, trajectories, at))
        if not ends:
            raise ValueError(f"none of {len(prompts) * trajectories} images got a reward; the last one: {self._refused}")
        rows = self.recorder.rows()
        order = sorted(
            (w.prompt, -level, w.trajectory, ticket, w.eta, reward, end)
            for end, (w, reward, notes, _) in enumerate(ends)
            for level, ticket in notes
        )
        prompt, level, trajectory, ticket, eta, reward, end = zip(*order)
        index = torch.tensor(ticket)
        shard = {name: value[index].contiguous() for name, value in rows.items()}
        shard |= {"prompt": torch.tensor(prompt, dtype=torch.int32), "level": -torch.tensor(level, dtype=torch.int16)}
        shard |= {"trajectory": torch.tensor(trajectory, dtype=torch.int16), "eta": torch.tensor(eta), "reward": torch.tensor(reward)}
        if ends[0][3] is not None:
            shard["verdict"] = torch.from_numpy(np.stack([ends[index][3] for index in end]))
        return shard | {"embeddings": torch.stack([self.denoiser.prompts.get(text).embedding for text in prompts]).half().cpu()}

    def _walk(self, prompts, first, trajectories, at) -> Iterator[End]:
        """Each walk that got a reward."""
        engine = Engine(self.denoiser, self._batch_size)
        walkers = {}
        for place, text in enumerate(prompts):
            for walker, work in self._works(text, place, first + place, trajectories, at):
                walkers[work.search, work.id] = walker
                engine.submit([work])
        finished = []
        while not engine.idle:
            finished += engine.step()
            if len(finished) >= engine.batch_size or engine.idle:
                yield from self._judged(finished, walkers)
                finished = []

    def _judged(self, finished, walkers) -> Iterator[End]:
        whole = [unit for unit in finished if unit.latent is not None]
        self._refused = next((unit.error for unit in finished if unit.error), self._refused)
        if not whole:
            return
        images_NHWC = self.decoder.decode(torch.stack([unit.latent for unit in whole]))
        prompts = [unit.work.setting.prompt for unit in whole]
        answers = self.reward.score(images_NHWC, prompts)
        verdicts = self.reward.verdicts(images_NHWC, prompts, self.facts["text"][0])
        for unit, answer, verdict in zip(whole, answers, [None] * len(whole) if verdicts is None else verdicts, strict=True):
            if answer.score is None:
                self._refused = answer.error
                continue
            level = {edge.node: edge.level for edge in unit.work.edges}
            notes = [(level[node], int(ticket)) for node, ticket in unit.scores]
            yield walkers[unit.work.search, unit.work.id], answer.score, notes, verdict

    def _works(self, text: str, place: int, number: int, trajectories: int, at) -> Iterator[tuple[Walker, Work]]:
        """The walks of one prompt, the first half without noise; their seeds are the prompt's own."""
        c = self.config
        size = {"height": c.height, "width": c.width}
        setting = Setting(text, c.negative_prompt, c.guidance, c.levels, **size, step_reward=RECORDER[0], step_model=RECORDER[1])
        noted = noted_levels(c.levels, at, np.random.default_rng([c.seed, number]))
        half = trajectories // 2
        for eta, count in ((0.0, trajectories - half), (1.0, half)):
            phi = partial(phi_from_eta, self.denoiser.levels(c.levels), eta=eta)
            seed = 2 * (1_000_003 * (c.seed + 1) + number) + int(eta)
            search = BestOfN(f"{number}-{eta:.0f}", setting, count * c.levels or 1, seed=seed, phi=phi)
            for index, work in enumerate(search.ask(count)):
                scored = tuple(edge.node for edge in work.edges if edge.level in noted)
                yield Walker(place, int(eta) * (trajectories - half) + index, eta), replace(work, scored=scored)

    @property
    def _batch_size(self) -> int:
        """Samples per call: as many as searches on this model would have."""
        shape = self.denoiser.adapter.latent_shape(self.config.height, self.config.width)
        return batch_size(self.denoiser.device.type, shape)


def _sample(denoiser: Denoiser, recorder: Recorder, config: SearchConfig) -> dict[str, torch.Tensor]:
    """What is noted of one state, from a call at noise."""
    setting = Setting("", guidance=1.0, levels=config.levels, height=config.height, width=config.width)
    x_1CHW = torch.zeros(1, *denoiser.adapter.latent_shape(config.height, config.width), device=denoiser.device)
    prediction = denoiser.denoise(x_1CHW, [config.levels], [setting], recorder.taps)
    denoiser.score(recorder, x_1CHW, prediction, [config.levels], [setting], [0])
    return recorder.rows()
