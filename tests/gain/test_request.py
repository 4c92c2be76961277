"""`mcts-ray train gain`: mistakes are one sentence before torch is loaded; collecting, training and searching in a row."""

import json

import pytest

from mcts_ray.cli import run


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--out is missing"),
        (["--out", "o"], "there are no transitions at d; make some with --collect"),
        (["--out", "o", "--limit", "2"], "--limit is an option with --collect; leave it out"),
        (["--out", "o", "--noises", "2"], "--noises is an option with --collect; leave it out"),
        (["--collect", "--no-resume"], "--no-resume is an option without --collect: transitions that are there stay"),
        (["--collect", "--steps", "2"], "--steps is an option without --collect; leave it out"),
        (["--prompts", "p.txt", "--out", "o"], "--prompts is an option with --collect"),
        (["--collect", "--device", "tpu"], "unknown device 'tpu'"),
        (["--collect", "--model", "nothing"], "unknown model 'nothing'"),
        (["--collect", "--prompts", "none.txt"], "prompts file none.txt cannot be read"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert run(["train", "gain", "--data", "d", *arguments]) == 2
    found = capsys.readouterr()
    assert not found.out and sentence in found.err and found.err.count("\n") == 1, found.err


def test_collect_train_search(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a fox\na hen\n")
    common = ["train", "gain", "--data", "d", "--model", str(tiny_folder), "--threads", "1", "--json"]
    sizes = ["--levels", "6", "--states", "2", "--noises", "2", "--reward", "jpeg", "--prompts", "p.txt"]
    assert run([*common, "--collect", *sizes]) == 0 and run([*common, "--out", "ige", "--steps", "2"]) == 0
    found = capsys.readouterr()
    assert found.out.splitlines() == ['{"out": "d"}', '{"out": "ige"}'] and "2 of 2 prompts" in found.err and "ige 2/2 · loss" in found.err
    search = ["search", "a fox", "--model", str(tiny_folder), "--reward", "jpeg", "--executor", "local", "--algorithm", "mcts", "--levels", "6"]
    assert run([*search, "--budget", "36", "--set", "jump=ige", "--set", "ige_model=ige", "--out", "r", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tree"]["nodes"] > 0
    online = [*search, "--set", "jump=ige", "--set", "ige_model=ige", "--set", "ige_choice=top-m", "--set"]
    assert run([*online, "ige_online=p.txt"]) == 2 and "ige_online p.txt cannot be written" in capsys.readouterr().err
    assert run([*online, "ige_online=o", "--budget", "36", "--out", "s"]) == 0
    job = json.loads((tmp_path / "s" / "job.json").read_text())
    assert job["config"]["ige_model"] == job["config"]["ige_online"] == str(tmp_path / "o")
    capsys.readouterr()
    assert run([*search, "--set", "jump=ige", "--set", "ige_model=ige", "--set", "ige_version=4"]) == 2
    assert "ige_model ige has no version 4; it has 0" in capsys.readouterr().err
