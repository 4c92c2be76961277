"""Step scores made inside the engine: what a scorer of noisy states is, which ones there are, and where their weights lie.

`x0` is no such scorer: it decodes the predicted image and asks the image reward. The others read the state itself, in the same step as
the denoiser's call at it. No torch here, so that a request can be checked before it is loaded.

Legend: B states, C x H x W latent, C' x h x w feature map, L prompt tokens of width D.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mcts_ray.reward.lrm.layout import FLAT
from mcts_ray.reward.weights import digest

if TYPE_CHECKING:
    import torch

IN_ENGINE = {"lrm": "mcts_ray.reward.lrm", "value": "mcts_ray.reward.value"}  # kinds, and the module whose `load` makes one
SHIPPED = Path(__file__).parents[1] / "scenes" / "weights"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(/[\w.-]+)*")  # owner/name, and a folder in it if that holds several


@dataclass(frozen=True, eq=False)
class States:
    """B noisy states right after the denoiser's call at them.

    x, x0, eps: (B, C, H, W) fp32 on the denoiser's device. t: (B,) time steps as told to the network. log_snr: (B,)
    ln(alpha^2 / sigma^2). taps: features (B, C', h, w) fp32 of the *conditional* branch by tap name (`mcts_ray.diffusion.taps`).
    prompts: B texts. embeddings: (B, L, D) their text embedding as the generator sees it.
    """

    x: torch.Tensor
    x0: torch.Tensor
    eps: torch.Tensor
    t: torch.Tensor
    log_snr: torch.Tensor
    taps: Mapping[str, torch.Tensor]
    prompts: tuple[str, ...]
    embeddings: torch.Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def part(self, rows: slice) -> States:
        """Some of the states, in order."""
        tensors = (getattr(self, name)[rows] for name in ("x", "x0", "eps", "t", "log_snr"))
        taps = {name: tap[rows] for name, tap in self.taps.items()}
        return States(*tensors, taps, self.prompts[rows], self.embeddings[rows])


class StepScorer(Protocol):
    """Scores noisy states.

    taps: names of the features that it reads from the generator's call, () for none. forwards: network sample-forwards of its own
    per state, booked as `model_forwards`; 0 if it runs no network trunk.
    """

    taps: tuple[str, ...]
    forwards: int

    def score(self, states: States) -> torch.Tensor:
        """Raw scores (B,) fp32, higher is better; one that is not finite counts as none."""


def find_step_model(kind: str, model: str, source: str | None) -> str:
    """The step model `source` to use with a model, where None is the one shipped with it, called "scenes".

    Raises ValueError if a model has none of its own, or if nothing is there to be loaded.
    """
    if source is None:
        if model != "scenes":
            raise ValueError(f"model {model} has no {kind} step model of its own; choose one with step_model")
        source = "scenes"
    _check_there(kind, source)
    return source


def load_scorer(kind: str, source: str, adapter) -> StepScorer:
    """The scorer `kind` from `source`: a folder, "scenes", or for lrm a file or a hub id.

    ValueError if nothing is there, or if it does not fit the adapter's model.
    """
    _check_there(kind, source)
    path = place_of(kind, source)
    return import_module(IN_ENGINE[kind]).load(str(path) if path.exists() else source, adapter)


def step_weights(kind: str, source: str) -> list[Path]:
    """The files of weights of a step model on this machine, in order; of one from the hub none."""
    path = place_of(kind, source)
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in (".safetensors", ".pt")) if path.is_dir() else []


def step_key(kind: str, source: str) -> str:
    """What stands for those files; "" for none."""
    files = step_weights(kind, source)
    return digest(files) if files else ""


def absolute(source: str) -> str:
    """The same step model for a process with another working directory."""
    path = Path(source).expanduser()
    return str(path.absolute()) if source != "scenes" and path.exists() else source


def place_of(kind: str, source: str) -> Path:
    """Where a step model lies, if it is on this machine: "scenes" is the one shipped."""
    return SHIPPED / kind if source == "scenes" else Path(source).expanduser()


def _check_there(kind: str, source: str) -> None:
    """A folder that holds something, or for lrm a file of weights or what may be a hub id."""
    path = place_of(kind, source)
    if path.is_dir() and any(path.iterdir()):
        return
    if source == "scenes":
        raise ValueError(f"this installation has no {kind} step model for scenes; train one and name its folder with step_model")
    if kind == "lrm" and path.is_file():
        if path.suffix not in FLAT:
            raise ValueError(f"step_model {source!r} is no file of weights; a lrm step model in one file ends in {', '.join(FLAT)}")
        return
    if path.exists():
        raise ValueError(f"step_model {source!r} is not a folder with the weights of a {kind} step model")
    if kind != "lrm" or not _HUB_ID.fullmatch(source):
        hub = ", nor a file, nor a hub id like owner/name" if kind == "lrm" else ""
        raise ValueError(f"step_model {source!r} is no folder{hub}; name the folder of a {kind} step model")
