"""A value head that begins with a reward's own way of reading.

Whether words fit a picture takes long to learn from scores, even from verdicts on every word: a reward that is a network whose words
look at patches has learned it from many more pictures. Such a reward lends the head the weights with which words look; what it takes
prompts for, the head learns from the generator's embeddings of them in seconds, no picture needed,

    READ = |word - word'|^2 / var word' + CE(relates) / 4 + CE(between where it relates) / 30 + CE(counts) / 30

and only how the generator's features are to be seen as patches is left to learn from states.

Legend: P prompts, L tokens of width D, W width of the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from mcts_ray.reward.base import Reading, Reward
from mcts_ray.reward.value.network import ValueNetwork

STEPS = 2000
BATCH = 128  # prompts
LR = 3e-3


def borrow(network: ValueNetwork, reward: Reward, prompts: Sequence[str], embedding_PLD: torch.Tensor, seed: int = 0) -> float | None:
    """Give `network` the way in which `reward` reads, if it has one and its width; the share of the variance of words that is missed.

    None, and nothing is done, where the reward lends nothing that fits.
    """
    reading = reward.reading(prompts)
    if reading is None or reading.word.shape[1:] != (embedding_PLD.shape[1], network.shape.width) or not _take(network, reading):
        return None
    return _learn_words(network, reading, embedding_PLD, seed)


def _take(network: ValueNetwork, reading: Reading) -> bool:
    """Load the parts, all or none."""
    found = {f"{part}.{name}": value for part, state in reading.parts.items() for name, value in state.items()}
    there = network.state_dict()
    if any(name not in there or there[name].shape != value.shape for name, value in found.items()):
        return False
    network.load_state_dict(found, strict=False)
    return True


def _learn_words(network: ValueNetwork, reading: Reading, embedding_PLD: torch.Tensor, seed: int) -> float:
    """Minimise READ over what depends on prompts alone."""
    device, generator = embedding_PLD.device, torch.Generator().manual_seed(seed)
    compare = network.compare
    read = (network.words, network.context, network.meaning, network.weight, compare.pick, compare.key, compare.relates)
    optimizer = torch.optim.AdamW([weight for part in read for weight in part.parameters()], LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    true = [part.to(device) for part in (reading.word, reading.counts, reading.relates, reading.between)]
    spread, missed = (true[0] - true[0].mean((0, 1))).square().mean(), torch.zeros(())
    for _ in range(STEPS):
        index = torch.randint(len(embedding_PLD), (BATCH,), generator=generator).to(device)
        word_BLW, counts_BL, relates_BL, between_B2L = (part[index] for part in true)
        said = network.read(embedding_PLD[index])
        missed = (said.word - word_BLW).square().mean() / spread
        related = relates_BL[:, None].expand_as(between_B2L) > 0
        loss = missed + F.binary_cross_entropy_with_logits(said.relates, relates_BL) / 4
        loss = loss + F.cross_entropy(said.counts, counts_BL / counts_BL.sum(1, keepdim=True).clamp(min=1)) / 30
        if related.any():
            loss = loss + F.cross_entropy(said.between[related], between_B2L[related]) / 30
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return missed.item()
