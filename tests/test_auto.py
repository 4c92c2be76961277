"""`algorithm auto`: what it takes, and that it says why."""

import json

import pytest
from typer.testing import CliRunner

from mcts_ray import SearchConfig, Searcher
from mcts_ray.auto import choose
from mcts_ray.cli import app, run


@pytest.mark.parametrize("levels, k, calls", [(30, 4, 8), (15, 2, 8), (10, 1, 10), (1, 1, 1)])
@pytest.mark.parametrize("trajectories, algorithm", [(1, "best-of-n"), (7, "best-of-n"), (8, "mcts"), (60, "mcts")])
def test_on_scenes_it_takes_trajectories_of_about_eight_calls(levels, k, calls, trajectories, algorithm):
    choice = choose(SearchConfig(algorithm="auto", levels=levels, budget=trajectories * calls), "scenes")
    assert choice.config.algorithm == algorithm and choice.config.k == k and choice.config.trajectory_nfe == calls
    assert "quality-mcts-5.json" in choice.why


@pytest.mark.parametrize("times, algorithm", [(1, "best-of-n"), (2, "mcts"), (4, "mcts"), (8, "mcts"), (16, "mcts")])
def test_at_the_budgets_that_were_measured_it_takes_what_was_better_there(times, algorithm):
    choice = choose(SearchConfig(algorithm="auto", budget=30 * times), "scenes")
    assert choice.config.algorithm == algorithm and "not measured" not in choice.why


@pytest.mark.parametrize("times, share", [(2, 0.5), (4, 0.5), (8, 0.5), (16, 0.125), (32, 0.125)])
def test_small_trees_have_half_of_their_budget_in_flight(times, share):
    assert choose(SearchConfig(algorithm="auto", budget=30 * times), "scenes").config.in_flight_share == share
    assert choose(SearchConfig(algorithm="auto", budget=30 * times, in_flight_share=0.3), "scenes").config.in_flight_share == 0.3


def test_it_says_what_was_not_measured():
    assert choose(SearchConfig(algorithm="auto", levels=15), "scenes").why.endswith("T = 15 and k = 2 were not measured themselves")


@pytest.mark.parametrize(
    "asked, why",
    [
        ({"k": 1}, "with k = 1 a trajectory has 30 calls"),
        ({"grid": "ays", "levels": 10, "budget": 240}, "no tree has been shown to be better where grid is set"),
        ({"jump": "ige"}, "where jump is set"),
        ({"eta": 1.0}, "where eta is set"),
        ({"max_decodes": 6}, "a quarter to a half more images than best-of-n"),
        ({"reward": "jpeg"}, "searches by jpeg were not compared"),
    ],
)
def test_where_no_comparison_speaks_for_a_tree_it_takes_best_of_n(asked, why):
    choice = choose(SearchConfig(algorithm="auto", **asked), "scenes")
    assert choice.config.algorithm == "best-of-n" and why in choice.why and "quality-mcts" not in choice.why
    assert {name: getattr(choice.config, name) for name in asked} == asked


def test_it_says_that_of_rich_searches_nothing_is_certain():
    whys = [choose(SearchConfig(algorithm="auto", budget=budget), "scenes").why for budget in (480, 488)]
    assert "certain" not in whys[0] and whys[1].endswith("; of more than 60 trajectories, which this budget pays for, nothing is certain")


def test_a_reward_that_comes_with_the_model_counts_too():
    assert "a reward of your own" in choose(SearchConfig(algorithm="auto"), "scenes", lambda images, prompts: []).why
    assert choose(SearchConfig(algorithm="auto"), "scenes", "scenes").config.algorithm == "mcts"


def test_what_it_does_not_take_is_not_asked_of_the_budget():
    """A trajectory by the jumps that it takes costs 8 NFE, where one by single levels would cost 30."""
    assert choose(SearchConfig(algorithm="auto", budget=20), "scenes").config.k == 4
    with pytest.raises(ValueError, match="algorithm auto: budget 7 is below one trajectory, which needs 8 NFE"):
        choose(SearchConfig(algorithm="auto", budget=7), "scenes")


def test_what_goes_with_its_choice_may_be_set():
    assert choose(SearchConfig(algorithm="auto", fuse="innovation", prune="statistical"), "scenes").config.fuse == "innovation"
    with pytest.raises(ValueError, match="algorithm auto: best-of-n has no siblings to fuse"):
        choose(SearchConfig(algorithm="auto", fuse="innovation", budget=30), "scenes")


def test_what_was_asked_for_stays():
    choice = choose(SearchConfig(algorithm="auto", k=3, seed=5, phi=0.9), "scenes")
    assert (choice.config.k, choice.config.seed, choice.config.phi, choice.config.phi_schedule) == (3, 5, 0.9, "constant")


def test_of_a_model_without_a_comparison_it_says_so():
    choice = choose(SearchConfig(algorithm="auto"), "owner/name")
    assert choice.config == SearchConfig() and "no comparison of owner/name is committed" in choice.why


def test_any_other_algorithm_is_left_alone():
    config = SearchConfig(algorithm="psp")
    assert choose(config, "scenes").config is config and choose(config, "scenes").why is None


def test_a_search_by_it_says_why(tiny_folder, tmp_path):
    config = SearchConfig(algorithm="auto", levels=4, budget=8, reward="jpeg")
    result = Searcher.from_pretrained(str(tiny_folder), device="cpu")("a red circle", config, out=tmp_path / "run")
    assert result.config.algorithm == "best-of-n" and result.notes[0].startswith("auto takes best-of-n: no comparison of ")
    job = json.loads((tmp_path / "run" / "job.json").read_text())
    assert job["config"]["algorithm"] == "best-of-n"


def test_a_dry_run_counts_what_it_takes(tiny_folder):
    options = ["--model", str(tiny_folder), "--reward", "jpeg", "--levels", "4", "--budget", "9", "--executor", "local", "--dry-run", "--json"]
    done = CliRunner().invoke(app, ["search", "a red circle", "--algorithm", "auto", *options])
    assert done.exit_code == 0 and json.loads(done.stdout)["nfe"] == 8


@pytest.mark.parametrize("options", [["--budget", "7"], ["--budget", "30", "--set", "fuse=innovation"]])
def test_what_cannot_be_is_said_before_anything_is_loaded(options, capsys):
    assert run(["search", "a red circle", "--algorithm", "auto", *options, "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mcts-ray: algorithm auto: ") and said.count("\n") == 1
