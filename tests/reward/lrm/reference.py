"""The score by the stock U-Net's own full forward, its features read by hooks: slow, plain, written from the paper."""

from __future__ import annotations

import torch


@torch.no_grad()
def feature_maps(unet, x, t, states, added=None) -> list[torch.Tensor]:
    """What enters each down-sampler (the last block: what leaves it), then the output of the mid block."""
    found, handles = [], []
    for block in unet.down_blocks:
        if block.downsamplers:
            hook = block.downsamplers[0].register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        else:
            hook = block.register_forward_hook(lambda _, __, output: found.append(output[0]))
        handles.append(hook)
    handles.append(unet.mid_block.register_forward_hook(lambda _, __, output: found.append(output)))
    unet(x, t, states, added_cond_kwargs=added)
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def text_side(pipe, prompts: list[str], heads: dict):
    """(cross-attention states, pooled condition or None, text feature) of prompts."""

    def ids(words):
        return words(prompts, padding="max_length", max_length=words.model_max_length, truncation=True, return_tensors="pt").input_ids

    if not hasattr(pipe, "text_encoder_2"):
        out = pipe.text_encoder(ids(pipe.tokenizer))
        return out.last_hidden_state, None, out.pooler_output @ heads["text_projection"]["weight"].T
    first = pipe.text_encoder(ids(pipe.tokenizer), output_hidden_states=True)
    second = pipe.text_encoder_2(ids(pipe.tokenizer_2), output_hidden_states=True)
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1), second[0], second[0]


@torch.no_grad()
def score(pipe, heads: dict, x, t, prompts: list[str], w: float = 7.5) -> torch.Tensor:
    """exp(scale) cos(V, T), one state at a time, with and without the prompt in separate calls."""
    scores = []
    for x_1, t_1, prompt in zip(x, t, prompts):
        pooled = []
        for text in (prompt, ""):
            states, condition, _ = text_side(pipe, [text], heads)
            added = None
            if condition is not None:
                added = {"text_embeds": condition, "time_ids": torch.tensor([[1024, 1024, 0, 0, 1024, 1024]])}
            pooled.append([f.mean((2, 3)) for f in feature_maps(pipe.unet, x_1[None], t_1, states, added)])
        text = text_side(pipe, [prompt], heads)[2]
        cond, uncond = pooled
        mid = uncond[-1] + w * (cond[-1] - uncond[-1])
        visual = torch.cat([*cond[:-1], mid], 1) @ heads["visual_projection"]["weight"].T
        cosine = (visual * text).sum() / (visual.norm() * text.norm())
        scores.append(torch.tensor(float(heads["logit_scale"])).exp() * cosine)
    return torch.stack(scores)
