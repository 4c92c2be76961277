"""Figures of made-up rows."""

from dataclasses import replace

import numpy as np
import pytest

from mcts_ray.compare.design import Design, parse_arm, parse_policy, with_oracles
from mcts_ray.compare.page import page
from mcts_ray.compare.pool import Pool, best_policy
from mcts_ray.compare.summary import anytime, per_prompt, summarise, write_csv

RNG = np.random.default_rng(0)
PROMPTS = 30
GUIDE_PN = RNG.random((PROMPTS, 32))
POOLS = [Pool("k=1", 10, GUIDE_PN, GUIDE_PN), Pool("k=2", 5, GUIDE_PN, GUIDE_PN + 0.01)]


def _row(arm, prompt, seed, gold):
    costs = {"nfe": 80, "decodes": 8, "model_forwards": 160, "busy_seconds": 1.0, "failed_units": 0}
    scores = {"guide": gold, "gold": gold, "passed": 0.0, "diversity": None}
    cell = {"set": "made", "arm": arm, "times": 8, "seed": seed, "prompt": prompt}
    return {**cell, **scores, **costs, "curve": [[10, 0.1, 0.1], [80, gold, gold]]}


def _design(*arms):
    settings = dict(model="scenes", weights="", reward="scenes", gold="verifier", pool=32)
    policies = (parse_policy("k=1"), parse_policy("k=2"))
    return Design(tuple(map(parse_arm, arms)), (8,), 2, 10, {"made": ["a ring"] * PROMPTS}, policies=policies, **settings)


def test_best_of_n_by_the_best_policy_is_told_apart_from_the_tree():
    by_hand = POOLS[0].at(80)
    rows = [_row("best-of-n", p, s, by_hand[p]) for p in range(PROMPTS) for s in range(2)]
    rows += [_row("mcts", p, s, by_hand[p] + 0.02) for p in range(PROMPTS) for s in range(2)]
    one = summarise(_design("best-of-n", "mcts"), rows, {"made": POOLS}, {"made": POOLS})["sets"]["made"]
    plain, tree = one["rows"]
    assert one["pool"]["best"] == "k=2" and one["pool"]["first"] == "k=1"
    assert plain["multiplier_first"]["ratio"] == pytest.approx(1) and "difference" not in plain
    assert plain["multiplier_best"]["ratio"] < tree["multiplier_best"]["ratio"] < tree["multiplier_first"]["ratio"]
    assert tree["difference"]["gold"] == pytest.approx((0.02, 0.02, 0.02))
    assert tree["difference_sd"]["gold"] == pytest.approx(0.02 / POOLS[0].sd["gold"], abs=1e-3)


def test_the_best_policy_is_that_of_the_validation_prompts():
    assert best_policy(POOLS, [40, 80]) == "k=2"
    assert best_policy([POOLS[0], Pool("k=2", 5, -GUIDE_PN, GUIDE_PN)], [40, 80]) == "k=1"
    assert best_policy(POOLS, [10_000]) == "k=2"


def test_seeds_are_averaged_within_a_prompt_and_failures_left_out():
    rows = [_row("mcts", 0, 0, 0.0), _row("mcts", 0, 1, 1.0), _row("mcts", 1, 0, None)]
    np.testing.assert_array_equal(per_prompt(rows, "gold", 2), [0.5, np.nan])


def test_anytime_curves_begin_where_every_search_has_an_image():
    rows = [{"curve": [[10, 0.0, 0.2], [40, 1.0, None]]}, {"curve": [[20, 0.5, 0.4]]}]
    curve = anytime(rows, 80)
    assert curve[0] == [20, 0.25, 0.3] and curve[-1] == [80, 0.75, None]
    assert anytime([{"curve": []}], 80) == []
    assert anytime([*rows, {"curve": []}], 80) == curve  # `without_image` counts it


@pytest.mark.parametrize("gold, highest_P", [("verifier", np.ones(PROMPTS)), ("jpeg", GUIDE_PN.max(1))])
def test_lost_gold_is_split_into_errors_of_the_search_and_of_the_guide(gold, highest_P):
    design = replace(_design("mcts"), gold=gold)
    design = replace(design, arms=tuple(with_oracles(design.arms)))
    rows = [_row(label, p, 0, value) for p in range(PROMPTS) for label, value in (("mcts", 0.2), ("mcts (oracle)", 0.7))]
    plain, oracle = summarise(design, rows, {"made": POOLS}, {"made": POOLS})["sets"]["made"]["rows"]
    assert plain["reward_error"][0] == pytest.approx(0.5) and "reward_error" not in oracle
    lost = (highest_P - 0.2).mean()
    assert plain["reward_error"][0] + plain["search_error"][0] == pytest.approx(lost, abs=1e-3)


def test_counts_of_pruning_are_told_of_the_searches_that_prune(tmp_path):
    """Means in the summary, every search in the table, those that are not zero on the page."""
    arms = ("mcts", "mcts,prune=stages")
    rows = [_row(arm, p, s, 0.5) for arm in arms for p in range(PROMPTS) for s in range(2)]
    pruning = [row | {"pruning_pruned": 2 + row["seed"], "pruning_revived": 0} for row in rows if row["arm"] == arms[1]]
    rows = [*rows[: len(rows) // 2], *pruning]
    design = _design(*arms)
    summary = summarise(design, rows, {"made": POOLS}, {"made": POOLS})
    plain, other = summary["sets"]["made"]["rows"]
    assert other["pruning"] == {"pruned": 2.5, "revived": 0.0} and "pruning" not in plain
    write_csv(tmp_path / "rows.csv", rows)
    header, first, *_, last = (tmp_path / "rows.csv").read_text().splitlines()
    assert header.endswith(",diversity,pruning_pruned,pruning_revived") and first.endswith(",,,") and last.endswith(",,3,0")
    head = {**design.to_dict(), "sets": {"made": PROMPTS}, "validation": {}}
    assert "<td>pruned 2.5</td>" in page({"design": head, **summary})
    write_csv(tmp_path / "rows.csv", rows[:2])
    assert (tmp_path / "rows.csv").read_text().splitlines()[0].endswith(",diversity")
