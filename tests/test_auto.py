"""`algorithm auto`: what it takes, and that it says why."""

import json

import pytest
from typer.testing import CliRunner

from mcts_ray import SearchConfig, Searcher
from mcts_ray.auto import choose
from mcts_ray.cli import app


@pytest.mark.parametrize("levels, k", [(30, 4), (15, 2), (10, 1), (1, 1)])
@pytest.mark.parametrize("times, algorithm", [(1, "best-of-n"), (2, "mcts"), (8, "mcts")])
def test_on_scenes_it_takes_trajectories_of_about_eight_calls(levels, k, times, algorithm):
    choice = choose(SearchConfig(algorithm="auto", levels=levels, budget=times * levels), "scenes")
    assert choice.config.algorithm == algorithm and choice.config.k == k and choice.config.trajectory_nfe <= 10
    assert "quality-mcts-4.json" in choice.why


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
