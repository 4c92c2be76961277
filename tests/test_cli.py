"""The command line as a user meets it: exit codes, one sentence per mistake, JSON, files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcts_ray import __version__, cli
from mcts_ray.executor.backend import ActorsLost

PROMPT = "a red circle left of a blue square"
SMALL = ["--levels", "4", "--budget", "12", "--reward", "jpeg", "--executor", "local"]  # by actors: tests/ray


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mcts_ray(capsys):
    """Run the command line; returns (exit code, stdout, stderr)."""

    def run(*arguments):
        code = cli.run([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def test_version_and_help(mcts_ray):
    assert mcts_ray("--version") == (0, f"{__version__}\n", "")
    for arguments in ([], ["--help"], ["search", "--help"], ["train", "--help"], ["train", "scenes", "--help"]):
        code, out, err = mcts_ray(*arguments)
        assert code == 0 and "Usage: mcts-ray" in out and not err


def test_help_says_what_the_defaults_are(mcts_ray, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for command, defaults in (
        (["search"], ["[budget // 8]", "[runs/TIME-PROMPT]", "[best-of-n]"]),
        (["compare"], ["[best-of-n, psp, mcts]", "[k=1, k=2, k=4, jump=ays]", "[0, with --full 128]"]),
        (["train", "reward"], ["[those of the recipe]"]),
    ):
        out = mcts_ray(*command, "--help")[1]
        assert all(default in out for default in defaults)


def test_search_json_is_the_object_of_the_contract(mcts_ray, tiny_folder):
    code, out, err = mcts_ray("search", PROMPT, "--model", tiny_folder, *SMALL, "--images", 2, "--json")
    assert code == 0 and err == ""
    found = json.loads(out)
    names = ["run_dir", "prompt", "algorithm", "model", "reward", "gold", "images", "ledger", "tree"]
    assert list(found) == names
    assert found["prompt"] == PROMPT and found["algorithm"] == "best-of-n" and found["model"] == str(tiny_folder)
    assert found["reward"]["name"] == "jpeg" and found["reward"]["best"] >= found["reward"]["mean"]
    assert found["gold"] is None and found["ledger"]["nfe"] == 12
    assert [Path(path).is_file() for path in found["images"]] == [True, True]
    assert Path(found["run_dir"]).parent == Path("runs")
    assert {p.name for p in Path(found["run_dir"]).iterdir()} == {
        "job.json", "journal.jsonl", "metrics.jsonl", "tree.json", "report.html", "images"
    }  # fmt: skip


def test_search_prints_what_was_found(mcts_ray, tiny_folder):
    code, out, err = mcts_ray("search", PROMPT, "--model", tiny_folder, *SMALL, "--out", "run")
    assert code == 0 and err == ""
    assert out.splitlines()[0] == PROMPT and "12 NFE in" in out and "run/images/01.png" in out


def test_several_prompts_run_together_each_in_its_directory(mcts_ray, tiny_folder):
    Path("prompts.txt").write_text("# colours\na blue ring\n\na red circle\n")
    arguments = ["--model", tiny_folder, *SMALL, "--out", "all", "--json"]
    code, out, _ = mcts_ray("search", "a cyan cross", "--prompts", "prompts.txt", *arguments)
    found = json.loads(out)
    assert code == 0
    assert [one["run_dir"] for one in found] == ["all/001-a-cyan-cross", "all/002-a-blue-ring", "all/003-a-red-circle"]


def test_settings_go_over_options_and_those_over_the_file(mcts_ray, tiny_folder):
    Path("c.toml").write_text("levels = 5\nbudget = 5\nimages = 1\nreward = 'jpeg'\n")
    arguments = ["--config", "c.toml", "--levels", 4, "--budget", 8, "--set", "budget=4", "--set", "k=2", "--out", "run"]
    code, _, err = mcts_ray("search", PROMPT, "--model", tiny_folder, "--executor", "local", *arguments)
    config = json.loads(Path("run/job.json").read_text())["config"]
    assert code == 0, err
    assert (config["levels"], config["budget"], config["images"], config["k"]) == (4, 4, 1, 2)


def test_dry_run_says_the_cost_and_leaves_nothing(mcts_ray, tiny_folder):
    arguments = ["search", PROMPT, "a ring", "--model", tiny_folder, *SMALL, "--dry-run"]
    code, out, _ = mcts_ray(*arguments, "--json")
    estimate = json.loads(out)
    assert code == 0 and estimate["dry_run"] is True
    assert (estimate["prompts"], estimate["nfe"], estimate["decodes"]) == (2, 24, 6)
    assert estimate["seconds"] > 0 and estimate["memory"] > 2**20
    code, out, _ = mcts_ray(*arguments)
    assert code == 0 and "2 prompts: 24 NFE, 6 images; about" in out
    assert not list(Path().iterdir())


def test_a_step_model_in_one_file(mcts_ray, tiny_folder):
    import torch

    from tests.reward.lrm.published import flat_state
    from tests.tiny import tiny_pipeline

    torch.save(flat_state(tiny_pipeline()), "lrm.pt")
    search = ["search", PROMPT, "--model", tiny_folder, *SMALL, "--algorithm", "psp", "--set", "step_reward=lrm"]
    code, out, err = mcts_ray(*search, "--set", "step_model=lrm.pt", "--json")
    assert code == 0, err
    assert json.loads(out)["ledger"]["model_forwards"] > 24  # 12 NFE of guided pairs, and the half passes of lrm
    Path("lrm.txt").write_text("")
    code, _, err = mcts_ray(*search, "--set", "step_model=lrm.txt")
    assert code == 2 and "step_model 'lrm.txt' is no file of weights" in err and err.count("\n") == 1


def test_a_search_without_an_image_is_exit_code_1(mcts_ray, tiny_folder, monkeypatch):
    Path("bad_rewards.py").write_text("def none(images, prompts):\n    return [float('nan')] * len(prompts)\n")
    code, out, err = mcts_ray("search", PROMPT, "--model", tiny_folder, *SMALL, "--reward", "bad_rewards:none", "--json")
    assert code == 1 and json.loads(out)["images"] == []
    assert err.count("\n") == 1 and "3 units failed, the first because reward 'bad_rewards:none' returned nan" in err


MISTAKES = {
    "step model": (
        [PROMPT, "--algorithm", "psp", "--set", "step_reward=value", "--set", "step_model=nowhere"],
        "step_model 'nowhere' is no folder; name the folder of a value step model",
    ),
    "no prompt": ([], "no prompt was given"),
    "empty prompt": ([" "], "a prompt must not be empty"),
    "outside the grammar": (["a red circl"], "outside the scenes grammar: expected a shape but found 'circl' (did you mean 'circle'?)"),
    "no prompts file": (["--prompts", "none.txt"], "prompts file none.txt cannot be read"),
    "unknown model": ([PROMPT, "--model", "no-such-model"], "unknown model 'no-such-model'; use scenes, an existing folder, or"),
    "unknown reward": ([PROMPT, "--reward", "beauty"], "unknown reward 'beauty': choose aesthetic, clipscore, hps, jpeg,"),
    "no reward weights": ([PROMPT, "--reward", "jpeg:1,pickscore@./none:1"], "reward 'pickscore': there is no folder ./none"),
    "unknown algorithm": ([PROMPT, "--algorithm", "best-of-m"], "unknown algorithm 'best-of-m'; did you mean 'best-of-n'"),
    "unknown executor": ([PROMPT, "--executor", "mpi"], "unknown executor 'mpi'; choose ray or local"),
    "workers of no cluster": ([PROMPT, "--executor", "local", "--workers", "2"], "--workers and --address belong to --executor ray"),
    "no workers": ([PROMPT, "--workers", "0"], "--workers"),
    "no cluster there": ([PROMPT, "--address", "127.0.0.1:1"], "no Ray cluster answers at 127.0.0.1:1"),
    "no address": ([PROMPT, "--address", "here"], "address 'here' is not of the form host:port"),
    "small budget": ([PROMPT, "--budget", "29"], "budget 29 is below one trajectory, which needs 30 NFE"),
    "bad device": ([PROMPT, "--device", "tpu"], "unknown device 'tpu'; choose auto or cpu or cuda"),
    "bad dtype": ([PROMPT, "--dtype", "int8"], "unknown dtype 'int8'; choose fp32 or bf16 or fp16"),
    "no config": ([PROMPT, "--config", "none.json"], "config none.json cannot be read"),
    "bad setting": ([PROMPT, "--set", "kk=2"], "there is no field 'kk'"),
    "bad value": ([PROMPT, "--set", "k=two"], "k: input should be a valid integer"),
    "no setting": ([PROMPT, "--set", "k"], "--set 'k' must have the form name=value"),
    "bad number": ([PROMPT, "--budget", "many"], "--budget"),
    "unknown option": ([PROMPT, "--budgets", "3"], "--budgets"),
    "unwritable directory": ([PROMPT, "--out", "/dev/null/run"], "run directory /dev/null/run cannot be written"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(mcts_ray, name):
    arguments, message = MISTAKES[name]
    code, out, err = mcts_ray("search", *arguments)
    assert (code, out) == (2, "")
    assert message in err and err.startswith("mcts-ray: ") and err.count("\n") == 1


def test_mistakes_are_found_before_torch_is_loaded():
    script = """if True:
        import json, sys
        from mcts_ray.cli import run
        told = [(run(["search", *one]), [name for name in ("torch", "ray") if name in sys.modules]) for one in json.loads(sys.argv[1])]
        print(json.dumps(told))
    """
    asked = json.dumps([arguments for arguments, _ in MISTAKES.values()])
    done = subprocess.run([sys.executable, "-c", script, asked], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert json.loads(done.stdout) == [[2, []]] * len(MISTAKES), done.stderr


def test_a_broken_config_is_named(mcts_ray):
    Path("c.json").write_text('{"budget": ')
    code, _, err = mcts_ray("search", PROMPT, "--config", "c.json")
    assert code == 2 and "config c.json is not valid JSON" in err
    Path("c.json").write_text('{"budget": 3}')
    code, _, err = mcts_ray("search", PROMPT, "--config", "c.json")
    assert code == 2 and "config c.json: budget 3 is below one trajectory" in err


def test_a_run_is_never_written_over(mcts_ray, tiny_folder):
    arguments = ["search", PROMPT, "--model", tiny_folder, *SMALL, "--out", "run"]
    assert mcts_ray(*arguments)[0] == 0
    code, _, err = mcts_ray(*arguments)
    assert code == 2 and "run directory run already holds a run; choose another one" in err


def test_clip_sample_is_refused(mcts_ray, tiny_folder, tmp_path):
    import shutil

    shutil.copytree(tiny_folder, "clips")
    file = Path("clips/scheduler/scheduler_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"clip_sample": True}))
    code, _, err = mcts_ray("search", PROMPT, "--model", "clips", "--reward", "jpeg")
    assert code == 2 and "clip_sample" in err and err.count("\n") == 1


def test_a_model_without_a_reward_of_its_own(mcts_ray, tiny_folder):
    code, _, err = mcts_ray("search", PROMPT, "--model", tiny_folder)
    assert code == 2 and "has no reward of its own" in err


def test_sizes_are_checked_before_the_model_is_loaded(mcts_ray, tiny_folder, monkeypatch):
    from mcts_ray import Searcher

    monkeypatch.setattr(Searcher, "from_pretrained", lambda *_: pytest.fail("the model was loaded"))
    code, _, err = mcts_ray("search", PROMPT, "--model", tiny_folder, "--reward", "jpeg", "--height", 33)
    assert code == 2 and "height and width must be multiples of 4 for this model, not 33x32" in err and err.count("\n") == 1
    code, _, err = mcts_ray("search", PROMPT, "--model", tiny_folder, "--reward", "scenes:1")
    assert code == 2 and "the scenes reward reads images of 64x64 pixels, not 32x32" in err and err.count("\n") == 1


def test_runs_started_together_do_not_meet():
    from mcts_ray.request import run_directories

    assert run_directories(["a ring"], None) != run_directories(["a ring"], None)


@pytest.mark.parametrize("name", ["model_index.json", "scheduler/scheduler_config.json"])
def test_a_model_folder_with_a_broken_file(mcts_ray, tiny_folder, name):
    import shutil

    shutil.copytree(tiny_folder, "broken")
    Path("broken", name).write_text("[]")
    code, _, err = mcts_ray("search", PROMPT, "--model", "broken", "--reward", "jpeg")
    assert code == 2 and f"{name} of broken cannot be read" in err and err.count("\n") == 1


def test_files_of_windows_editors(mcts_ray, tiny_folder):
    Path("p.txt").write_bytes("\ufeffa red circle\r\n\r\na blue ring\r\n".encode())
    Path("c.json").write_bytes("\ufeff{\"images\": 1}\r\n".encode())
    arguments = ["--model", tiny_folder, *SMALL, "--config", "c.json", "--out", "run", "--json"]
    code, out, err = mcts_ray("search", "--prompts", "p.txt", *arguments)
    assert code == 0, err
    assert [(one["prompt"], len(one["images"])) for one in json.loads(out)] == [("a red circle", 1), ("a blue ring", 1)]


def test_train_scenes_into_a_folder_that_cannot_be_made(mcts_ray):
    Path("file").write_text("")
    code, _, err = mcts_ray("train", "scenes", "--out", "file/weights")
    assert code == 2 and "directory file/weights cannot be written" in err and err.count("\n") == 1


def test_a_fusion_decoder_must_be_there(mcts_ray):
    arguments = ["search", "a red circle", "--algorithm", "mcts", "--set", "fuse=decoder", "--set", "fuse_model=nowhere"]
    code, _, err = mcts_ray(*arguments)
    assert code == 2 and "fuse decoder finds no network in nowhere; make one with `mcts-ray train fusion`" in err


def test_train_scenes_of_an_unknown_part(mcts_ray):
    code, _, err = mcts_ray("train", "scenes", "--part", "decoder", "--out", "weights")
    assert code == 2 and "no part 'decoder'" in err and err.count("\n") == 1


@pytest.mark.parametrize("stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_nothing_found_is_lost_on_ctrl_c(tiny_folder, tmp_path, stop):
    arguments = ["search", PROMPT, "--model", str(tiny_folder), "--reward", "jpeg", "--levels", "4", "--in-flight", "1"]
    arguments += ["--executor", "local"]
    command = [sys.executable, "-m", "mcts_ray", *arguments, "--budget", "400000", "--out", str(tmp_path / "run"), "--json"]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[1], env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(stop)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    found = json.loads(out)
    assert found["images"] and all(Path(path).is_file() for path in found["images"])
    assert "interrupted; what was found is in" in err
    assert json.loads((tmp_path / "run" / "job.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize("begun", [True, False])
def test_lost_actors_are_told_in_a_sentence(tiny_folder, tmp_path, monkeypatch, capsys, begun):
    """With where what was found is, and how to go on, if the search had begun."""

    def lost(*_, **__):
        if begun:
            out.mkdir()
        raise ActorsLost("no denoiser comes back: its node\nhas gone")

    monkeypatch.setattr("mcts_ray.searcher.Searcher.many", lost)
    out = tmp_path / "run"
    arguments = [PROMPT, "--model", str(tiny_folder), "--reward", "jpeg", "--executor", "local", "--out", str(out)]
    assert cli.run(["search", *arguments]) == 1
    said = capsys.readouterr().err.splitlines()
    words = f"; what was found is in {out}, and `mcts-ray resume RUN` goes on" if begun else ""
    assert said[-1] == f"mcts-ray: no denoiser comes back: its node has gone{words}"
