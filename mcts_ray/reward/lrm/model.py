"""The network of the latent reward model (LRM, arXiv 2502.01051, section 4.1), from stock modules.

Shapes: B states; N = B or 2 B rows of a network call, [with the prompt..., with the empty prompt...]; C, H, W latent; c, h, w a
feature map; e its time embedding; F concatenated width of the pooled features; L, D text states; P pooled text; E joint embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import nn

ENHANCEMENT = 7.5  # of the mid feature, as published
LOGIT_SCALE = 2.6592  # ln(1 / 0.07), CLIP's
TIME_IDS = (1024, 1024, 0, 0, 1024, 1024)  # SDXL's size and crop conditions, fixed as published
UNUSED = ("up_blocks", "conv_norm_out", "conv_act", "conv_out")


@dataclass(frozen=True, eq=False)
class Text:
    """What the text side makes of B prompts.

    states_BLD: for cross-attention. pooled_BP: SDXL's added condition (for Stable Diffusion 1.x and 2.x without use).
    feature_BE: what images are compared with.
    """

    states_BLD: torch.Tensor
    pooled_BP: torch.Tensor
    feature_BE: torch.Tensor

    def rows(self, index) -> Text:
        """The prompts at `index`, a slice or indices that may repeat."""
        return Text(self.states_BLD[index], self.pooled_BP[index], self.feature_BE[index])

    @staticmethod
    def cat(texts: Sequence[Text]) -> Text:
        """All prompts of several, in order."""
        parts = ([t.states_BLD for t in texts], [t.pooled_BP for t in texts], [t.feature_BE for t in texts])
        return Text(*map(torch.cat, parts))


class LatentRewardModel(nn.Module):
    """S(x_t, t, prompt) = exp(logit_scale) cos(V, T): V from the down path and the mid block of a U-Net, T from its text encoder(s).

    Family "sd" (1.x and 2.x): one text encoder, its pooled output projected by `text_projection`. Family "sdxl": two, the
    pooled and projected output of the second being T. V projects the concatenation of the last residual before each
    down-sampler (of the last block, which has none, its last), averaged over the map, and of the enhanced mid feature.
    `unet` loses its up path, which is never run.
    """

    def __init__(self, unet: UNet2DConditionModel, text_encoder, text_encoder_2=None, enhancement: float = ENHANCEMENT) -> None:
        super().__init__()
        self.unet = without_up_path(unet)
        self.text_encoder = text_encoder
        self.text_encoder_2 = text_encoder_2
        self.enhancement = enhancement
        joint = (text_encoder_2 or text_encoder).config.projection_dim
        self.visual_projection = nn.Linear(feature_width(unet), joint, bias=False)
        if text_encoder_2 is None:
            self.text_projection = nn.Linear(text_encoder.config.hidden_size, joint, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(LOGIT_SCALE))

    @classmethod
    def from_pipeline(cls, pipe, enhancement: float = ENHANCEMENT) -> LatentRewardModel:
        """To be trained: copies of the generator's own U-Net and text encoder(s), in fp32.

        The text projection starts as the identity, as far as it is square, since a generator ships none; the visual one at random.
        Raises ValueError for an SDXL generator that lacks its first text encoder.
        """
        check_encoders(pipe)
        parts = (pipe.unet, pipe.text_encoder, getattr(pipe, "text_encoder_2", None))
        model = cls(*(copy.deepcopy(part) for part in parts), enhancement=enhancement).float()
        nn.init.normal_(model.visual_projection.weight, std=model.visual_projection.in_features**-0.5)
        if model.family == "sd":
            nn.init.eye_(model.text_projection.weight)
        return model.requires_grad_(True)

    @property
    def family(self) -> str:
        """ "sd" or "sdxl"."""
        return "sd" if self.text_encoder_2 is None else "sdxl"

    @property
    def forwards(self) -> int:
        """Rows of the network call per state: one with the prompt and, for the enhancement, one with the empty prompt."""
        return 1 if self.enhancement == 1 else 2

    def encode(self, *ids_BL: torch.Tensor) -> Text:
        """Prompts as token ids, one tensor for each text encoder; the empty prompt is encoded like any other."""
        if self.family == "sd":
            out = self.text_encoder(ids_BL[0])
            return Text(out.last_hidden_state, out.pooler_output, self.text_projection(out.pooler_output))
        first = self.text_encoder(ids_BL[0], output_hidden_states=True)
        second = self.text_encoder_2(ids_BL[1], output_hidden_states=True)
        states_BLD = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        return Text(states_BLD, second.text_embeds, second.text_embeds)

    def forward(self, x_BCHW: torch.Tensor, t_B: torch.Tensor, text: Text, empty: Text) -> torch.Tensor:
        """Scores (B,) of states at their own time steps. text: of the B prompts; empty: of the empty prompt, one row."""
        visual_BE = self.visual_projection(self.features(x_BCHW, t_B, text, empty))
        return self.logit_scale.exp() * F.cosine_similarity(visual_BE.float(), text.feature_BE.float(), dim=-1)

    def features(self, x_BCHW: torch.Tensor, t_B: torch.Tensor, text: Text, empty: Text) -> torch.Tensor:
        """(B, F): the pooled taps, of which only mid is enhanced: uncond + w (cond - uncond); pooling commutes with it."""
        B = len(x_BCHW)
        if self.forwards == 2:
            text = Text.cat([text, empty.rows([0] * B)])
        *down, mid_Nc = (tap_Nchw.mean((2, 3)) for tap_Nchw in self.taps(x_BCHW, t_B, text))
        if self.forwards == 2:
            mid_Nc = mid_Nc[B:] + self.enhancement * (mid_Nc[:B] - mid_Nc[B:])
        return torch.cat([*(tap_Nc[:B] for tap_Nc in down), mid_Nc], 1)

    def taps(self, x_BCHW: torch.Tensor, t_B: torch.Tensor, text: Text) -> Iterator[torch.Tensor]:
        """Feature maps (N, c, h, w) in the published order: one of each down block, then mid. Stops where the up path would begin.

        text: N rows, those of all states and then as often again as wanted. Up to where a text enters, each state is computed once.
        """
        unet, states_NLD = self.unet, text.states_BLD
        copies = len(states_NLD) // len(x_BCHW)
        added = None
        if self.family == "sdxl":
            time_ids = torch.tensor([TIME_IDS], device=x_BCHW.device).expand(len(states_NLD), -1)
            added = {"text_embeds": text.pooled_BP, "time_ids": time_ids}
        emb_Be = unet.time_embedding(unet.get_time_embed(x_BCHW, t_B))
        extra = unet.get_aug_embed(emb=emb_Be, encoder_hidden_states=states_NLD, added_cond_kwargs=added)
        states_NLD = unet.process_encoder_hidden_states(encoder_hidden_states=states_NLD, added_cond_kwargs=added)
        x_Bchw, emb_Ne = unet.conv_in(x_BCHW), emb_Be.repeat(copies, 1)
        down = list(unet.down_blocks)
        if extra is None and getattr(down[0], "has_cross_attention", False):
            x_Bchw = down[0].resnets[0](x_Bchw, emb_Be)
            x_Nchw, residual_Nchw = _attend(down.pop(0), x_Bchw.repeat(copies, 1, 1, 1), emb_Ne, states_NLD)
            yield residual_Nchw
        else:
            x_Nchw, emb_Ne = x_Bchw.repeat(copies, 1, 1, 1), emb_Ne if extra is None else emb_Ne + extra
        for block in down:
            x_Nchw, residuals = _run(block, x_Nchw, emb_Ne, states_NLD)
            yield residuals[len(block.resnets) - 1]
        yield _run(unet.mid_block, x_Nchw, emb_Ne, states_NLD)


def check_encoders(pipe) -> None:
    """ValueError for an SDXL generator with its second text encoder alone, where the model needs both."""
    if pipe.text_encoder is None:
        raise ValueError("a latent reward model needs both text encoders of SDXL; choose a generator that has more than the second")


def _run(block: nn.Module, x_Nchw: torch.Tensor, emb: torch.Tensor, states_NLD: torch.Tensor):
    if getattr(block, "has_cross_attention", False):
        return block(x_Nchw, emb, encoder_hidden_states=states_NLD)
    return block(x_Nchw, emb)


def _attend(block: nn.Module, x_Nchw: torch.Tensor, emb_Ne: torch.Tensor, states_NLD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a down block with cross-attention does behind its first ResNet: its output, and the last residual before its down-sampler."""
    for at, attention in enumerate(block.attentions):
        if at:
            x_Nchw = block.resnets[at](x_Nchw, emb_Ne)
        x_Nchw = attention(x_Nchw, encoder_hidden_states=states_NLD).sample
    residual_Nchw = x_Nchw
    for downsampler in block.downsamplers or ():
        x_Nchw = downsampler(x_Nchw)
    return x_Nchw, residual_Nchw


def feature_width(unet: UNet2DConditionModel) -> int:
    """F: channels of all down blocks and of the mid block (4800 for Stable Diffusion 1.x and 2.x, 3520 for SDXL)."""
    channels = unet.config.block_out_channels
    return sum(channels) + channels[-1]


def without_up_path(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same U-Net without the modules behind its mid block."""
    for name in UNUSED:
        if hasattr(unet, name):
            delattr(unet, name)
    return unet
