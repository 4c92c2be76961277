import numpy as np
import pytest
import torch

from mcts_ray.reward import Reward

IMAGES = np.arange(4 * 2 * 2 * 3, dtype=np.uint8).reshape(4, 2, 2, 3)
PROMPTS = ["a", "b", "c", "d"]


def brightness(images, prompts):
    return images.reshape(len(images), -1).mean(1)


@pytest.mark.parametrize("kind", [np.asarray, list, torch.tensor, lambda v: torch.tensor(v, dtype=torch.float16)])
def test_scores_of_any_number_type(kind):
    scored = Reward("r", lambda images, prompts: kind([float(i) for i in range(len(prompts))])).score(IMAGES, PROMPTS)
    assert [s.score for s in scored] == [0.0, 1.0, 2.0, 3.0]
    assert all(s.calls == 1 and s.error is None for s in scored)


def test_a_nan_fails_only_its_own_image_after_a_second_try():
    calls = []

    def reward(images, prompts):
        calls.append(list(prompts))
        return [float("nan") if prompt == "c" else 1.0 for prompt in prompts]

    scored = Reward("r", reward).score(IMAGES, PROMPTS)
    assert calls == [PROMPTS, ["c"]]
    assert [s.score for s in scored] == [1.0, 1.0, None, 1.0]
    assert scored[2].calls == 2 and scored[2].error == "reward 'r' returned nan"


def test_an_exception_fails_only_the_image_that_causes_it():
    def reward(images, prompts):
        if "b" in prompts:
            raise RuntimeError("no b")
        return brightness(images, prompts)

    scored = Reward("r", reward).score(IMAGES, PROMPTS)
    assert [s.score is None for s in scored] == [False, True, False, False]
    assert scored[1].error == "reward 'r' raised RuntimeError: no b"
    assert [s.calls for s in scored] == [2, 2, 2, 2]


def test_a_flaky_reward_succeeds_on_the_second_try():
    answers = iter([float("inf"), 3.0])
    scored = Reward("r", lambda images, prompts: [next(answers)]).score(IMAGES[:1], PROMPTS[:1])
    assert scored[0].score == 3.0 and scored[0].calls == 2 and scored[0].error is None


def test_a_wrong_number_of_scores_is_an_error():
    scored = Reward("r", lambda images, prompts: [1.0, 2.0]).score(IMAGES, PROMPTS)
    assert scored[0].error == "reward 'r' returned shape (2,) for 1 images"


def test_an_interrupt_is_not_swallowed():
    def reward(images, prompts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Reward("r", reward).score(IMAGES, PROMPTS)


def test_verdicts_on_words_are_told_only_by_the_tokens_of_the_generator():
    def reward(images, prompts):
        return [0.0] * len(prompts)

    assert Reward("r", reward).verdicts(IMAGES, PROMPTS, 16) is None
    reward.verdicts = lambda images, prompts: np.ones((len(prompts), 16, 5))
    told = Reward("r", reward).verdicts(IMAGES, PROMPTS, 16)
    assert told.shape == (4, 16, 5) and told.dtype == np.float16 and Reward("r", reward).verdicts(IMAGES, PROMPTS, 77) is None


@pytest.mark.parametrize("told", [np.full((4, 16, 5), np.nan), np.ones((4, 16)), np.ones((3, 16, 5)), ZeroDivisionError("boom")])
def test_verdicts_that_cannot_be_learned_from_are_refused(told):
    def reward(images, prompts):
        return [0.0] * len(prompts)

    def verdicts(images, prompts):
        if isinstance(told, Exception):
            raise told
        return told

    reward.verdicts = verdicts
    with pytest.raises(ValueError, match="the verdicts of reward 'r' (must be finite numbers of shape|raised ZeroDivisionError: boom)"):
        Reward("r", reward).verdicts(IMAGES, PROMPTS, 16)
