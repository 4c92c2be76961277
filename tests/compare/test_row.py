"""What is kept of one search."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from PIL import Image

from mcts_ray.compare.design import Design, parse_arm
from mcts_ray.compare.run import row_of
from mcts_ray.reward import Reward
from mcts_ray.search.base import Candidate, Ledger

DESIGN = Design((parse_arm("psp"),), (2,), 1, 4, {"made": ["a ring"]}, "scenes", "", "jpeg", "judges:bright")
BRIGHT = Reward("bright", lambda images, prompts: [float(image.mean()) for image in images])


def _result(brightness, lost=(), pruning={}):
    """Images finished in this order, each brighter to the guide than the last; those in `lost` have no image any more."""
    finished = [Candidate(f"n{i}", float(i), 4 * (i + 1), 0.0) for i in range(len(brightness))]
    kept = [c for c in reversed(finished) if c.node not in lost]
    images = [Image.new("RGB", (4, 4), (brightness[int(c.reward)],) * 3) for c in kept]
    found = dict(prompt="a ring", candidates=kept, images=images, finished=tuple(finished), errors=(), pruning=pruning)
    return SimpleNamespace(**found, best=kept[0], ledger=Ledger(), scoring_seconds=0.0)


def test_gold_belongs_to_the_image_that_it_was_given_for():
    """The verifier's answers out of order: the best image of the guide is the darkest here."""
    row = row_of(_result([90, 50, 10]), BRIGHT, DESIGN, DESIGN.arms[0])
    assert (row["gold"], row["golds"]) == (10, [10, 50, 90])
    assert row["curve"] == [[4, 0.0, 90], [8, 1.0, 50], [12, 2.0, 10]]


def test_an_image_that_was_lost_leaves_a_gap_in_the_curve():
    row = row_of(_result([90, 50, 10], lost=("n1",)), BRIGHT, replace(DESIGN, images=1), DESIGN.arms[0])
    assert [point[2] for point in row["curve"]] == [90, 10] and row["golds"] == [10]


def test_diversity_is_zero_for_equal_images():
    assert row_of(_result([30, 30]), BRIGHT, DESIGN, DESIGN.arms[0])["diversity"] == 0
    assert np.isclose(row_of(_result([0, 255]), BRIGHT, DESIGN, DESIGN.arms[0])["diversity"], 1)


def test_a_search_that_prunes_has_its_counts():
    row = row_of(_result([30], pruning={"pruned": 3, "retired": 1}), BRIGHT, DESIGN, DESIGN.arms[0])
    assert (row["pruning_pruned"], row["pruning_retired"]) == (3, 1)
    assert not any(name.startswith("pruning") for name in row_of(_result([30]), BRIGHT, DESIGN, DESIGN.arms[0]))
