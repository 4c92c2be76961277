"""What benchmarks say of their own figures: whether what was asked for is reached, and what a death has cost."""

from types import SimpleNamespace

import numpy as np

from benchmarks import overhead, path_regret, scaling, throughput
from benchmarks.kills import Kill, lacking, summary
from mcts_ray.search import Setting


def test_throughput_compares_each_ratio_with_what_is_wanted():
    good = {"engine / bare": 0.95, "engine / static": 1.6, "engine / pipeline": 4.0, "engine / unet": 0.9}
    assert all(throughput.holds(good).values()) and throughput.holds(good).keys() == throughput.WANTED.keys()
    assert throughput.holds(good | {"engine / bare": 0.94})["engine / bare"] is False


def test_scaling_judges_the_rows_of_which_something_is_wanted():
    rows = [{"denoisers": count, "efficiency": share} for count, share in ((1, 0.5), (16, 0.96), (64, 0.91))]
    assert scaling.judged(rows) and ["holds" in row for row in rows] == [False, True, True]
    assert not scaling.judged([{"denoisers": 16, "efficiency": 0.94}]) and not scaling.judged([{"denoisers": 64, "efficiency": float("nan")}])


def test_overhead_judges_every_row_of_every_part():
    good = {"scenes": {"mcts, ray": {"outside": 0.1}}, "batch": {"rows": {"16 jobs": {"outside": 0.01}}}}
    assert overhead.judged(good) and good["batch"]["rows"]["16 jobs"]["holds"]
    slow = {"manager": {"rows": {"16 jobs": {"leaves_per_second": 2500.0}, "1 job": {"leaves_per_second": 1999.0}}}}
    assert not overhead.judged(slow) and [row["holds"] for row in slow["manager"]["rows"].values()] == [True, False]
    assert not overhead.judged({"scenes": {"mcts, local": {"outside": 0.11}}})


def test_what_is_at_work_is_noted_where_it_is(monkeypatch):
    """As in an actor: from the first call on, and each span once."""
    from mcts_ray.diffusion.denoiser import Denoiser
    from mcts_ray.executor.scoring import Scoring
    from tests.diffusion.walks import engine_of, run, seed_walk, setting
    from tests.tiny import tiny_pipeline

    for owner, names in ((Denoiser, ("denoise", "score", "gains")), (Scoring, ("answer",))):
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))
    overhead.watch(None)
    overhead.watch(None)  # twice is once
    try:
        run(engine_of(tiny_pipeline()), [seed_walk("w", setting())])
        spans = overhead.watched(None)
        assert len(spans) == 10 and all(began <= ended for began, ended in spans) and overhead.watched(None) == []
    finally:
        del Denoiser.spans, Scoring.spans


def test_chaos_says_what_is_lacking():
    kills = [Kill("denoiser", "SIGKILL", 1.0, 5.0, 3, 8)] * 10 + [Kill("node", "remove_node", 2.0, None, 0)] * 9
    assert lacking(kills, ["denoiser"], 10, 1200.0) == [] and lacking(kills, ["node"], 9, 1.0) == []
    assert lacking(kills, ["denoiser", "node"], 10, 1300.0) == ["9 kills of a node, not 10", "it took 1300 s, more than 1200 s"]


def test_a_death_is_told_by_outcomes_by_the_victim_and_by_nfe():
    kills = [Kill("denoiser", "SIGKILL", 1.0, 5.0, 3, 8), Kill("denoiser", "ray.kill", 3.0, 9.0, 5, 0)]
    kills.append(Kill("node", "remove_node", 2.0, None, 7))
    found = summary(kills)
    assert found["denoiser"]["seconds"] == {"median": 2.0, "most": 3.0} and found["denoiser"]["back"] == {"median": 7.0, "most": 9.0}
    assert found["denoiser"]["nfe"]["most"] == 5 and found["denoiser"]["unreported"]["most"] == 8
    assert found["node"]["back"] is None and found["node"]["nfe"]["most"] == 7 and "manager" not in found


def test_a_search_in_a_tree_that_is_known_sees_the_same_paths_and_no_others():
    planned = SimpleNamespace(id="s", setting=Setting("a red circle", levels=30))
    whole = path_regret.bounded(planned, 2, 10**6)
    path_regret.replayed(whole, lambda work: 0.0)
    nodes = [candidate.node for candidate in whole.finished]
    assert whole.ledger.nfe == 256 and len(set(nodes)) == len(nodes) == 2 * 2**6
    guide = np.random.default_rng(0).permutation(len(nodes)) / len(nodes)
    tree = {"node": np.array(nodes), "guide": guide, "gold": 1 - guide}
    for arm in ("one by one", "blind", "gold"):
        found = path_regret.chosen(planned, tree, arm, 2, 256)
        assert found["best_chosen"] == 1 and found["ahead"] == 0 and found["images"] == len(nodes)
        lost, best = ("gold_lost", 1 - guide.min()) if arm == "gold" else ("guide_lost", 1 - guide.max())
        assert found[lost] == 0 and found["gold"] == best
    rest = path_regret.chosen(planned, tree, "an eighth, prune=statistical", 2, 256)
    assert rest["pruned"] > 0 and rest["images"] < len(nodes)
    part = path_regret.chosen(planned, tree, "half in flight", 2, 60)
    assert part["nfe"] <= 60 and 4 <= part["images"] < 60 and part["ahead"] == np.mean(guide > guide.max() - part["guide_lost"] + 1e-6)
    blind = path_regret.chosen(planned, tree, "blind", 2, 60)
    assert blind == path_regret.chosen(planned, tree, "blind", 2, 60)
    assert blind["best_chosen"] * path_regret.DRAWS % 1 == 0 and 0 < blind["ahead"] < 0.5
    row = path_regret._summary([part, part], {"blind": [blind, blind]})
    assert row["gold_over_blind"][0] == round(part["gold"] - blind["gold"], 4) and row["images"] == part["images"]
