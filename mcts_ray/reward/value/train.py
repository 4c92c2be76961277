"""Training of a value head on recorded trajectories: Gaussian likelihood, ranking within prompts, and the reward's verdicts on words.

With z the standardised reward of the final image and (m, s^2) what the network predicts of it,

    NLL = s^(2 beta) [ (z - m)^2 / s^2 + ln s^2 ] / 2                 beta-NLL (arXiv 2203.09168), the factor without gradient
    RANK = mean over pairs of a group of |z_i - z_j| ln(1 + exp(-(m_i - m_j) sign(z_i - z_j) / tau))

beta = 1/2 keeps states that are hard to predict from being given up; ranking within a group, the states of one prompt at one level, is
what a search does with the scores, and a likelihood over all prompts is mostly about which prompts are hard.

A reward that tells what it thinks of single words (`mcts_ray.reward.base`) is learned from word by word, by which a network comes to know
what words mean many times sooner than from one number for all of them: with h_l the probability that it gives to what word l states and
p_l the place of it, v_l and q_l those of the network,

    WORDS = 3 (mean over stating words of BCE(sigmoid(v_l), h_l) + 2 mean over words of a place, weighted by h_l, of |q_l - p_l|^2)

A reward that reads pictures by words itself lends its way of looking before the first step (`mcts_ray.reward.value.reading`).

Shapes: B states of a batch, in groups; L words.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from mcts_ray.fitting.ahead import Ahead
from mcts_ray.fitting.early import EarlyStopping
from mcts_ray.fitting.loop import Progress, Recipe, check_same_run, fit
from mcts_ray.reward.lrm.collect import SCORES
from mcts_ray.reward.lrm.pairs import digest
from mcts_ray.reward.value.data import Batch, Group, Trajectories, joined
from mcts_ray.reward.value.head import Config, ValueHead
from mcts_ray.reward.value.measure import by_level, predict, summary
from mcts_ray.reward.resolve import resolve_reward
from mcts_ray.reward.value.network import Opinion, Shape, ValueNetwork
from mcts_ray.reward.value.reading import borrow
from mcts_ray.reward.value.renoised import Renoised

RECIPE = Recipe("value", steps=6000, batch=32, lr=1e-3, warmup=200, weight_decay=0.02, ema=0.998, checkpoint_every=500)  # batch: groups
PATIENCE = 5  # checkpoints without a better one after which training ends
WATCHED = 1024  # held-out groups that are looked at for it
RECORDED, RENEWED = 8, 18  # groups of a batch where there are images to make noisy: recorded ones, and of those images made noisy
LATER = 32  # steps after which those are learned from once more: a call of the generator is dearer than a step of the network
ALIKE = 1e-6  # of the rewards, up to which their spread is that of rounding
SAMPLE = 64  # groups from which the feature maps' units are taken
BETA = 0.5
TAU = 0.5  # of ranking, in standard deviations of the reward
RANK = 0.5  # weight of ranking
PLACE = 2.0  # of the places of words, beside the verdicts
WORDS = 3.0  # weight of both
READ = 4096  # prompts from which it is learned what words are to a reward that lends its way of reading


def run(
    model: str,
    data: Path,
    out: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    resume: bool = True,
    device: str = "auto",
    threads: int | None = None,
    report: Callable[[Progress], None] | None = None,
    images: Path | None = None,
    recipe: Recipe = RECIPE,
    width: int = 80,
    rank: float = RANK,
) -> Path:
    """Train a value head for `model` on the trajectories in `data` and write config.json, model.safetensors and metrics.json to `out`.

    images: scored images (`mcts_ray.reward.value.renoised`) from which most states of a batch are made anew, besides recorded ones.
    A tenth of the prompts is held out; the weights (moving averages) of the checkpoint that ranks best there are kept, and training
    ends when `PATIENCE` checkpoints in a row were not better. Raises ValueError with one sentence for data that cannot be used, or a
    folder that holds a run on other data.
    """
    from mcts_ray.diffusion.device import resolve_device

    if threads:
        torch.set_num_threads(threads)
    device = resolve_device(device)
    known = Trajectories(data)
    _check_model(known, model)
    kept, held = known.split()
    recipe = replace(recipe, seed=seed, steps=steps or recipe.steps)
    torch.manual_seed(seed)
    network = ValueNetwork(_shape(known, width)).to(device)
    center, scale = _units(known, network, kept, seed)
    watch = Watch(known, network, held, center, scale, out, resume)
    notes = {"images": str(images)} if images else {}
    shown = {"images": [str(images), digest((images / SCORES).read_bytes())]} if images and (images / SCORES).is_file() else notes
    check_same_run(out, recipe, {"data": known.key, "shape": asdict(network.shape), "rank": rank, **shown}, resume)
    all_threads = torch.get_num_threads()
    half = max(1, all_threads // 2)
    source = _source(images, known, held, out, device) if images else None
    recorded, again = (RECORDED, _renoised(source, seed, half)) if source else (recipe.batch, None)
    if not (out / f"{recipe.name}.pt").is_file():
        _begin(network, known, kept, source, device, seed)

    def loss_of_batch(rng: np.random.Generator, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        batch = known.batch([kept[index] for index in rng.choice(len(kept), recorded)], device)
        for turn, number in enumerate((step, step - LATER)) if again else ():
            if number >= 0:
                fresh = again(number)
                batch = joined(batch, replace(fresh, group=fresh.group + recorded + turn * RENEWED))
        return loss_of(network, batch, center, scale, rank)

    if again:
        torch.set_num_threads(half)
    try:
        if watch.over:  # an earlier run has ended early
            seconds = torch.load(out / f"{recipe.name}.pt", map_location="cpu", weights_only=True)["seconds"]
        else:
            _, seconds = fit(recipe, network, loss_of_batch, out, resume=resume, report=watch.telling(report), watch=watch)
    finally:
        torch.set_num_threads(all_threads)
    return _export(known, network, recipe, watch, out, {"seconds": round(seconds), "rank": rank, **notes})


def _source(images: Path, known: Trajectories, held: list[Group], out: Path, device: torch.device) -> Renoised:
    prompts = known.manifest["prompts"]
    return Renoised(images, known, {prompts[group.prompt] for group in held}, out, device)


def _renoised(source: Renoised, seed: int, threads: int) -> Ahead[Batch]:
    """States of images made noisy anew, by their number, made in the background with so many of torch's threads."""

    def make(number: int) -> Batch:
        rng = np.random.default_rng([seed, 31, number])
        return source.batch(rng, RENEWED, noise=torch.Generator().manual_seed(int(rng.integers(2**62))))

    return Ahead(make, kept=LATER, threads=threads)


