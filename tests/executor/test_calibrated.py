"""Calibrations in searches: which one is taken, and that its pairs reach the tree."""

from dataclasses import replace

import pytest

from mcts_ray import SearchConfig, Searcher
from mcts_ray.checks import find_calibration
from mcts_ray.reward.calibrate import Calibration, Level
from mcts_ray.reward.refresh import Refreshed
from mcts_ray.reward.step import step_key
from tests import scorers
from tests.tiny import tiny_pipeline


def calibration(reward="jpeg", step_reward="value", **fields):
    level = Level(3, 0.0, "linear", (-1.0, 1.0), (0.0, 1.0), 0.0, 1.0, 0.6, 0.4, 0.0, 0.2)
    return replace(Calibration("pipeline", step_reward, reward, 6, (level,)), **fields)


@pytest.fixture(scope="module")
def searcher():
    return Searcher(tiny_pipeline(), reward="jpeg")


@pytest.fixture
def plan(searcher, monkeypatch, tmp_path):
    """The calibration of a search with the step model in a folder, beside which one may lie."""
    scorers.use(monkeypatch)
    folder = scorers.folder(tmp_path, "eps")

    def run(**fields):
        fields = {"algorithm": "mcts", "levels": 6, "budget": 48, "step_reward": "value", "step_model": folder, **fields}
        return searcher.backend.plan(["a red circle"], SearchConfig(**fields), "jpeg").searches[0].tree.calibration

    run.folder = tmp_path / "eps"
    return run


def test_the_one_beside_the_step_model_is_taken_unless_it_is_of_another_reward(plan):
    assert plan() is None
    calibration("pickscore").save(plan.folder / "calibration.json")
    assert plan() is None
    calibration().save(plan.folder / "calibration.json")
    found = plan()
    assert isinstance(found, Refreshed) and found(3, 0.0).mean == 0.5 and found.calibration.T == 6
    assert isinstance(plan(calibration_refresh=False), Calibration)
    assert plan(calibration="none") is None


def test_one_that_was_asked_for_must_fit(plan, tmp_path):
    calibration("pickscore").save(tmp_path / "c.json")
    with pytest.raises(ValueError, match="was made for reward 'pickscore', not 'jpeg'"):
        plan(calibration=str(tmp_path / "c.json"))
    calibration(step_reward="x0").save(tmp_path / "c.json")
    with pytest.raises(ValueError, match="was made for step_reward 'x0', not 'value'"):
        plan(calibration=str(tmp_path / "c.json"))


@pytest.mark.parametrize("fields", [{"guidance": 3.0}, {"step_weights": "0" * 16}])
def test_one_of_another_guidance_or_of_other_weights_is_not_taken(plan, tmp_path, fields):
    (plan.folder / "model.safetensors").write_bytes(b"weights")
    calibration(**fields).save(plan.folder / "calibration.json")
    assert plan() is None
    calibration(guidance=7.5, step_weights=step_key("value", str(plan.folder))).save(plan.folder / "calibration.json")
    assert plan() is not None
    calibration(**fields).save(tmp_path / "c.json")
    with pytest.raises(ValueError, match=f"was made for {next(iter(fields))} "):
        plan(calibration=str(tmp_path / "c.json"))


def test_one_of_another_model_is_not_taken(tmp_path):
    calibration(model="owner/one", step_reward="x0").save(tmp_path / "c.json")
    config = SearchConfig(algorithm="mcts", step_reward="x0", reward="jpeg", calibration=str(tmp_path / "c.json"))
    assert find_calibration(config, "owner/one").model == "owner/one"
    with pytest.raises(ValueError, match="was made for model 'owner/one', not 'owner/two'"):
        find_calibration(config, "owner/two")


def test_its_pairs_reach_the_tree(searcher, plan):
    calibration().save(plan.folder / "calibration.json")
    fields = {"algorithm": "mcts", "levels": 6, "budget": 60, "step_reward": "value", "step_model": str(plan.folder), "guidance": 2.0}
    plain, offline, online = (
        searcher("a red circle", SearchConfig(**fields, **more)).tree["nodes"]
        for more in ({"calibration": "none"}, {"calibration_refresh": False}, {})
    )
    first = next(node for node in offline if node["score"] is not None)
    leaf = min((node for node in offline if node["level"] == 0), key=lambda node: offline.index(node))
    assert first["visits"] and first["value"] != leaf["value"]  # drawn to its prior
    values = [[node["value"] for node in nodes] for nodes in (plain, offline, online)]
    assert values[0] != values[1] != values[2]
    again = searcher("a red circle", SearchConfig(**fields)).tree["nodes"]
    assert again == online  # what a search learns stays in it
