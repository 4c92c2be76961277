"""Which pools a comparison draws."""

import numpy as np
import pytest

from mcts_ray.compare import pool
from mcts_ray.compare.design import Design, parse_arm, parse_policy
from mcts_ray.compare.pool import Pool, pools

POLICIES = ("k=1", "k=2", "k=5")
GOLD = {"k=1": 0.2, "k=2": 0.4, "k=5": 0.6}


@pytest.mark.parametrize(
    "validation, expected",
    [({"made": ["a disc"]}, ["k=1", "k=5"]), ({}, list(POLICIES))],
)
def test_of_the_prompts_compared_only_the_policies_that_matter_are_drawn(tmp_path, monkeypatch, validation, expected):
    """The first one, and the best on validation prompts; all where there are none."""
    design = Design(
        (parse_arm("psp"),), (8,), 1, 10, {"made": ["a ring"]}, "scenes", "", "scenes", "verifier",
        pool=4, policies=tuple(map(parse_policy, POLICIES)), validation=validation,
    )  # fmt: skip

    def sampled(design, searcher, guide, gold, folder, label, texts, policy, report):
        scores = np.full((1, 4), GOLD[policy.label])
        return Pool(policy.label, 10, scores, scores)

    monkeypatch.setattr(pool, "_pool", sampled)
    main, held_out = pools(design, None, None, None, tmp_path)
    assert [one.policy for one in main["made"]] == expected
    assert [one.policy for one in held_out.get("made", [])] == (list(POLICIES) if validation else [])
