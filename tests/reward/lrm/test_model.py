"""The network against the stock U-Net's own forward (tests/reward/lrm/reference.py)."""

import copy
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel

from mcts_ray.reward.lrm.model import UNUSED, LatentRewardModel, Text, feature_width
from mcts_ray.reward.lrm.words import Words
from tests.reward.lrm.published import PIPELINES
from tests.reward.lrm.reference import feature_maps, text_side
from tests.tiny import tiny_pipeline

SD = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def texts(model, pipe, states):
    words = Words.of_pipeline(pipe)
    return model.encode(*words(states.prompts)), model.encode(*words([""]))


@pytest.mark.parametrize(
    ("config", "shapes"),
    [
        (SD, [(320, 64, 64), (640, 32, 32), (1280, 16, 16), (1280, 8, 8), (1280, 8, 8)]),
        (SDXL, [(320, 128, 128), (640, 64, 64), (1280, 32, 32), (1280, 32, 32)]),
    ],
)
def test_taps_of_the_published_models_have_the_published_order_and_shapes(config, shapes):
    side = shapes[0][1]
    with torch.device("meta"):  # shapes without the gigabytes
        unet = UNet2DConditionModel(sample_size=side, **config)
        text_config = SimpleNamespace(config=SimpleNamespace(projection_dim=1280, hidden_size=768))
        model = LatentRewardModel.__new__(LatentRewardModel)
        torch.nn.Module.__init__(model)
        model.unet, model.text_encoder_2 = unet, text_config if config is SDXL else None
        text = Text(torch.zeros(2, 77, config["cross_attention_dim"]), torch.zeros(2, 1280), torch.zeros(2, 1280))
        found = [tuple(tap.shape) for tap in model.taps(torch.zeros(2, 4, side, side), torch.zeros(2), text)]
    assert found == [(2, *shape) for shape in shapes]
    assert feature_width(unet) == sum(shape[0] for shape in shapes) == (4800 if config is SD else 3520)


def test_taps_are_those_of_the_stock_forward_in_its_order(pipe, states):
    model = LatentRewardModel.from_pipeline(pipe).requires_grad_(False)
    text, _ = texts(model, pipe, states)
    added = None
    if model.family == "sdxl":
        added = {"text_embeds": text.pooled_BP, "time_ids": torch.tensor([[1024, 1024, 0, 0, 1024, 1024]]).expand(3, -1)}
    expected = feature_maps(pipe.unet, states.x, states.t, text.states_BLD, added)
    found = list(model.taps(states.x, states.t, text))
    assert len(found) == len(expected) == len(pipe.unet.config.block_out_channels) + 1
    for tap, reference in zip(found, expected):
        torch.testing.assert_close(tap, reference)


def test_the_text_side_of_each_family(pipe, states):
    model = LatentRewardModel.from_pipeline(pipe).requires_grad_(False)
    text, _ = texts(model, pipe, states)
    heads = {} if model.family == "sdxl" else {"text_projection": {"weight": model.text_projection.weight}}
    hidden, pooled, feature = text_side(pipe, states.prompts, heads)
    torch.testing.assert_close(text.states_BLD, hidden)
    torch.testing.assert_close(text.feature_BE, feature)
    if pooled is not None:
        torch.testing.assert_close(text.pooled_BP, pooled)


def test_an_enhancement_of_one_is_the_conditional_branch_alone(pipe, states):
    model = LatentRewardModel.from_pipeline(pipe, enhancement=1.0).requires_grad_(False)
    text, empty = texts(model, pipe, states)
    assert model.forwards == 1
    alone = model.features(states.x, states.t, text, empty)
    expected = torch.cat([tap.mean((2, 3)) for tap in model.taps(states.x, states.t, text)], 1)
    torch.testing.assert_close(alone, expected)
    model.enhancement = 1 + 1e-6  # through both branches
    assert model.forwards == 2
    torch.testing.assert_close(model.features(states.x, states.t, text, empty), expected)


def test_only_the_mid_feature_is_enhanced(pipe, states):
    model = LatentRewardModel.from_pipeline(pipe).requires_grad_(False)
    text, empty = texts(model, pipe, states)
    mid = pipe.unet.config.block_out_channels[-1]
    enhanced = model.features(states.x, states.t, text, empty)
    cond = torch.cat([tap.mean((2, 3)) for tap in model.taps(states.x, states.t, text)], 1)
    uncond = torch.cat([tap.mean((2, 3)) for tap in model.taps(states.x, states.t, empty.rows([0, 0, 0]))], 1)
    torch.testing.assert_close(enhanced[:, :-mid], cond[:, :-mid])
    torch.testing.assert_close(enhanced[:, -mid:], cond[:, -mid:] + 6.5 * (cond - uncond)[:, -mid:], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(enhanced[0, -mid:], cond[0, -mid:], atol=1e-4)
    torch.testing.assert_close(enhanced[1], cond[1], rtol=1e-4, atol=1e-5)  # the empty prompt is its own unconditional branch


def test_sdxls_empty_prompt_goes_through_the_encoders():
    pipe = PIPELINES["sdxl"]()
    model = LatentRewardModel.from_pipeline(pipe).requires_grad_(False)
    empty = model.encode(*Words.of_pipeline(pipe)([""]))
    first = pipe.text_encoder(pipe.tokenizer([""], padding="max_length", return_tensors="pt").input_ids, output_hidden_states=True)
    torch.testing.assert_close(empty.states_BLD[..., :16], first.hidden_states[-2])
    _, zeroed, _, zeroed_pooled = pipe.encode_prompt("a fox", negative_prompt=None)
    assert not zeroed.any() and not zeroed_pooled.any()  # what the stock pipeline does with no negative prompt
    assert empty.states_BLD.abs().min(-1).values.max() > 0 and empty.pooled_BP.abs().max() > 0


def test_scores_in_a_batch_are_those_of_each_alone(pipe, states):
    torch.manual_seed(0)  # of the projection, whose size that of rounding follows
    model = LatentRewardModel.from_pipeline(pipe).requires_grad_(False)
    text, empty = texts(model, pipe, states)
    together = model(states.x, states.t, text, empty)
    alone = [model(states.x[i : i + 1], states.t[i : i + 1], text.rows([i]), empty) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))
    moved = model(states.x, states.t.flip(0), text, empty)
    assert (moved - together).abs()[[0, 2]].min() > 1e-5 and together.abs().max() <= model.logit_scale.exp()


def test_the_up_path_goes_and_the_generator_keeps_its_own():
    pipe = tiny_pipeline()
    before = copy.deepcopy(pipe.unet.state_dict())
    model = LatentRewardModel.from_pipeline(pipe)
    assert not any(hasattr(model.unet, name) for name in UNUSED)
    assert pipe.unet.state_dict().keys() == before.keys() and hasattr(pipe.unet, "up_blocks")
    with torch.no_grad():
        model.unet.conv_in.weight.zero_()
    assert torch.equal(pipe.unet.conv_in.weight, before["conv_in.weight"])
