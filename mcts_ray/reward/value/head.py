"""A trained value head in a folder (`config.json`, `model.safetensors` in fp16), and the same as a step score of searches.

Legend: B states.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mcts_ray.diffusion.taps import unet_channels
from mcts_ray.reward.step import States
from mcts_ray.reward.value.network import Shape, ValueNetwork

MANY_BLOCKS = 2  # a U-Net with more up blocks than this is a large one
PRINT = 64  # weights that stand for a generator
ALIKE = 0.1  # relative distance of those up to which another generator is a finer tuning of the same


@dataclass(frozen=True)
class Config:
    """What a value head is and what it has learned from, as in `config.json`.

    center, scale: of the reward in the training data; the network predicts (reward - center) / scale. generator: a few weights of
    the U-Net whose features it reads (`fingerprint`). data: what the trajectories were.
    """

    model: str
    reward: str
    shape: Shape
    center: float
    scale: float
    generator: tuple[float, ...]
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Config:
        """ValueError for a folder that holds no value head."""
        try:
            found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if found.pop("kind") != "value":
                raise ValueError("it is another kind of step model")
            return cls(**found | {"shape": Shape(**found["shape"]), "generator": tuple(found["generator"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"step_model {folder} holds no value head that can be read: config.json: {reason}") from None

    def write(self, folder: Path) -> None:
        """As `read` wants it."""
        (folder / "config.json").write_text(json.dumps({"kind": "value", **asdict(self)}, indent=2) + "\n", encoding="utf-8")

    def check(self, adapter) -> None:
        """ValueError unless it fits the generator behind an adapter."""
        there, config = unet_channels(adapter.unet), adapter.unet.config
        name = f"the value head was trained on {self.model} and does not fit this model"
        for tap, channels in self.shape.taps.items():
            if there.get(tap) != channels:
                raise ValueError(f"{name}: it reads {channels} channels of {tap}, where this U-Net has {there.get(tap, 'none')}")
        if (config.in_channels, config.cross_attention_dim) != (self.shape.latent, self.shape.text):
            have = f"{config.in_channels} latent channels and a prompt embedding of {config.cross_attention_dim}"
            reads = f"{self.shape.latent} latent channels and a prompt embedding of {self.shape.text}"
            raise ValueError(f"{name}: it reads {reads}, not {have}")
        if _distance(fingerprint(adapter), self.generator) > ALIKE:
            raise ValueError(f"{name}: its U-Net has other weights than the one whose features the head has learned to read")


class ValueHead:
    """A `StepScorer`: the expected reward of the final image, in units of that reward, so that levels can be compared."""

    forwards = 0  # the features are those of the generator's own call

    def __init__(self, network: ValueNetwork, config: Config) -> None:
        self.network, self.config = network.eval().requires_grad_(False), config
        self.taps = tuple(config.shape.taps)

    def score(self, states: States) -> torch.Tensor:
        """The mean (B,) of the final reward."""
        return self.score_with_variance(states)[0]

    @torch.no_grad()
    def score_with_variance(self, states: States) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance (B,), (B,) of the final reward."""
        _, first_N, which_B = np.unique(states.prompts, return_index=True, return_inverse=True)
        prompts = states.embeddings[first_N], torch.from_numpy(which_B).to(states.x.device)
        said = self.network(states.taps, states.x, states.x0, states.log_snr, *prompts)
        return self.config.center + self.config.scale * said.mean, self.config.scale**2 * said.log_variance.exp()

    def save(self, folder: Path) -> None:
        """Write config and weights."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.half().contiguous() for name, value in self.network.state_dict().items()}, folder / "model.safetensors")
        self.config.write(folder)


def load_head(source: str, adapter) -> ValueHead:
    """The head in the folder `source`, on the device of `adapter`.

    Raises ValueError with one sentence for a folder without a value head, and for one that does not fit the generator.
    """
    folder = Path(source)
    config = Config.read(folder)
    config.check(adapter)
    network = ValueNetwork(config.shape)
    try:
        network.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
    except (OSError, SafetensorError, RuntimeError) as error:  # the file is missing or cut off, or its tensors are others
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"step_model {folder} holds no value head that can be read: model.safetensors: {reason}") from None
    wrong = [name for name, value in network.state_dict().items() if not value.isfinite().all()]
    if wrong:
        raise ValueError(f"step_model {folder} holds no value head that can be used: the weights in {wrong[0]} are not finite")
    return ValueHead(network.to(adapter.device), config)


def default_taps(unet) -> tuple[str, ...]:
    """The features to read: of a small U-Net all from the middle on, of a large one the three around the middle."""
    names = list(unet_channels(unet))
    downs, ups = [[name for name in names if name.startswith(side)] for side in ("down.", "up.")]
    return ("mid", *ups) if len(ups) <= MANY_BLOCKS else (downs[-1], "mid", ups[0])


def fingerprint(adapter) -> tuple[float, ...]:
    """A few weights of the U-Net's first and last convolution: another model has others, the same in another precision nearly the same."""
    found = []
    for layer in (adapter.unet.conv_in, adapter.unet.conv_out):
        weight = layer.weight.detach().float().flatten().cpu()
        index = torch.linspace(0, len(weight) - 1, PRINT // 2).long()
        found += [float(f"{value:.4g}") for value in weight[index].tolist()]
    return tuple(found)


def _distance(here: tuple[float, ...], there: tuple[float, ...]) -> float:
    """Relative distance of two fingerprints."""
    if len(here) != len(there):
        return float("inf")
    one, other = torch.tensor(here), torch.tensor(there)
    return float((one - other).norm() / other.norm())
