from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mcts_ray.reward.lrm import load
from tests.reward.lrm.published import PIPELINES, adapter_of, save_published


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    save_published(PIPELINES["sdxl"](), folder)
    return folder


def test_scores_are_fp32_in_the_generators_precision(folder, states):
    pipe = PIPELINES["sdxl"]()
    exact = load(str(folder), adapter_of(pipe)).score(states)
    half = load(str(folder), SimpleNamespace(pipe=pipe, unet=SimpleNamespace(dtype=torch.bfloat16), device=torch.device("cpu")))
    assert half.model.visual_projection.weight.dtype == torch.bfloat16
    scores = half.score(states)
    assert scores.dtype == torch.float32 and scores.shape == (3,) and not scores.requires_grad
    torch.testing.assert_close(scores, exact, rtol=0.1, atol=0.1)


def test_prompts_are_encoded_once_and_belong_to_their_states(folder, states, monkeypatch):
    scorer = load(str(folder), adapter_of(PIPELINES["sdxl"]()))
    encoded = []
    original = scorer.model.encode
    monkeypatch.setattr(scorer.model, "encode", lambda *ids: encoded.append(ids) or original(*ids))
    first = scorer.score(states)
    turned = replace(states, x=states.x.flip(0), t=states.t.flip(0), prompts=states.prompts[::-1])
    torch.testing.assert_close(scorer.score(turned), first.flip(0))
    assert len(encoded) == len({*states.prompts, ""})
    assert not torch.allclose(scorer.score(replace(states, prompts=["another fox"] * 3)), first)
