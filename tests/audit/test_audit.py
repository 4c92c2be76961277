"""The command end to end on scenes and on the tiny pipeline: files, going on, calibration, mistakes."""

import json
import re
from pathlib import Path

import pytest

from mcts_ray import SearchConfig, Searcher, cli
from mcts_ray.executor.in_process import InProcess
from mcts_ray.reward.calibrate import Calibration, Level
from mcts_ray.reward.step import SHIPPED
from mcts_ray.scenes.prompts import prompts

SMALL = [
    "--executor",
    "local",
    "--levels",
    5,
    "--count",
    2,
    "--trajectories",
    4,
    "--siblings",
    "1x3x2",
    "--pool",
    "2x4",
    "--paths",
    "1x1",
    "--path-levels",
    3,
]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a photo of a bench\na photo of two clocks\n")
    Path("loud.txt").write_text("".join(f"{prompt.upper()}.\n" for prompt in prompts("hard", "test")[:2]))
    Path("judges.py").write_text(
        "import numpy as np\n"
        "def dark(images, prompts):\n    return -images.mean((1, 2, 3))\n"
        "def half(images, prompts):\n    return -images.mean((1, 2, 3)) / 2 + 3\n"
        "def sometimes(images, prompts):\n    return [float('nan') if i.mean() % 0.01 < 0.009 else i.mean() for i in images]\n"
    )


