"""The guide of scenes: a small learned image-text scorer. Imperfect by nature; the verifier (gold) trains nothing of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from .grammar import parse
from .render import SIDE

WEIGHTS = Path(__file__).parent / "weights"
BATCH = 256


class ScorerNetwork(nn.Module):
    """Two towers as in CLIP (image patches and caption tokens, each through transformer blocks), joined by cross
    attention instead of a dot product, since a single vector binds attributes to objects poorly.

    Every word that states a fact (a colour, a shape, a relation, and the end of the caption for "nothing else") says how
    likely its fact is. forward: image_NCHW in [-1, 1] (C=3, H=W=64), token_NL → the expected share (N,) of the caption's
    facts that the image shows.
    """

    def __init__(self, vocabulary: int, length: int, width: int = 80, heads: int = 4) -> None:
        super().__init__()
        self.config = {"vocabulary": vocabulary, "length": length, "width": width, "heads": heads}
        options = {"dim_feedforward": 2 * width, "dropout": 0.0, "activation": "gelu", "batch_first": True}
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 4, stride=4), nn.GELU(), nn.Conv2d(24, width, 4, stride=2, padding=1), nn.GELU()
        )
        self.place = nn.Parameter(_places(SIDE // 8, width))
        self.image = nn.ModuleList(nn.TransformerEncoderLayer(width, heads, norm_first=True, **options) for _ in range(2))
        self.word = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.text = nn.ModuleList(nn.TransformerDecoderLayer(width, heads, norm_first=True, **options) for _ in range(2))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
        self.where = nn.Linear(width, 2)
        self.compare = nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, width))
        # 1 for the tokens that state a fact, that name a shape, that begin a relation
        for kind in ("states_fact", "names_shape", "relates"):
            self.register_buffer(kind, torch.zeros(vocabulary))

    def facts(self, image_NCHW: torch.Tensor, token_NL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(logit, weight) of each token (N, L): whether its fact holds, and 1 where it states one, else 0."""
        return self.judge(token_NL, *self.read(image_NCHW, token_NL))

    def read(self, image_NCHW: torch.Tensor, token_NL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Words (N, L, D) that have looked at the image once, and its patches (N, P, D)."""
        patch_NPD = self.stem(image_NCHW).flatten(2).transpose(1, 2) + self.place
        for block in self.image:
            patch_NPD = block(patch_NPD)
        word_NLD = self.word(token_NL) + self.position
        for block in self.text:
            word_NLD = block(word_NLD, patch_NPD)
        return word_NLD, patch_NPD

    def judge(self, token_NL: torch.Tensor, word_NLD: torch.Tensor, patch_NPD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The second look, by the same blocks: the words know what they have found, and relations how it is displaced."""
        word_NLD = word_NLD + self._displacement(token_NL, word_NLD)
        for block in self.text:
            word_NLD = block(word_NLD, patch_NPD)
        return self.head(word_NLD).squeeze(-1), self.states(token_NL)

    def verdicts(self, image_NCHW: torch.Tensor, token_NL: torch.Tensor) -> torch.Tensor:
        """(N, L, 5): probability that the token's fact holds, 1 if it states one, where (x, y), 1 if `where` has been taught for it."""
        word_NLD, patch_NPD = self.read(image_NCHW, token_NL)
        logit_NL, states_NL = self.judge(token_NL, word_NLD, patch_NPD)
        end_NL = token_NL == token_NL[:, -1:]  # the end of the caption states that there is nothing else, nowhere
        located_NL = states_NL * (1 - self.relates[token_NL]) * ~end_NL
        return torch.cat([torch.stack([logit_NL.sigmoid(), states_NL], -1), self.where(word_NLD), located_NL[..., None]], -1)

    def _displacement(self, token_NL: torch.Tensor, word_NLD: torch.Tensor) -> torch.Tensor:
        """For each word that begins a relation, a feature (N, L, D) of how the shape after it is displaced from the one before it,
        both being `where` their words say; 0 for other words."""
        at_NL2 = self.where(word_NLD)
        first, second = (at_NL2.gather(1, index[..., None].expand_as(at_NL2)) for index in self.between(token_NL))
        moved = second - first
        return self.compare(torch.cat([moved, moved.abs()], -1)) * self.relates[token_NL][..., None]

    def between(self, token_NL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each token the place (N, L) of the nearest shape before it and of that after it."""
        shape_NL, place = self.names_shape[token_NL] > 0, torch.arange(token_NL.shape[1], device=token_NL.device)
        before_NL = torch.where(shape_NL, place, 0).cummax(1).values
        after_NL = torch.where(shape_NL, place, token_NL.shape[1] - 1).flip(1).cummin(1).values.flip(1)
        return before_NL, after_NL

    def states(self, token_NL: torch.Tensor) -> torch.Tensor:
        """1 where a token states a fact (N, L), else 0."""
        repeated = token_NL[:, 1:] == token_NL[:, :-1]  # the end of the caption is also its padding
        return self.states_fact[token_NL] * F.pad(~repeated, (1, 0), value=True)

    def forward(self, image_NCHW: torch.Tensor, token_NL: torch.Tensor) -> torch.Tensor:
        logit_NL, weight_NL = self.facts(image_NCHW, token_NL)
        return (logit_NL.sigmoid() * weight_NL).sum(1) / weight_NL.sum(1)


def _places(side: int, width: int) -> torch.Tensor:
    """What tells the side × side patches apart at first: coordinates in [-1, 1] and their waves, (side², width)."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    waves = [wave(torch.pi * k / 2 * axis) for k in range(1, 9) for axis in (x, y) for wave in (torch.sin, torch.cos)]
    place = 0.02 * torch.randn(side**2, width)
    place[:, : 2 + len(waves)] += 0.5 * torch.stack([x, y, *waves], -1).flatten(0, 1)
    return place


class Scorer:
    """An image reward: `(images, prompts) -> scores`, the expected share of facts in [0, 1], higher is better.

    center and scale: mean and standard deviation of its scores on scenes with right and wrong facts, for weighted sums.
    """

    name = "scenes"
    forwards = 1  # network sample-forwards per image, booked by the ledger

    def __init__(
        self,
        network: ScorerNetwork,
        tokenizer: CLIPTokenizer,
        device: str | torch.device = "cpu",
        center: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        self.network, self.tokenizer, self.device = network.to(device).eval(), tokenizer, torch.device(device)
        self.center, self.scale = center, scale

    def save(self, folder: Path) -> None:
        """Write `folder`/scorer: config, tokenizer and fp16 safetensors."""
        (folder / "scorer").mkdir(parents=True, exist_ok=True)
        state = {name: value.half().contiguous() for name, value in self.network.state_dict().items()}
        save_file(state, folder / "scorer" / "model.safetensors")
        self.tokenizer.save_pretrained(folder / "scorer" / "tokenizer")
        config = {"network": self.network.config, "center": self.center, "scale": self.scale}
        (folder / "scorer" / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls, device: str | torch.device = "cpu", folder: Path = WEIGHTS) -> Scorer:
        """The shipped scorer, or one that `mcts-ray train scenes --part scorer` wrote to `folder`."""
        config = json.loads((folder / "scorer" / "config.json").read_text())
        network = ScorerNetwork(**config["network"])
        state = load_file(folder / "scorer" / "model.safetensors")
        network.load_state_dict({name: value.float() for name, value in state.items()})
        tokenizer = CLIPTokenizer.from_pretrained(folder / "scorer" / "tokenizer")
        return cls(network, tokenizer, device, config["center"], config["scale"])

    def __call__(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """images: uint8 (N, H, W, 3), of 64×64 pixels; prompts: N → float32 (N,). Raises ValueError for
        another size or a prompt outside the grammar."""
        return self._each(self.network, images, prompts)

    def verdicts(self, images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """What it thinks of single words, (N, L, 5) as in `mcts_ray.reward.base`; places are those of colours and shapes."""
        return self._each(self.network.verdicts, images, prompts)

    @torch.no_grad()
    def reading(self, prompts: Sequence[str]) -> tuple[dict[str, dict], torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """How it reads, the parts of a `Reading` (`mcts_ray.reward.base`), for a value head to begin with."""
        network, token_NL = self.network, self._tokens(prompts).to(self.device)
        parts = {"blocks": network.text, "where": network.where, "compare.moved": network.compare, "verdict": network.head}
        states = {name: part.state_dict() for name, part in parts.items()}
        word_NLD = network.word(token_NL) + network.position
        return states, word_NLD, network.states(token_NL), network.relates[token_NL], torch.stack(network.between(token_NL), 1)

    def _tokens(self, prompts: Sequence[str]) -> torch.Tensor:
        captions = [parse(prompt).caption for prompt in prompts]
        return self.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids

    @torch.inference_mode()
    def _each(self, tell: Callable[..., torch.Tensor], images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """`tell` of images and caption tokens, in batches."""
        if images.shape[1:] != (SIDE, SIDE, 3):
            raise ValueError(f"The scenes reward reads {SIDE}×{SIDE} RGB images; got {images.shape[1:]}.")
        tokens, told = self._tokens(prompts), []
        for at in range(0, len(images), BATCH):
            x = torch.from_numpy(images[at : at + BATCH]).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            told.append(tell(x, tokens[at : at + BATCH].to(self.device)).cpu())
        return torch.cat(told).numpy()
