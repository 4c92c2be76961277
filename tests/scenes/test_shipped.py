"""The shipped weights: small enough, loaded like any other pipeline, and good for what they are shipped for."""

import json

import numpy as np
import pytest
import torch

from mcts_ray import SearchConfig, Searcher
from mcts_ray.fusion.decoder import check_decoder, load
from mcts_ray.fusion.fuser import log_snr
from mcts_ray.reward.lrm.latents import encode
from mcts_ray.scenes import parse, prompts, render, verify
from mcts_ray.scenes.scorer import WEIGHTS, Scorer
from mcts_ray.search import Setting


@pytest.fixture(scope="module")
def searcher():
    return Searcher.from_pretrained("scenes", device="cpu")


def test_weights_fit_in_sixteen_megabytes():
    assert sum(f.stat().st_size for f in WEIGHTS.rglob("*.safetensors")) <= 16e6


def test_training_is_noted():
    notes = json.loads((WEIGHTS / "training.json").read_text())
    assert {"autoencoder", "unet", "scorer"} <= set(notes)


def test_scorer_prefers_the_render_of_its_prompt():
    texts = prompts("hard", "validation")[:40]
    images = render([parse(t) for t in texts])
    scorer = Scorer.load()
    right, wrong = scorer(images, texts), scorer(images, texts[1:] + texts[:1])
    assert np.mean(right > wrong) > 0.95 and right.mean() > 0.9


def test_scorer_reads_an_as_a():
    image = render([parse("a orange ring")])
    scorer = Scorer.load()
    assert scorer(image, ["an orange ring"]) == scorer(image, ["a orange ring"])


def test_easy_prompts_mostly_pass_and_best_of_n_helps(searcher):
    """48 samples of 12 easy prompts: with the pass rate of the model card (> 0.85), fewer than 32 of 48 right would be
    a chance below 1e-4."""
    config = SearchConfig(budget=4 * 20, levels=20, images=4)
    results = searcher.many(prompts("easy", "test")[:12], config)
    passed = [verify(image, r.prompt)[1] for r in results for image in r.images]
    assert len(passed) == 48 and sum(passed) >= 32
    assert np.mean([r.passed for r in results]) >= np.mean(passed)


def test_wording_does_not_change_the_search(searcher):
    config = SearchConfig(budget=10, levels=10, images=1)
    plain, polite = (searcher(p, config) for p in ("a orange ring above a red cross", "An orange ring above a red cross."))
    assert plain.best == polite.best or plain.best.reward == polite.best.reward
    assert np.array_equal(plain.images[0], polite.images[0]) and polite.prompt.startswith("An")


def test_the_value_head_tells_right_from_wrong_in_noise(searcher):
    """Renders of a prompt's own scene against those of another prompt, both noised to half of the way."""
    texts, level = prompts("hard", "validation")[:40], 15
    images = torch.from_numpy(render([parse(text) for text in texts]))
    denoiser = searcher.backend.denoiser
    latents = torch.cat([encode(denoiser.adapter.pipe.vae, images)] * 2).detach()
    states, _ = denoiser.levels(30).diffused(latents, [level] * 80)
    settings = [Setting(text, guidance=3.0, levels=30, height=64, width=64) for text in texts + texts[1:] + texts[:1]]
    head = denoiser.scorer("value", "scenes")
    prediction = denoiser.denoise(states, [level] * 80, settings, head.taps)
    scores = np.array(denoiser.score(head, states, prediction, [level] * 80, settings, range(80)))
    assert np.mean(scores[:40] > scores[40:]) > 0.85


def test_the_fusion_decoder_is_there_fits_and_is_on_the_card(searcher):
    """And it finds more of a noisy state from its features than the mean state says."""
    folder = WEIGHTS / "fusion"
    adapter = searcher.backend.denoiser.adapter
    tap = check_decoder(str(folder), adapter)
    assert "**Fusion decoder**" in (WEIGHTS / "README.md").read_text()
    denoiser, settings = searcher.backend.denoiser, [Setting("a red ring", guidance=3.0, levels=30)] * 8
    latents = encode(adapter.pipe.vae, torch.from_numpy(render([parse("a red ring")] * 8))).detach()
    for level in (20, 10):
        states, _ = denoiser.levels(30).diffused(latents, [level] * 8)
        features = denoiser.denoise(states, [level] * 8, settings, (tap,)).taps[tap]
        _, alpha, sigma = denoiser.levels(30).rows[level]
        found = load(str(folder)).latent(features, log_snr(alpha, sigma), (8, 8))
        assert (found - states).square().mean() < 0.9 * states.var()


def test_a_search_fuses_by_the_shipped_decoder(searcher):
    config = SearchConfig(algorithm="mcts", fuse="decoder", budget=120, levels=10, seeds=8)
    result = searcher("a red ring above a blue circle", config)
    assert result.ledger.fusions > 0 and not result.errors and "failed" not in result.refusals


@pytest.mark.parametrize("step_reward", ["x0", "lrm", "value"])
def test_step_scores_have_calibrations_and_enter_the_tree_by_them(searcher, step_reward):
    config = SearchConfig(algorithm="mcts", step_reward=step_reward, budget=60)
    assert searcher.backend.plan(["a red ring"], config, "scenes").searches[0].tree.calibration
    result = searcher("a red ring above a blue circle", config)
    assert not result.errors and (result.ledger.decodes == len(result.finished)) == (step_reward != "x0")
