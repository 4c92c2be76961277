"""From recorded trajectories to a head that searches use."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mcts_ray import SearchConfig, Searcher
from mcts_ray.reward.value.train import RECIPE, likelihood, ranking, run
from tests.reward.value.conftest import LEVELS

QUICK = {"recipe": replace(RECIPE, batch=6, warmup=5, lr=3e-3, checkpoint_every=10), "width": 16, "device": "cpu"}


@pytest.fixture(scope="module")
def head(collected, tiny_folder, tmp_path_factory):
    losses = []
    out = run(str(tiny_folder), collected, tmp_path_factory.mktemp("head"), steps=30, report=losses.append, **QUICK)
    return out, losses


def test_the_loss_falls_and_the_folder_tells_what_it_is(head, tiny_folder):
    out, reported = head
    lines = [json.loads(line) for line in (out / "value.jsonl").read_text().splitlines()]
    assert reported[-1].step == lines[-1]["step"] == 30 and "held_out_nll" in reported[-1].metrics
    assert reported[-1].loss < 0.8 * 0.5 + 0.5 * np.log(2)  # a network that knows nothing: NLL of 0.5, rank of ln 2
    config, metrics = (json.loads((out / name).read_text()) for name in ("config.json", "metrics.json"))
    assert (config["kind"], config["model"], config["reward"]) == ("value", str(tiny_folder), "jpeg")
    assert set(metrics["levels"]) == {str(level) for level in range(1, LEVELS + 1)}
    assert {"spearman", "nll", "within_68", "within_95"} <= set(metrics["levels"]["3"]) and metrics["best_step"] in (10, 20, 30)


def test_a_reward_that_tells_nothing_of_words_is_not_loaded(collected, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("mcts_ray.reward.value.train.resolve_reward", lambda *_: pytest.fail("loaded"))
    run(str(tiny_folder), collected, tmp_path, steps=1, **QUICK)


@pytest.mark.parametrize("algorithm", ["psp", "mcts", "fk"])
def test_searches_use_it(head, tiny_folder, algorithm):
    """They decode finished images only, and spend as many NFE as with scores of predicted images."""
    searcher = Searcher.from_pretrained(str(tiny_folder), device="cpu", reward="jpeg")
    fields = {"algorithm": algorithm, "levels": 8, "budget": 64, "guidance": 2.0}
    value = searcher("a red circle", SearchConfig(**fields, step_reward="value", step_model=str(head[0])))
    decoded = searcher("a red circle", SearchConfig(**fields, step_reward="x0"))
    assert value.ledger.decodes == len(value.finished) < decoded.ledger.decodes
    assert value.ledger.nfe == decoded.ledger.nfe and value.ledger.model_forwards == 2 * value.ledger.nfe
    assert value.ledger.reward_calls > value.ledger.decodes and not value.errors


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(head, collected, tiny_folder, tmp_path):
    class Cut(Exception):
        pass

    def cut(progress):
        raise Cut

    with pytest.raises(Cut):  # the first report comes after the last step, so an earlier checkpoint is put back
        run(str(tiny_folder), collected, tmp_path, steps=30, report=cut, **QUICK)
    saved = torch.load(tmp_path / "value.pt", weights_only=True)
    assert saved["step"] == 20
    run(str(tiny_folder), collected, tmp_path, steps=30, **QUICK)
    one, other = ((folder / "model.safetensors").read_bytes() for folder in (head[0], tmp_path))
    assert one == other


def test_training_ends_when_held_out_prompts_gain_no_more(collected, tiny_folder, tmp_path, monkeypatch):
    from mcts_ray.reward.value import train

    monkeypatch.setattr(train, "PATIENCE", 2)
    monkeypatch.setattr(train, "summary", lambda found, seen=[]: seen.append(0) or {"spearman": None, "nll": float(len(seen))})
    monkeypatch.setattr(train, "by_level", lambda found: {})
    fields = QUICK | {"recipe": replace(QUICK["recipe"], checkpoint_every=2)}
    run(str(tiny_folder), collected, tmp_path, steps=30, **fields)
    assert torch.load(tmp_path / "value.pt", weights_only=True)["step"] == 6  # the best is the first, then two that are not better
    assert json.loads((tmp_path / "metrics.json").read_text())["best_step"] == 2
    run(str(tiny_folder), collected, tmp_path, steps=30, **fields)  # it is over
    assert torch.load(tmp_path / "value.pt", weights_only=True)["step"] == 6
    for change in ({"seed": 5}, {"steps": 40}):
        with pytest.raises(ValueError, match=f"holds a run with other {next(iter(change))}; train into another folder"):
            run(str(tiny_folder), collected, tmp_path, **{"steps": 30} | fields | change)


def test_a_run_that_was_started_over_and_cut_off_is_not_the_one_before(collected, tiny_folder, tmp_path):
    """Cut off before its first checkpoint, it has nothing: what the run before had must not pass for it."""
    from mcts_ray.reward.value import train

    class Cut(Exception):
        pass

    def cut(*_):
        raise Cut

    run(str(tiny_folder), collected, tmp_path, steps=10, **QUICK)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Cut):
        patch.setattr(train, "loss_of", cut)
        run(str(tiny_folder), collected, tmp_path, steps=10, seed=3, resume=False, **QUICK)
    assert not (tmp_path / "value.pt").exists() and not (tmp_path / "best.pt").exists()
    run(str(tiny_folder), collected, tmp_path, steps=10, seed=3, **QUICK)
    assert (tmp_path / "model.safetensors").read_bytes() != before


def test_what_cannot_be_is_one_sentence(head, collected, tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="are those of .*, not of scenes"):
        run("scenes", collected, tmp_path, steps=1, **QUICK)
    with pytest.raises(ValueError, match="holds a run with other shape; train into another folder"):
        run(str(tiny_folder), collected, head[0], steps=30, **QUICK | {"width": 32})
    with pytest.raises(ValueError, match="holds no trajectories"):
        run("scenes", tmp_path / "none", tmp_path, steps=1)
    torn = shutil.copytree(collected, tmp_path / "torn")
    shard = torn / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ValueError, match="shard-00000.safetensors is no shard that can be read"):
        run(str(tiny_folder), torn, tmp_path / "out", steps=1, **QUICK)
    (torn / "manifest.json").write_text('{"kind": "trajectories"}')
    with pytest.raises(ValueError, match="is no manifest of trajectories; choose another folder"):
        run(str(tiny_folder), torn, tmp_path / "out", steps=1, **QUICK)


def test_rewards_that_differ_by_rounding_alone_teach_nothing(collected, tiny_folder, tmp_path):
    flat = shutil.copytree(collected, tmp_path / "flat")
    tensors = load_file(flat / "shard-00000.safetensors")
    tensors["reward"] = torch.full_like(tensors["reward"], 0.1)
    save_file(tensors, flat / "shard-00000.safetensors")
    with pytest.raises(ValueError, match="have the same reward, from which nothing can be learned"):
        run(str(tiny_folder), flat, tmp_path / "out", steps=1, **QUICK)


def test_likelihood_is_least_at_the_truth_and_its_variance():
    true = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * 2
    losses = {v: likelihood(torch.zeros(2000), torch.full((2000,), v).log(), true, beta=0.0).item() for v in (1.0, 4.0, 16.0)}
    assert min(losses, key=losses.get) == 4.0
    assert likelihood(true, torch.zeros(2000), true).item() == 0


def test_ranking_counts_pairs_within_groups_by_how_far_their_truths_are_apart():
    group, true = torch.tensor([0, 0, 1, 1]), torch.tensor([0.0, 1.0, 5.0, 2.0])
    right, wrong = torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert ranking(right, true, group) < np.log(2) < ranking(wrong, true, group)  # of the wider pair three times the weight
    assert ranking(right + torch.tensor([0, 0, 50.0, 50.0]), true, group) == pytest.approx(float(ranking(right, true, group)), abs=1e-5)
    assert ranking(right, torch.zeros(4), group) == 0


def test_a_loss_that_is_not_finite_stops_the_training(collected, tiny_folder, tmp_path, monkeypatch):
    from mcts_ray.reward.value import train

    monkeypatch.setattr(train, "likelihood", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(ValueError, match="the loss of value is nan at step 0"):
        run(str(tiny_folder), collected, tmp_path, steps=2, **QUICK)
    assert not (tmp_path / "model.safetensors").exists()
