"""`mcts-ray train reward`: mistakes are one sentence before torch is loaded, and both kinds are carried out."""

import json
import sys
from types import ModuleType

import pytest

from mcts_ray.cli import run
from tests.reward.lrm.pictures import light_pairs, write_folder


@pytest.fixture
def mcts_ray(tmp_path, monkeypatch, capsys):
    """The command in an empty working directory; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = run([str(argument) for argument in ("train", "reward", *arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--kind", "clip", "--pairs", "p"], "unknown kind 'clip'; choose lrm or value"),
        (["--kind", "lrm", "--out", "o"], "the training data of --kind lrm is named by --pairs"),
        (["--kind", "value", "--pairs", "p", "--out", "o"], "the training data of --kind value is named by --data"),
        (["--kind", "lrm", "--pairs", "p"], "--out is missing"),
        (["--kind", "lrm", "--pairs", "p", "--trajectories", 3], "--trajectories is an option of --kind value with --collect"),
        (["--kind", "value", "--data", "d", "--collect", "--images", 3], "--images is an option of --kind lrm with --collect"),
        (["--kind", "value", "--data", "d", "--collect", "--renders", 0], "--renders is an option of --kind lrm with --collect"),
        (["--kind", "lrm", "--pairs", "p", "--out", "o", "--reward", "jpeg"], "--reward is an option with --collect; leave it out"),
        (["--kind", "lrm", "--pairs", "p", "--out", "o", "--prompts", "p.txt"], "--prompts is an option with --collect"),
        (["--kind", "lrm", "--pairs", "p", "--out", "o", "--images", 3], "--images is an option with --collect"),
        (["--kind", "value", "--data", "d", "--out", "o", "--count", 3], "--count is an option with --collect"),
        (["--kind", "lrm", "--pairs", "p", "--collect", "--limit", 3], "--limit is an option of --kind value with --collect"),
        (["--kind", "value", "--data", "d", "--out", "o", "--levels", 3], "--levels is an option with --collect"),
        (["--kind", "lrm", "--pairs", "p", "--collect", "--out", "o"], "--out is an option without --collect; leave it out"),
        (["--kind", "value", "--data", "d", "--collect", "--steps", 3], "--steps is an option without --collect"),
        (["--kind", "value", "--data", "d", "--collect", "--trajectories", 1], "--trajectories"),
        (["--kind", "lrm", "--pairs", "p", "--out", "o"], "there are no pairs at p"),
        (["--kind", "lrm", "--pairs", "gone", "--out", "o"], "line 1 of gone/manifest.jsonl names the image a.png"),
        (["--kind", "value", "--data", "d", "--out", "o"], "there is no data at d"),
        (["--kind", "lrm", "--pairs", "good", "--out", "o", "--device", "tpu"], "unknown device 'tpu'"),
        (["--kind", "lrm", "--pairs", "good", "--out", "file/o"], "directory file/o cannot be written"),
        (["--kind", "lrm", "--pairs", "good", "--out", "o", "--model", "nothing"], "unknown model 'nothing'"),
        (["--kind", "lrm", "--pairs", "p", "--collect", "--prompts", "none.txt"], "prompts file none.txt cannot be read"),
        (["--kind", "lrm", "--pairs", "p", "--collect", "--prompts", "p.txt"], "'a fox' is outside the scenes grammar"),
    ],
)
def test_mistakes(mcts_ray, tmp_path, arguments, sentence):
    (tmp_path / "file").write_text("")
    (tmp_path / "p.txt").write_text("a fox\n")
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "manifest.jsonl").write_text('{"prompt": "a fox", "better": "a.png", "worse": "b.png"}\n')
    write_folder(tmp_path / "good", light_pairs(2))
    code, out, err = mcts_ray(*arguments)
    assert code == 2 and not out and sentence in err and err.count("\n") == 1, err


def test_pairs_are_collected_and_trained_on(mcts_ray, tiny_folder, tmp_path):
    (tmp_path / "p.txt").write_text("a fox\na hen\n")
    common = ["--kind", "lrm", "--model", tiny_folder, "--pairs", "pairs", "--threads", 1]
    code, out, err = mcts_ray(*common, "--collect", "--reward", "jpeg", "--prompts", "p.txt", "--images", 2, "--json")
    assert code == 0 and json.loads(out) == {"out": "pairs"} and "2 pairs of 2 prompts" in err
    code, out, err = mcts_ray(*common, "--out", "lrm", "--steps", 1, "--json")
    assert code == 0 and json.loads(out) == {"out": "lrm"} and "lrm 1/1 · loss" in err
    assert {"config.json", "model.safetensors", "metrics.json"} <= {path.name for path in (tmp_path / "lrm").iterdir()}


def test_the_value_head_is_collected_and_trained_by_its_own_package(mcts_ray, tiny_folder, tmp_path, monkeypatch):
    calls = []
    for name in ("train", "collect"):
        module = ModuleType(f"mcts_ray.reward.value.{name}")
        module.run = lambda *arguments, name=name, **options: calls.append((name, arguments, options)) or tmp_path / name
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "mcts_ray.reward.value", ModuleType("mcts_ray.reward.value"))
    common = ["--kind", "value", "--model", tiny_folder, "--data", "d"]
    assert mcts_ray(*common, "--collect", "--reward", "jpeg", "--trajectories", 7, "--seed", 3, "--guidance", 2, "--limit", 9)[0] == 0
    (tmp_path / "d").mkdir(exist_ok=True)
    assert mcts_ray(*common, "--out", "o", "--steps", 5, "--no-resume", "--device", "cpu")[0] == 0
    (_, collected, how), (_, trained, options) = calls
    assert [str(value) for value in collected] == [str(tiny_folder), "jpeg", "None", "d"]
    assert set(how) == {"trajectories", "guidance", "limit", "seed", "device", "threads", "report"}
    assert (how["trajectories"], how["guidance"], how["limit"], how["seed"]) == (7, 2, 9, 3)
    assert [str(value) for value in trained] == [str(tiny_folder), "d", "o"]
    assert set(options) == {"steps", "seed", "resume", "device", "threads", "report"} and not options["resume"]
