"""Step scores made beside the denoiser's call: which states a scorer sees, and what they cost."""

import pytest
import torch

from mcts_ray.diffusion.engine import Engine
from tests import scorers
from tests.diffusion.walks import run, seed_walk, setting


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Settings whose states are scored by a named test scorer."""
    scorers.use(monkeypatch)

    def make(which, kind="value", **fields):
        return setting(step_reward=kind, step_model=scorers.folder(tmp_path, which), **fields)

    return make


def test_a_scorer_sees_the_state_as_the_denoiser_does(denoiser, scored):
    kind = scored("tapped", prompt="a red circle")
    engine = Engine(denoiser, batch_size=3)
    work = seed_walk("w", kind, keep=("w/7",), scored=("w/7",))
    walked = run(engine, [work, seed_walk("u", setting("a ring", guidance=1.0)), seed_walk("v", setting("a cross"))])
    (states,), kept = denoiser.scorer(kind.step_reward, kind.step_model).seen, engine.store.get("search", "w/7")
    assert torch.equal(states.x0[0], kept.x0) and torch.equal(states.eps[0], kept.eps) and states.prompts == ("a red circle",)
    levels = denoiser.levels(10)
    x = levels.alpha_L[7] * kept.x0 + levels.sigma_L[7] * kept.eps
    torch.testing.assert_close(states.x[0], x, atol=1e-5, rtol=1e-5)
    assert states.t.tolist() == [levels.timesteps_L[7]] and states.log_snr[0] == pytest.approx(float(levels.log_snr_L[7]), rel=1e-5)
    assert torch.equal(states.embeddings[0], denoiser.prompts.get("a red circle").embedding)
    alone = denoiser.denoise(states.x, [7], [kind], ("mid",))
    torch.testing.assert_close(states.taps["mid"], alone.taps["mid"], atol=1e-5, rtol=1e-5)
    assert walked["w"].scores == (("w/7", pytest.approx(float(alone.taps["mid"].mean() - states.log_snr))),)
    assert walked["u"].scores == () and walked["w"].x0s == () and len(walked["w"].to_decode) == 1


def test_searches_with_different_step_rewards_share_a_batch(denoiser, scored):
    """Each scorer is asked once for all of its states; x0, the third, leaves what is to be decoded."""
    kinds = {"a": scored("eps"), "b": scored("tapped", "lrm"), "c": setting()}
    names = [(f"{name}{i}", name) for name in kinds for i in range(2)]
    works = [seed_walk(walk, kinds[name], search=name, scored=(f"{walk}/8", f"{walk}/3")) for walk, name in names]
    walked = run(Engine(denoiser, batch_size=6), works)
    for name, kind in kinds.items():
        mine = [walked[f"{name}{i}"] for i in range(2)]
        if name == "c":
            assert all(len(one.x0s) == 2 and one.scores == () and one.cost.reward_calls == 0 for one in mine)
            continue
        scorer = denoiser.scorer(kind.step_reward, kind.step_model)
        assert [len(states) for states in scorer.seen] == [2, 2]  # levels 8 and 3, both walks at once
        for i, one in enumerate(mine):
            assert [node for node, _ in one.scores] == [f"{name}{i}/8", f"{name}{i}/3"] and one.x0s == ()
            assert (one.cost.nfe, one.cost.reward_calls, one.cost.decodes) == (10, 2, 0)
            assert one.cost.model_forwards == 20 + 2 * scorer.forwards
    alone = run(Engine(denoiser, batch_size=6), [works[0]])["a0"]
    assert alone.scores == tuple((node, pytest.approx(score, abs=1e-6)) for node, score in walked["a0"].scores)


def test_a_score_that_is_not_finite_is_none(denoiser, scored):
    works = [seed_walk(f"w{i}", scored("moody"), [10, 9], scored=(f"w{i}/9",)) for i in range(3)]
    walked = run(Engine(denoiser), works)
    assert [walked[f"w{i}"].scores[0][1] is None for i in range(3)] == [True, False, True]
    assert all(one.error is None and one.cost.reward_calls == 1 for one in walked.values())


def test_a_failed_unit_has_no_scores_but_its_cost(denoiser, scored, monkeypatch):
    denoise = denoiser.denoise

    def broken(x, level_B, settings, *args):
        prediction = denoise(x, level_B, settings, *args)
        if level_B[0] == 4:
            prediction.x0[0] = float("nan")
        return prediction

    monkeypatch.setattr(denoiser, "denoise", broken)
    kind = scored("eps")
    walked = run(Engine(denoiser), [seed_walk("w", kind, scored=("w/8", "w/4"))])["w"]
    assert "non-finite" in walked.error and walked.scores == ()
    assert (walked.cost.nfe, walked.cost.reward_calls) == (7, 1)  # the state that could not be predicted was not scored


def test_a_dropped_unit_has_its_cost(denoiser, scored):
    engine = Engine(denoiser)
    engine.submit([seed_walk("w", scored("tapped"), scored=("w/10", "w/9", "w/1"))])
    engine.step(), engine.step()
    (dropped,) = engine.drop("search")
    assert (dropped.cost.nfe, dropped.cost.reward_calls, dropped.cost.model_forwards) == (2, 2, 2 * 2 + 2 * 2)


def test_scoring_changes_no_latent(denoiser, scored):
    plain = run(Engine(denoiser), [seed_walk("w", setting())])["w"]
    one = run(Engine(denoiser), [seed_walk("w", scored("tapped"), scored=("w/5",))])["w"]
    assert torch.equal(plain.latent, one.latent)
