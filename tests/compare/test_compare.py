"""The command end to end on the tiny pipeline and on scenes: files, going on, mistakes."""

import csv
import json
from pathlib import Path

import pytest

from mcts_ray import Searcher, cli
from mcts_ray.compare.design import parse_arm
from mcts_ray.compare.request import make_comparison

ARMS = ["--arm", "best-of-n", "--arm", "psp", "--arm", "mcts,prune=statistical"]
SMALL = ["--executor", "local", "--levels", 4, "--times", "2,3", "--count", 2, "--json"]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("compare_judges.py").write_text("def dark(images, prompts):\n    return -images.mean((1, 2, 3))\n")
    Path("prompts.csv").write_text("Prompts,Category\na photo of a bench,x\na photo of two clocks,y\n")


@pytest.fixture
def compare(capsys):
    """Run `mcts-ray compare`; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        code = cli.run(["compare", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_any_model_with_prompts_from_a_file(compare, tiny_folder):
    model = ["--model", tiny_folder, "--reward", "jpeg", "--gold", "compare_judges:dark", "--prompts", "prompts.csv"]
    arguments = [*ARMS, *SMALL, *model, "--oracle", "--pool", 4, "--policy", "k=1", "--out", "c"]
    code, out, err = compare(*arguments)
    assert code == 0, err
    found = json.loads(out)
    rows = found["sets"]["prompts"]["rows"]
    labels = ["best-of-n", "psp", "mcts,prune=statistical"]
    assert [row["arm"] for row in rows[:6]] == [*labels, *(f"{label} (oracle)" for label in labels)]
    plain = rows[0]
    assert (plain["budget"], plain["nfe"], plain["searches"]) == (8, 8, 2) and plain["passed"] is None
    assert "difference" not in plain and rows[1]["difference"]["gold"] and plain["multiplier_first"] and plain["multiplier_best"]
    assert plain["reward_error"][0] >= 0  # the same finished samples, chosen by gold itself
    assert plain["search_error"][0] >= 0 and "search_error" not in rows[3]  # four samples of the pool hold the two of the search
    with open("c/rows.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["pruning_pruned"] != "") for line in lines if line["seed"] == "0"] == [line["arm"].startswith("mcts") for line in lines]
    assert len(lines) == 6 * 2 * 2 and {line["text"] for line in lines} == {"a photo of a bench", "a photo of two clocks"}
    page = Path("c/page.html").read_text()
    assert page.count("<svg") == 5 and "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "").replace("http://purl", "").replace("http://creative", "").replace("https://matplotlib", "")
    assert json.loads(Path("c/summary.json").read_text())["sets"] == found["sets"]


def test_sdxl_with_prompts_from_a_file(compare, tiny_xl_folder):
    model = ["--model", tiny_xl_folder, "--reward", "jpeg", "--gold", "compare_judges:dark", "--prompts", "prompts.csv"]
    code, out, err = compare("--arm", "best-of-n", "--arm", "psp", *SMALL, *model, "--out", "c")
    assert code == 0, err
    rows = json.loads(out)["sets"]["prompts"]["rows"]
    assert [(row["arm"], row["budget"], row["searches"]) for row in rows[:2]] == [("best-of-n", 8, 2), ("psp", 8, 2)]
    assert all(-255 < row["gold"][0] < 0 for row in rows) and Path("c/page.html").exists()


def test_a_run_that_is_cut_off_goes_on(compare, monkeypatch):
    arguments = [*ARMS, *SMALL, "--set-name", "medium", "--group", 1]
    code, whole, err = compare(*arguments, "--out", "whole")
    assert code == 0, err
    many, calls = Searcher.many, []

    def stop_at_the_third(self, prompts, config):
        calls.append(prompts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return many(self, prompts, config)

    monkeypatch.setattr(Searcher, "many", stop_at_the_third)
    code, _, err = compare(*arguments, "--out", "cut")
    assert code == 1 and "interrupted; the same command goes on in cut" in err
    assert len(list(Path("cut/groups").iterdir())) == 2
    code, again, err = compare(*arguments, "--out", "cut")
    assert code == 0 and len(calls) == 3 + 12 - 2
    whole, again = (_without_time(json.loads(text)["sets"]) for text in (whole, again))
    assert whole == again
    row = json.loads(next(Path("cut/groups").iterdir()).read_text())[0]
    assert row["curve"][-1][1:] == [row["guide"], row["gold"]] and row["passed"] in (0.0, 1.0)


def _without_time(value):
    if isinstance(value, dict):
        return {name: _without_time(inner) for name, inner in value.items() if name != "busy_seconds"}
    return [_without_time(inner) for inner in value] if isinstance(value, list) else value


def test_another_design_in_the_folder_is_refused(compare):
    Path("c").mkdir()
    Path("c/design.json").write_text('{"seeds": 3}')
    code, _, err = compare("--out", "c", *SMALL)
    assert code == 2 and "holds a comparison of another design" in err and "seeds" in err and err.count("\n") == 1


def test_a_pool_of_128_belongs_to_the_full_comparison():
    assert [make_comparison(["psp"], out=Path("c"), executor="local", full=full).design.pool for full in (True, False)] == [128, 0]


def test_a_jump_policy_is_not_chosen_on_scenes_for_prompts_of_another_world(tiny_folder):
    """Whatever the file is called; scenes' own sets have validation prompts."""
    Path("hard.txt").write_text("a photo of a bench\n")
    other = dict(model=str(tiny_folder), reward="jpeg", gold="compare_judges:dark", prompts_file=Path("hard.txt"))
    comparison = make_comparison(["psp"], out=Path("c"), executor="local", pool=4, **other)
    assert comparison.design.validation == {}
    assert make_comparison(["psp"], out=Path("c"), executor="local", pool=4).design.validation