def _begin(
    network: ValueNetwork, known: Trajectories, kept: list[Group], source: Renoised | None, device: torch.device, seed: int
) -> None:
    """What the reward can lend (`mcts_ray.reward.value.reading`), read off the prompts of trajectories and images. One that has told
    nothing of words does not read by them, and is not loaded for this."""
    if not known.tells:
        return
    prompts, embedding_PLD = known.texts(kept)
    if source:
        more, embeddings = source.texts(READ)
        prompts, embedding_PLD = prompts + more, torch.cat([embedding_PLD, embeddings])
    reward = source.reward if source else resolve_reward(known.manifest["reward"], str(device))
    borrow(network, reward, prompts, embedding_PLD.to(device), seed)


def loss_of(
    network: ValueNetwork, batch: Batch, center: float, scale: float, rank: float = RANK
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of a batch and its parts."""
    said = network(batch.taps, batch.x, batch.x0, batch.log_snr, batch.embeddings)
    true_B = (batch.reward - center) / scale
    parts = {"nll": likelihood(said.mean, said.log_variance, true_B)}
    if rank:
        parts["rank"] = rank * ranking(said.mean, true_B, batch.group)
    if batch.verdict is not None:
        parts["words"] = WORDS * words(said, batch.verdict)
    return sum(parts.values()), {name: part.item() for name, part in parts.items()}


def likelihood(mean_B: torch.Tensor, log_variance_B: torch.Tensor, true_B: torch.Tensor, beta: float = BETA) -> torch.Tensor:
    """beta-NLL, a mean over states."""
    nll_B = 0.5 * ((true_B - mean_B).square() / log_variance_B.exp() + log_variance_B)
    return (log_variance_B.detach().exp() ** beta * nll_B).mean()


def ranking(mean_B: torch.Tensor, true_B: torch.Tensor, group_B: torch.Tensor) -> torch.Tensor:
    """Logistic loss of the pairs within groups, each weighted by how far its truths are apart; 0 if no truths differ."""
    first, second = torch.triu_indices(len(mean_B), len(mean_B), 1, device=mean_B.device)
    same = group_B[first] == group_B[second]
    first, second = first[same], second[same]
    apart = true_B[first] - true_B[second]
    loss = F.softplus(-(mean_B[first] - mean_B[second]) * apart.sign() / TAU)
    return (apart.abs() * loss).sum() / apart.abs().sum().clamp(min=1e-6)


def words(said: Opinion, verdict_BLV: torch.Tensor) -> torch.Tensor:
    """What the network says of words against what the reward has told (B, L, 5)."""
    holds_BL, states_BL, *place, located_BL = verdict_BLV.unbind(2)
    entropy = F.binary_cross_entropy_with_logits(said.verdict, holds_BL, states_BL, reduction="sum") / states_BL.sum().clamp(min=1)
    weight_BL = located_BL * holds_BL
    miss_BL = (said.where - torch.stack(place, 2)).square().sum(2)
    return entropy + PLACE * (miss_BL * weight_BL).sum() / weight_BL.sum().clamp(min=1)


class Watch(EarlyStopping):
    """Best is the highest mean rank correlation within held-out groups; of a network that ranks nothing, the lowest NLL."""

    def __init__(
        self, data: Trajectories, network: ValueNetwork, held: list[Group], center: float, scale: float, out: Path, resume: bool
    ) -> None:
        super().__init__(network, out, resume, PATIENCE)
        self._data, self.held, self._units = data, held, (center, scale)
        self._watched = held[:: max(1, len(held) // WATCHED)]

    def _look(self, state: dict[str, torch.Tensor]) -> tuple[dict[str, float], tuple[float, ...]]:
        found = self.measure(state)
        told = {f"held_out_{name}": found[name] for name in ("spearman", "nll") if found[name] is not None}
        return told, (found["spearman"] or 0.0, -found["nll"])

    def measure(self, state: dict[str, torch.Tensor]) -> dict[str, float]:
        """`summary` of the watched groups with other weights."""
        with self._with(state):
            return summary(list(self.predictions(self._watched)))

    def predictions(self, groups: list[Group]):
        """What the network says of some groups."""
        device = next(self._network.parameters()).device
        return predict(self._network, self._data, groups, *self._units, device)


def _shape(data: Trajectories, width: int) -> Shape:
    manifest = data.manifest
    taps = {name: shape[0] for name, shape in manifest["taps"].items()}
    return Shape(taps, manifest["latent"], manifest["text"][1], manifest["grid"], width)


def _units(data: Trajectories, network: ValueNetwork, groups: list[Group], seed: int) -> tuple[float, float]:
    """Center and scale of the training rewards; the network is given those of its feature maps, channel by channel."""
    rewards = torch.cat([data.shards[group.shard]["reward"][group.start : group.stop] for group in groups])
    scale = rewards.std().item() if len(rewards) > 1 else 0.0
    if scale <= ALIKE * rewards.abs().max():
        raise ValueError(f"all trajectories in {data.folder} have the same reward, from which nothing can be learned")
    index = np.random.default_rng([seed, 1]).permutation(len(groups))[:SAMPLE]
    batch = data.batch([groups[i] for i in index])
    for name, map_BChw in batch.taps.items():
        module = network.maps[name.replace(".", "_")]
        module.center.copy_(map_BChw.mean((0, 2, 3)))
        module.spread.copy_(map_BChw.std((0, 2, 3)).clamp(min=1e-3))
    center = rewards.mean().item()
    if batch.verdict is not None:
        slope, offset = _share_of(batch.verdict, (batch.reward - center) / scale)
        nn.init.constant_(network.share.weight, slope)
        nn.init.constant_(network.share.bias, offset)
    return center, scale


def _share_of(verdict_BLV: torch.Tensor, true_B: torch.Tensor) -> tuple[float, float]:
    """The line (slope, offset) from the mean of a picture's verdicts to its reward; 0, 0 where the verdicts are all alike."""
    holds_BL, states_BL = verdict_BLV[..., 0], verdict_BLV[..., 1]
    share_B = (holds_BL * states_BL).sum(1) / states_BL.sum(1).clamp(min=1)
    if share_B.std() <= ALIKE:
        return 0.0, 0.0
    slope, offset = np.polyfit(share_B.double().cpu().numpy(), true_B.double().cpu().numpy(), 1)
    return float(slope), float(offset)


def _export(data: Trajectories, network: ValueNetwork, recipe: Recipe, watch: Watch, out: Path, notes: dict) -> Path:
    """Write the best weights, rounded as they will be read, and what they are worth on all held-out prompts."""
    step, state = watch.best
    network.load_state_dict({name: value.half().float() for name, value in state.items()})
    network.eval()
    manifest, (center, scale) = data.manifest, watch._units
    facts = {name: manifest[name] for name in ("levels", "at", "guidance", "seed", "trajectories")}
    facts |= {"prompts": len({group.prompt for group in data.groups}), "states": sum(map(len, data.groups)), "key": data.key}
    config = Config(manifest["model"], manifest["reward"], network.shape, center, scale, tuple(manifest["generator"]), facts)
    ValueHead(network, config).save(out)
    found = list(watch.predictions(watch.held))
    record = {"model": config.model, "reward": config.reward, "data": facts, "recipe": asdict(recipe), **notes}
    record |= {"best_step": step, "parameters": sum(value.numel() for value in network.parameters())}
    record |= {"torch": torch.__version__, "held_out": summary(found), "levels": by_level(found)}
    (out / "metrics.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return out


def _check_model(data: Trajectories, model: str) -> None:
    if data.manifest["model"] != model:
        raise ValueError(f"the trajectories in {data.folder} are those of {data.manifest['model']}, not of {model}")
