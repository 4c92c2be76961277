"""A trained IGE at work in the denoiser's process: versions of its weights, and what it predicts of states.

Legend: B states, K jumps, M targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from mcts_ray.gain.choose import Gains, Jump
from mcts_ray.gain.folder import Config, weights
from mcts_ray.gain.network import GainNetwork
from mcts_ray.gain.reader import Reader, fingerprint, make_reader
from mcts_ray.reward.step import States

if TYPE_CHECKING:
    from mcts_ray.diffusion.denoiser import Denoiser
    from mcts_ray.search.base import Setting

KEPT = 4  # versions in memory
DIGITS = 6  # of a prediction: what is in a journal is what was compared, and hangs less on the company in a batch


class Evaluator:
    """An IGE and its versions. taps: what it reads of the generator's call."""

    def __init__(self, config: Config, reader: Reader, source: str, device: torch.device | str = "cpu") -> None:
        self.config, self.reader, self.source, self.device = config, reader, source, device
        self.taps = reader.taps
        self._networks: dict[int, GainNetwork] = {}
        self._asked: dict[tuple[int, str], GainNetwork] = {}  # of a version, what is asked where a target is
        self._newest, file = weights(source)
        self._networks[self._newest] = self._load(file)

    @property
    def newest(self) -> int:
        """The version that searches use that are not pinned to one."""
        return self._newest

    def install(self, version: int, state: Mapping[str, torch.Tensor]) -> None:
        """From now on `version`, with these weights, is the newest."""
        self._networks[version] = _network(self.config, state).to(self.device)
        self._asked.clear()
        self._newest = version
        for old in sorted(self._networks)[:-KEPT]:
            del self._networks[old]

    def network(self, version: int | None) -> tuple[int, GainNetwork]:
        """A version, None being the newest. ValueError if it is not there."""
        number = self._newest if version is None else version
        if number not in self._networks:
            self._networks[number] = self._load(weights(self.source, number)[1])
        return number, self._networks[number]

    @torch.no_grad()
    def evaluate(
        self, states: States, nodes: Sequence[str], levels: Sequence[int], settings: Sequence[Setting]
    ) -> list[Gains]:
        """What the jumps from B states gain, in the order given."""
        features_BF = self.reader.read(states)
        found: dict[int, Gains] = {}
        for version, target in dict.fromkeys((setting.ige_version, setting.ige_target) for setting in settings):
            rows = [row for row, setting in enumerate(settings) if (setting.ige_version, setting.ige_target) == (version, target)]
            number, network = self._asking(version, target)
            mean_BKM, variance_BKM = predict(network, self.config, features_BF[rows], [levels[row] for row in rows])
            for row, mean_KM, variance_KM in zip(rows, mean_BKM.tolist(), variance_BKM.tolist()):
                jumps = self._jumps(network.targets, mean_KM, variance_KM, levels[row], target)
                kept = features_BF[row].half().cpu().numpy().tobytes() if settings[row].ige_features else None
                found[row] = Gains(nodes[row], number, jumps, kept)
        return [found[row] for row in range(len(nodes))]

    def _asking(self, version: int | None, target: str) -> tuple[int, GainNetwork]:
        """A version's networks of a target and of the jump error, the only ones that a search by this target asks."""
        number, network = self.network(version)
        if (number, target) not in self._asked:
            self._asked[number, target] = network.only(tuple(name for name in self.config.targets if name in (target, "jump_error")))
        return number, self._asked[number, target]

    def _jumps(
        self, targets: Sequence[str], mean_KM: list[list[float]], variance_KM: list[list[float]], level: int, target: str
    ) -> tuple[Jump, ...]:
        """One state's predictions on a target, in units of reward; of jumps without data none."""
        config, m = self.config, targets.index(target)
        wrong = targets.index("jump_error") if "jump_error" in targets else None
        base = None
        jumps = []
        for place, k in enumerate(config.jumps):
            if k not in config.known(level):
                continue
            unit = config.worth[target] * (k if target == "reward_rate" else 1)
            value = unit * mean_KM[place][m]
            base = value if base is None else base
            error = None if wrong is None else _rounded(max(0.0, mean_KM[place][wrong]))
            jumps.append(Jump(k, _rounded(value - base), _rounded(unit**2 * variance_KM[place][m]), error))
        return tuple(jumps)

    def _load(self, file: Path) -> GainNetwork:
        try:
            return _network(self.config, load_file(file)).to(self.device)
        except Exception as error:  # the file is missing or cut off, or its tensors are others
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"ige_model {file.parent} holds no IGE that can be read: {file.name}: {reason}") from None


def predict(
    network: GainNetwork, config: Config, features_BF: torch.Tensor, levels: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the network's targets in their own units, (B, K, M) each; of jumps beyond level 0 they mean nothing."""
    log_snr_B, landing_BK = noise_of(config.log_snr, config.jumps, levels, features_BF.device)
    mean_BKM, log_variance_BKM = network(features_BF, log_snr_B, landing_BK)
    center_M, scale_M = torch.tensor([config.units[name] for name in network.targets], device=features_BF.device).unbind(1)
    return center_M + scale_M * mean_BKM, scale_M**2 * log_variance_BKM.exp()


def noise_of(
    log_snr: Sequence[float], jumps: Sequence[int], levels: Sequence[int], device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-SNR at the states (B,) and where each jump ends (B, K); those that would go further end at level 0."""
    here = torch.tensor([log_snr[level] for level in levels], dtype=torch.float32)
    there = torch.tensor([[log_snr[max(0, level - k)] for k in jumps] for level in levels], dtype=torch.float32)
    return here.to(device), there.to(device)


def load_evaluator(source: str, denoiser: Denoiser) -> Evaluator:
    """The IGE in the folder `source`, on the device of a denoiser. ValueError, one sentence, for one that does not fit its model."""
    config = Config.read(source)
    unet = denoiser.adapter.unet
    config.check_model(fingerprint(unet), denoiser.levels(config.levels, config.grid).log_snr_L.tolist())
    reader = make_reader(config.reader, denoiser.adapter)
    if reader.features != config.features:
        raise ValueError(f"the IGE reads {config.features} features of a state, where this model gives {reader.features}")
    return Evaluator(config, reader, source, denoiser.device)


def save_weights(network: GainNetwork, file: Path) -> None:
    """fp16 safetensors, replaced at once."""
    partial = file.with_suffix(".partial")
    save_file({name: value.half().contiguous().cpu() for name, value in network.state_dict().items()}, partial)
    partial.replace(file)


def make_network(config: Config) -> GainNetwork:
    """An untrained network of a config's shape."""
    return GainNetwork(config.features, config.jumps, config.targets, config.width, config.blocks)


def _network(config: Config, state: Mapping[str, torch.Tensor]) -> GainNetwork:
    network = make_network(config)
    network.load_state_dict({name: value.float() for name, value in state.items()})
    return network.eval().requires_grad_(False)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
