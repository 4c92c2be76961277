import copy

import pytest

from mcts_ray.audit.verdict import longest_run, trusted, verdict

SPEARMAN = [0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.85, 0.9, 0.97, 1.0]  # at levels 10 ... 1


def level(number, rank, **more):
    row = {"level": number, "share": (11 - number) / 10, "ece": 0.02, "kept_half": 0.5 + rank / 2, "kept_quarter": rank}
    for suffix in ("", "_gold"):
        row |= {f"spearman{suffix}": rank, f"spearman{suffix}_ci": [rank - 0.08, rank + 0.08]}
    return row | more


def sibling(number, reached, high=None, ceiling=0.8):
    row = {"level": number, "share": (11 - number) / 10, "spearman": 0.3, "spearman_ci": [0.1, 0.5], "ceiling_of_means": ceiling}
    return row | {"ceiling_of_means_guide": ceiling, "of_ceiling_guide": reached, "of_ceiling_guide_high": high or reached + 0.05}


def found(levels=None, siblings=(), guide=0.6, optimisation=None):
    rows = levels or [level(10 - place, rank) for place, rank in enumerate(SPEARMAN)]
    judges = {"spearman": guide, "spearman_ci": [guide - 0.1, guide + 0.1]}
    return {"scores": {"value": {"levels": rows, "siblings": list(siblings)}}, "guide_and_gold": judges, "over_optimisation": optimisation}


def told(**options):
    return verdict(found(**options))["scores"]["value"]


def test_where_it_is_trusted_and_when_to_prune():
    one = told()
    assert (one["from"], one["to"], one["from_share"]) == (8, 1, 0.3)
    assert (one["prune_softly"], one["prune_hard"]) == (6, 4)
    assert one["sum"].startswith("value: trustworthy from level 8 to 1 (from 30% of the trajectory on); prune no earlier than level 6")
    assert "at 25% (level 8) 0.30 [0.22, 0.38]" in one["sentences"][0] and "at 50% (level 6) 0.60" in one["sentences"][0]


def test_a_score_that_never_ranks():
    one = told(levels=[level(n, 0.1) for n in range(10, 0, -1)])
    assert one["from"] is one["to"] is one["prune_softly"] is None
    assert "trustworthy at no level; do not prune by it" in one["sum"]


def test_a_level_that_does_not_know_how_sure_it_is_is_not_trusted():
    rows = found()["scores"]["value"]["levels"]
    rows[4]["ece"] = 0.2
    assert [row["level"] for row in longest_run(rows)] == [5, 4, 3, 2, 1]
    assert any("calibration error above 0.05) at level 6, worst 0.20" in sentence for sentence in told(levels=rows)["sentences"])
    assert not trusted(level(5, 0.4) | {"spearman_ci": [0.1, 0.7]}) and not trusted(level(5, 0.4) | {"spearman": None})


@pytest.mark.parametrize(
    "siblings, retrain, words",
    [
        ([], None, "--siblings"),
        ([sibling(6, 0.9)], False, "not needed: among siblings it reaches 90%"),
        ([sibling(6, 0.7)], False, "help a little"),
        ([sibling(6, 0.4)], True, "Retrain it: among siblings it reaches 40%"),
        ([sibling(6, 0.4, high=0.9)], None, "needs more prompts"),
        ([sibling(6, 0.4, ceiling=0.1)], False, "decided too little"),
    ],
)
def test_retrain_or_not_and_why(siblings, retrain, words):
    one = told(siblings=siblings)
    assert one["retrain"] is retrain and words in one["why"] and one["sentences"][-1] == one["why"]


def optimisation(drop, beyond):
    curve = [{"n": 16, "gold": [0.4, 0.3, 0.5], "guide": [1.8, 1.7, 1.9]}]
    return {"curve": curve, "peak_n": 8, "largest_n": 16, "drop": drop, "beyond_regression": beyond}


def test_guide_and_gold():
    weak = verdict(found(guide=0.3))["guide"]
    assert "a better guide would gain more" in weak[0] and "not known" in weak[1]
    turned = verdict(found(optimisation=optimisation([-0.3, -0.4, -0.2], [-0.5, -0.6, -0.4])))["guide"]
    assert "highest at best of 8 and has lost 0.30 sd at best of 16" in turned[1] and "0.50 sd less" in turned[2]
    sound = verdict(found(optimisation=optimisation([0.0, 0.0, 0.0], [-0.1, -0.3, 0.1])))["guide"]
    assert "does not turn over up to best of 16: +0.40 sd, where the guide gains +1.80" in sound[1] and "nothing is exploited" in sound[2]


def test_scores_are_held_against_the_first():
    both = found()
    both["scores"] = {"x0": both["scores"]["value"], "value": copy.deepcopy(both["scores"]["value"])}
    for row in both["scores"]["value"]["levels"]:
        row["over_first"] = [0.1, 0.05, 0.15] if row["level"] > 5 else [0.0, -0.05, 0.05]
    assert "It ranks better than x0 at levels 10 to 6." in verdict(both)["scores"]["value"]["sentences"]
