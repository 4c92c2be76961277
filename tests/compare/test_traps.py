"""Known traps of published comparisons, each on the command's own parts."""

from collections import defaultdict

import numpy as np
import pytest

from mcts_ray import Searcher
from mcts_ray.compare.design import Arm, Design, every_arm
from mcts_ray.compare.run import judged, row_of, run
from mcts_ray.config import NOISY
from mcts_ray.reward import Reward
from mcts_ray.search import ALGORITHMS
from tests.tiny import tiny_pipeline

PROMPT = "a cat"
DARK = Reward("dark", lambda images, prompts: [-float(image.mean()) for image in images])


@pytest.fixture(scope="module")
def searcher():
    return Searcher(tiny_pipeline(), reward="jpeg")


def design(algorithm="best-of-n", oracle=False):
    arms = (Arm(algorithm, algorithm, oracle=oracle),)
    return Design(arms, (6,), 1, 4, {"made": [PROMPT]}, "pipeline", "", "jpeg", "jpeg", images=4)


def test_eta_differs_between_baselines_that_are_compared():
    """Known trap: best-of-n and psp without noise against particles with it, so that a gap may be the sampler's. Both eta are offered
    wherever the algorithm allows both, and one alone only where the other cannot be."""
    offered = defaultdict(set)
    for arm in every_arm(8):
        offered[arm.algorithm].add(arm.fields["eta"])
    expected = {name: {1.0} if name in NOISY else {0.0} if name == "mcts" else {0.0, 1.0} for name in ALGORITHMS}
    assert offered == expected
    assert all(offered[name] == {0.0, 1.0} for name in ("best-of-n", "psp", "dfs", "random", "zero-order"))


def test_ode_copies_are_never_compared():
    """Known trap: resampling under an ODE, where copies of a particle stay copies. No arm can be without noise that copies states."""
    assert not any(arm.fields["eta"] == 0 for arm in every_arm(8) if arm.algorithm in NOISY)


def test_verifier_answers_come_in_the_order_of_the_images():
    """Known trap: answers of a batched verifier that come back in another order."""
    images = [np.full((4, 4, 3), value, np.uint8) for value in (90, 10, 200, 50)]
    assert judged(DARK, images, PROMPT) == [-90, -10, -200, -50]


def test_gold_in_a_row_is_that_of_its_own_image(searcher, tmp_path):
    """The same trap end to end: every gold of a row, the best one's and the curve's too, is what its image gets alone."""
    plan = design()
    (tmp_path / "groups").mkdir()
    (row,) = run(plan, searcher, DARK, tmp_path)
    (result,) = searcher.many([PROMPT], plan.config(plan.arms[0], 6, 0))
    alone = {c.node: -float(np.asarray(image).mean()) for c, image in zip(result.candidates, result.images, strict=True)}
    assert len(set(alone.values())) == 6 and len(row["curve"]) > 1
    assert row["golds"] == pytest.approx([alone[c.node] for c in result.candidates[:4]])
    assert row["gold"] == pytest.approx(alone[result.best.node])
    records = [c for i, c in enumerate(result.finished) if all(c.reward > earlier.reward for earlier in result.finished[:i])]
    assert [gold for _, _, gold in row["curve"]] == pytest.approx([alone[c.node] for c in records])


def test_the_guide_is_not_reported_as_gold(searcher):
    """Known trap: the reward that guided a search reported as its result. Gold comes from the judge, for the image that the guide
    chose, be it the best by gold or not; of an oracle arm, which has seen gold, no guide is known."""
    plan = design()
    (result,) = searcher.many([PROMPT], plan.config(plan.arms[0], 6, 0))
    guide = [c.reward for c in result.candidates]
    backwards = iter(sorted(guide))  # a judge that likes best what the guide likes least
    contrary = Reward("contrary", lambda images, prompts: [next(backwards) for _ in images])
    row = row_of(result, contrary, plan, plan.arms[0])
    assert row["guide"] == max(guide) and row["guides"] == guide[:4]
    assert row["gold"] == min(guide) != row["guide"] and row["golds"] == sorted(guide)[:4]
    oracle = design(oracle=True)
    row = row_of(result, DARK, oracle, oracle.arms[0])
    assert row["guide"] is None and set(row["guides"]) == {None} and {guide for _, guide, _ in row["curve"]} == {None}