@pytest.fixture
def audit(capsys):
    """Run `mcts-ray audit`; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        code = cli.run(["audit", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_scenes_with_a_calibration_that_a_search_then_uses(audit, monkeypatch):
    code, out, err = audit(*SMALL, "--split", "validation", "--calibrate", "c.json", "--out", "a", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["out"] == "a" and json.loads(Path("a/audit.json").read_text()) == {k: v for k, v in found.items() if k != "out"}
    assert [row["level"] for row in found["levels"]] == [5, 4, 3, 2, 1] and all(-1 <= row["spearman"] <= 1 for row in found["levels"])
    assert found["levels"] == found["scores"]["x0"]["levels"] and len(found["scores"]["x0"]["siblings"]) == 1
    assert found["scores"]["x0"]["paths"]["paths"] == 3 and found["verdict"]["headline"].startswith("x0: ")
    page = Path("a/audit.html").read_text()
    assert page.count("<svg") == 6 - (found["over_optimisation"] is None) and "Verdict" in page
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)

    calibration = Calibration.load("c.json")
    assert (calibration.model, calibration.step_reward, calibration.reward, calibration.T) == ("scenes", "x0", "scenes", 5)
    searcher = Searcher.from_pretrained("scenes", "cpu")
    config = SearchConfig(algorithm="mcts", levels=6, budget=48, step_reward="x0", calibration="c.json", branchings=5)
    plan = searcher.backend.plan(["a red circle"], config, None)
    tree = plan.searches[0].tree
    assert tree.calibration(6, 0.3).mean == pytest.approx(calibration.on(plan.log_snr)(6, 0.3).mean)
    values = []
    for fields in ({}, {"calibration_refresh": False}, {"calibration": "none"}):
        result = searcher("a red circle", config.model_copy(update=fields))
        values.append([(node["id"], node["value"]) for node in result.tree["nodes"]])
    assert values[0] != values[1] != values[2]

    def gone(*_):
        raise AssertionError("a search is carried out again")

    monkeypatch.setattr(InProcess, "run", gone)  # all groups are there
    assert audit(*SMALL, "--split", "validation", "--calibrate", "c.json", "--out", "a", "--json")[1] == out
    code, _, err = audit(*SMALL, "--split", "validation", "--out", "a", "--trajectories", 5)
    assert code == 2 and "folder a holds an audit of another design (trajectories differ)" in err
    code, _, err = audit(*SMALL, "--split", "validation", "--out", "a", "--dtype", "bf16")
    assert code == 2 and "folder a holds an audit of another design (dtype differ)" in err


def test_a_step_model_of_another_generator_is_found_out_before_anything_is_measured(audit, tiny_folder):
    model = ["--model", tiny_folder, "--reward", "jpeg", "--gold", "judges:dark", "--prompts", "prompts.txt", "--set", "guidance=2"]
    value = ["--step-reward", "x0", "--step-reward", "value", "--step-model", f"value={SHIPPED / 'value'}"]
    code, _, err = audit(*SMALL, *model, *value, "--out", "a")
    assert code == 2 and "value" in err.splitlines()[-1] and not Path("a").exists(), err


def test_any_model_and_judges_from_a_module(audit, tiny_folder):
    model = ["--model", tiny_folder, "--reward", "jpeg", "--gold", "judges:dark", "--prompts", "prompts.txt", "--set", "guidance=2"]
    code, out, err = audit(*SMALL, *model, "--group", 1, "--out", "a")
    assert code == 0, err
    assert "x0:" in out and "a/audit.html" in out
    assert sorted(path.name for path in Path("a/groups").iterdir()) == [
        f"{part}-{at}.npz" for part in ("paths-x0", "pool", "siblings-x0", "trajectories-x0") for at in (0, 1)[: 1 + ("paths" not in part)]
    ]


def test_gold_that_is_the_guide_under_another_name(audit, tiny_folder):
    judges = ["--model", tiny_folder, "--reward", "judges:dark", "--gold", "judges:half", "--prompts", "prompts.txt"]
    code, _, err = audit(*SMALL, "--siblings", 0, "--pool", 0, "--paths", 0, *judges, "--out", "a")
    assert code == 2 and "gold puts all images in exactly the order of the guide" in err


def test_a_reward_that_is_not_finite(audit, tiny_folder):
    judges = ["--model", tiny_folder, "--reward", "judges:sometimes", "--gold", "judges:dark", "--prompts", "prompts.txt"]
    code, _, err = audit(*SMALL, *judges, "--out", "a")
    assert code == 2 and "returned nan" in err.splitlines()[-1]
    code, _, err = audit(*SMALL, *judges, "--reward", "jpeg", "--gold", "judges:sometimes", "--out", "b")
    assert code == 2 and "the gold judge gave no finite score" in err


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--gold", "scenes"], "share 'scenes': a guide that judges itself is always right"),
        (["--reward", "mcts_ray.compare.judge:verifier"], "share 'verifier'"),
        (["--reward", "scenes:1,jpeg:0.1", "--gold", "jpeg"], "share 'jpeg'"),
        (["--calibrate", "c.json"], "must not be fitted on test prompts, as those of hard test are"),
        (["--step-reward", "none"], "none is no score"),
        (["--step-reward", "x0", "--step-reward", "x0"], "x0 is there twice"),
        (["--step-reward", "y0"], "step score y0: step_reward: input should be"),
        (["--step-model", "value=x"], "must be NAME=PATH"),
        (["--step-reward", "value", "--step-model", "value=nowhere"], "step_model 'nowhere' is no folder"),
        (["--siblings", "4x4"], "'4x4' must be levels x children x completions, as in 4x8x12, or 0"),
        (["--siblings", "1x2x2"], "at least 3 children"),
        (["--pool", "2x3"], "at least 4 samples"),
        (["--count", 1], "1 prompts are too few"),
        (["--trajectories", 3], "3 trajectories are too few"),
        (["--set", "eta=1"], "eta is no setting of an audit"),
        (["--levels", 4, "--siblings", "2x3x2"], "T = 4 has no 2 levels of 3 or more"),
        (["--set", "phi=0"], "children of level 3 of 5 would be equal"),
        (["--split", "tset"], "no split 'tset'"),
        (["--prompts", "prompts.txt"], "a photo of a bench"),
        (["--prompts", "prompts.txt", "--set-name", "hard"], "two ways to say the same"),
        (["--model", "nowhere", "--reward", "jpeg"], "no gold judge of its own"),
        (["--executor", "cloud"], "unknown executor"),
        (["--split", "validation", "--calibrate", "."], "--calibrate . is a folder; name a file in it"),
        (["--prompts", "loud.txt", "--calibrate", "c.json"], "must not be fitted on test prompts, as those of loud.txt are"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_is_loaded(audit, monkeypatch, arguments, sentence):
    monkeypatch.setattr(Searcher, "from_pretrained", None)
    code, out, err = audit(*SMALL, "--out", "a", *arguments)
    assert (code, out) == (2, "") and sentence in err and len(err.strip().splitlines()) == 1, err
    assert not Path("a").exists()


def test_a_calibration_of_other_scores_is_refused_before_a_search_begins(capsys, monkeypatch):
    level = Level(1, 0.0, "linear", (0.0, 1.0), (0.0, 1.0), 0.5, 1.0, 1.0, 0.0, 0.0)
    Calibration("scenes", "x0", "scenes", 4, (level,)).save(Path("c.json"))
    monkeypatch.setattr(Searcher, "from_pretrained", None)
    search = ["search", "a red circle", "--algorithm", "mcts", "--set", "step_reward=x0"]
    for more, sentence in (
        (["--set", "calibration=c.json", "--reward", "jpeg"], "calibration c.json was made for reward 'scenes', not 'jpeg'"),
        (["--set", "calibration=d.json"], "calibration d.json cannot be read"),
        (["--set", "calibration=c.json", "--set", "step_reward=none"], "a calibration needs step scores"),
        (["--set", "calibration=c.json", "--algorithm", "psp"], "psp takes raw step scores"),
    ):
        assert cli.run([*search, *more]) == 2
        assert sentence in capsys.readouterr().err