def test_a_jump_policy_that_is_there_alone_needs_no_choice():
    designs = [make_comparison(["psp"], out=Path("c"), executor="local", pool=4, policies=some).design for some in (["k=4"], ["k=2", "k=4"])]
    assert [bool(design.validation) for design in designs] == [False, True]


def test_another_precision_is_another_comparison(compare):
    assert compare(*SMALL, "--arm", "best-of-n", "--times", 1, "--count", 1, "--out", "c")[0] == 0
    code, _, err = compare(*SMALL, "--arm", "best-of-n", "--times", 1, "--count", 1, "--dtype", "bf16", "--out", "c")
    assert code == 2 and "holds a comparison of another design" in err and "dtype" in err


def test_lists_in_an_arm_may_hold_commas():
    arm = parse_arm("best-of-n,jump=table,jump_table=[1,2,2],eta=1")
    assert arm.fields == {"jump": "table", "jump_table": [1, 2, 2], "eta": "1"} and arm.algorithm == "best-of-n"


MISTAKES = {
    "unknown arm": (["--arm", "best-of-m"], "unknown algorithm 'best-of-m'; did you mean 'best-of-n'"),
    "unknown field": (["--arm", "mcts,phy=1"], "there is no field 'phy'; did you mean 'phi'"),
    "bad value": (["--arm", "mcts,phi=much"], "arm mcts,phi=much: phi: input should be a valid number"),
    "field of the study": (["--arm", "mcts,budget=30"], "budget is the same for all; leave it out"),
    "not a field": (["--arm", "mcts,phi"], "'phi' must have the form name=value"),
    "an arm twice": (["--arm", "psp", "--arm", "psp"], "arm 'psp' is there twice"),
    "below a trajectory": (["--arm", "best-of-n,levels=60", "--times", "1"], "budget 30 is below one trajectory"),
    "no budgets": (["--times", "2,x"], "--times '2,x' must be whole numbers"),
    "zero budget": (["--times", "0"], "a budget is at least 1 times T"),
    "no prompts": (["--prompts", "none.txt"], "prompts file none.txt cannot be read"),
    "two kinds of prompts": (["--prompts", "prompts.csv", "--set-name", "hard"], "give one of them"),
    "outside the grammar": (["--prompts", "prompts.csv"], "outside the scenes grammar"),
    "unknown set": (["--set-name", "hardest"], "There is no prompt set 'hardest'"),
    "unknown gold": (["--gold", "beauty"], "unknown reward 'beauty'"),
    "no gold": (["--model", "some/model", "--reward", "jpeg"], "has no gold judge of its own; choose one with --gold"),
    "small pool": (["--pool", "1"], "--pool 1: a pool has from 2 to 1000 samples"),
    "bad policy": (["--pool", "4", "--policy", "kk=2"], "policy 'best-of-n,kk=2': there is no field 'kk'"),
    "guide as gold": (["--gold", "scenes"], "gold 'scenes' and guide 'scenes' share 'scenes'"),
    "guide with gold in it": (["--gold", "jpeg", "--reward", "scenes:1,jpeg:0.2"], "share 'jpeg'"),
    "setting of the study": (["--set", "budget=30"], "--set budget: the comparison itself sets budget"),
    "no oracle": (["--arm", "psp,step_reward=lrm", "--oracle"], "its steps follow a network that has learned the guide"),
    "unwritable": (["--out", "/dev/null/c"], "comparison folder /dev/null/c cannot be written"),
    "foreign folder": (["--out", "."], "holds something else than a comparison"),
    "no cluster": (["--executor", "local", "--workers", "2"], "--workers and --address belong to --executor ray"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2_before_anything_is_loaded(compare, monkeypatch, name):
    arguments, message = MISTAKES[name]
    monkeypatch.setattr(Searcher, "from_pretrained", lambda *_: pytest.fail("the model was loaded"))
    code, out, err = compare("--out", "c", *arguments)
    assert (code, out) == (2, "") and message in err and err.startswith("mcts-ray: ") and err.count("\n") == 1
    assert not Path("c").exists()
