"""What is predicted in the denoiser's process, what is refused, and a search that goes by it from end to end."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mcts_ray import SearchConfig, Searcher
from mcts_ray.checks import check_ige
from mcts_ray.diffusion.load import load_pipeline
from mcts_ray.executor.plan import build
from mcts_ray.gain.evaluator import load_evaluator, make_network, save_weights
from mcts_ray.gain.folder import Config, find_ige
from mcts_ray.reward.step import States
from mcts_ray.search import Setting
from mcts_ray.search.journal import replay
from tests.tiny import tiny_pipeline

from .conftest import T


@pytest.fixture(scope="module")
def searcher(tiny_folder):
    return Searcher(load_pipeline(str(tiny_folder), "cpu"), reward="jpeg")


def config(ige, **fields):
    values = {"algorithm": "mcts", "levels": T, "budget": 7 * T, "guidance": 2.0, "jump": "ige", "ige_model": str(ige), "seeds": 3}
    return SearchConfig(**values | {"rollout_stride": 1, "in_flight": 4} | fields)


def change(ige, **fields):
    replace(Config.read(ige), **fields).write(ige)


def states(denoiser, count=3):
    x = torch.randn(count, 4, 8, 8)
    taps = {name: torch.randn(count, width, 4, 4) for name, width in (("down.0", 8), ("mid", 16), ("up.0", 16), ("up.1", 8))}
    return States(x, x, x, torch.zeros(count), torch.zeros(count), taps, ("a",) * count, torch.randn(count, 16, 16))


def test_predictions_are_in_units_of_reward_over_a_single_step(ige, searcher):
    """A network that gives 1 in every target and jump: rate 1 is worth k, similarity and jump error what a unit of them is worth."""
    change(ige, units={name: (0.0, 1.0) for name in Config.read(ige).targets}, worth={"reward_rate": 1, "similarity": 0.5, "jump_error": -2, "value": 1})
    evaluator = load_evaluator(str(ige), searcher.backend.denoiser)
    network = evaluator.network(None)[1]
    for value in network.head[-1].weight, network.head[-1].bias, network.zero:
        value.zero_()
    network.head[-1].bias[..., 0] = 1.0
    known = evaluator.config.known(7)
    settings = [Setting("a", levels=T, ige_target=name) for name in ("reward_rate", "jump_error", "value")]
    found = evaluator.evaluate(states(searcher.backend.denoiser), ["x", "y", "z"], [7, 7, 7], settings)
    assert [gains.node for gains in found] == ["x", "y", "z"] and {gains.version for gains in found} == {0} and known[:2] == (1, 2)
    means = [{jump.k: jump.mean for jump in gains.jumps} for gains in found]
    assert means[0] == {k: k - 1.0 for k in known} and means[1] == {k: -2.0 * (k > 1) for k in known} and means[2] == {k: 1.0 * (k > 1) for k in known}
    assert [jump.error for jump in found[0].jumps] == [1.0 * (k > 1) for k in known]
    assert found[0].jumps[1].variance == pytest.approx(4.0) and found[0].features is None


def test_a_search_goes_by_it(trained, searcher, tmp_path):
    asked = config(trained, ige_choice="top-m", ige_top=3, fuse="innovation", backup="soft")
    result = searcher("a red circle", asked, out=tmp_path / "run")
    assert result.ledger.nfe <= 7 * T and result.ledger.model_forwards == 2 * result.ledger.nfe and not result.errors
    header, *records = map(json.loads, (tmp_path / "run" / "journal.jsonl").read_text().splitlines())
    chosen = [record for record in records if record["type"] == "ask" and record["parent"] is not None]
    assert chosen and all(record["version"] == 0 for record in chosen if record["action"] == "jump")
    by_parent = {}
    for node in result.tree["nodes"]:
        if node["action"].startswith("jump"):
            by_parent.setdefault(node["parent"], set()).add(node["action"])
    assert max(map(len, by_parent.values())) > 1  # children of one node by several jumps
    assert all(set(gains) == {"node", "version", "jumps"} for record in records for gains in record.get("gains", ()))
    again = build("pipeline", searcher.backend.denoiser, header["search"], "a red circle", result.config)
    replay(again, records)
    assert again.nodes() == result.tree["nodes"] and result.config.price == Config.read(trained).price


def test_one_that_is_pinned_to_a_version_is_the_same_again(ige, searcher):
    asked = config(ige, ige_choice="sample")
    first = searcher("a red circle", asked.model_copy(update={"ige_version": 0}))
    network = make_network(Config.read(ige))
    torch.manual_seed(5)
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.5)
    (ige / "versions").mkdir()
    save_weights(network, ige / "versions" / "00003.safetensors")
    searcher.backend.denoiser.evaluator(str(ige)).install(3, network.state_dict())
    newest, pinned, back = (searcher("a red circle", asked.model_copy(update={"ige_version": v})) for v in (None, 3, 0))
    assert back.tree == first.tree and newest.tree == pinned.tree != first.tree
    with pytest.raises(ValueError, match="has no version 2; it has 0, 3"):
        searcher("a red circle", asked.model_copy(update={"ige_version": 2}))


def test_a_level_without_data_falls_back_to_the_table_and_says_so(ige, searcher, tmp_path):
    change(ige, counts={2: (1, 1, 0, 0)}, table=(1, 1, 1, 1, 3, 3, 3, 3))
    result = searcher("a red circle", config(ige, jumps=(1, 2, 4, 8)), out=tmp_path / "run")
    assert len(result.notes) == 1 and "went by the table" in result.notes[0] and result.notes[0].startswith("the IGE has no data at level")
    assert json.loads((tmp_path / "run" / "job.json").read_text())["result"]["notes"] == list(result.notes)
    asks = [line for line in map(json.loads, (tmp_path / "run" / "journal.jsonl").read_text().splitlines()) if line["type"] == "ask"]
    assert not any("version" in line for line in asks)
    assert searcher("a red circle", config(ige, jump_table=[1] * T)).tree != result.tree  # a table of one's own goes before it


def test_hopeless_jumps_are_not_evaluated(ige, searcher):
    """A network that says that every jump but k = 1 loses much: where it is sure nothing else is made, whether or not the rule gain
    counts them; where it is not, top-m tries others."""
    evaluator = searcher.backend.denoiser.evaluator(str(ige))
    network = evaluator.network(None)[1]
    network.head[-1].weight.zero_()
    asked = config(ige, ige_choice="top-m", ige_top=3)
    made = {}
    for rules, log_variance in ((("gain",), -7.0), ((), -7.0), ((), 4.0)):
        network.head[-1].bias[..., 0], network.head[-1].bias[..., 1] = -9.0, log_variance
        evaluator.install(0, network.state_dict())
        result = searcher("a red circle", asked.model_copy(update={"prune": rules}))
        made[rules, log_variance] = sum(node["action"] not in ("seed", "jump 1", "fuse") for node in result.tree["nodes"])
        assert bool(result.pruning.get("gain")) is bool(rules)
    assert made[("gain",), -7.0] == made[(), -7.0] == 0 < made[(), 4.0]


def test_searches_learn_while_they_run(ige, searcher, tmp_path, monkeypatch):
    from mcts_ray.gain import online

    monkeypatch.setattr(online.OnlineTrainer.__init__, "__kwdefaults__", {"capacity": 64, "every": 2, "steps": 2, "batch": 4, "lr": 1e-4, "seed": 0})
    monkeypatch.setattr(online.OnlineTrainer, "_judge", lambda self, state: 1.0)  # never worse
    asked = config(ige, ige_choice="top-m", ige_online=str(tmp_path / "online"))
    trees = []
    for run in ("one", "two"):
        shutil.rmtree(tmp_path / "online", ignore_errors=True)
        searcher.backend.denoiser._evaluators.pop(str(tmp_path / "online"), None)
        result = searcher("a red circle", asked, out=tmp_path / run)
        trees.append(result.tree)
    log = [json.loads(line) for line in (tmp_path / "online" / "online.jsonl").read_text().splitlines()]
    assert online.ReplayBuffer.load(tmp_path / "online" / "buffer.safetensors").total >= log[-1]["transitions"]
    assert log and all(line["kept"] for line in log) and len(list((tmp_path / "online" / "versions").iterdir())) == len(log)
    assert searcher.backend.denoiser.evaluator(str(tmp_path / "online")).newest == log[-1]["version"]
    assert trees[0] == trees[1]  # in this process nothing hangs on timing
    told = [line for line in map(json.loads, (tmp_path / "two" / "journal.jsonl").read_text().splitlines()) if line.get("gains")]
    assert {gains["version"] for line in told for gains in line["gains"]} > {0}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"levels": 10, "budget": 80}, "trained for levels 8 and grid native, not levels 10 and grid native"),
        ({"grid": "trailing"}, "trained for levels 8 and grid native, not levels 8 and grid trailing"),
        ({"jumps": (1, 3)}, "knows jumps of 1, 2, 4, 8 levels, not all of 1, 3"),
        ({"ige_model": None}, "has no IGE of its own; choose one with ige_model"),
        ({"ige_model": "nowhere"}, f"ige_model {Path('nowhere').absolute()} holds no IGE that can be read: config.json: No such file"),
    ],
)
def test_what_does_not_fit_a_search_is_refused(trained, searcher, fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        searcher("a red circle", config(trained).model_copy(update=fields))


def test_what_fails_in_learning_ends_no_search(ige, searcher, tmp_path, monkeypatch):
    from mcts_ray.gain import online

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(online.ReplayBuffer, "save", full)
    result = searcher("a red circle", config(ige, ige_choice="top-m", ige_online=str(tmp_path / "online")))
    assert result.images and not (tmp_path / "online" / "buffer.safetensors").exists()


def test_another_guidance_is_noted(trained, searcher):
    result = searcher("a red circle", config(trained, guidance=3.0))
    assert [note for note in result.notes if "guidance" in note] == [
        "the IGE was trained at guidance 2; what it predicts of jumps at guidance 3 has not been measured"
    ]
    assert not any("guidance" in note for note in searcher("a red circle", config(trained)).notes)


def test_another_reward_is_refused_where_the_network_is_asked(trained, searcher):
    """A walk that goes by the table alone may be judged by any reward, as the samples of a pool are."""

    def brightness(images, prompts):
        return [float(image.mean()) for image in images]

    with pytest.raises(ValueError, match="trained on gains in reward jpeg, not jpeg:2; set reward so or train another"):
        searcher("a red circle", config(trained, reward="jpeg:2"))
    with pytest.raises(ValueError, match="trained on gains in reward jpeg, not jpeg:2"):
        check_ige("pipeline", config(trained, reward="jpeg:2"))
    with pytest.raises(ValueError, match="trained on gains in reward jpeg, not brightness"):
        Searcher(searcher.backend.denoiser.adapter.pipe, reward=brightness)("a red circle", config(trained))
    table = {"algorithm": "best-of-n", "seeds": None, "rollout_stride": None, "reward": "jpeg:2"}
    assert searcher("a red circle", config(trained, **table)).images
    named = replace(Config.read(trained), reward="somewhere:brightness")
    named.check_search(T, "native", "value", (1, 2), "brightness")


def test_what_does_not_fit_the_model_is_refused(ige, searcher):
    denoiser = searcher.backend.denoiser
    other = Searcher(tiny_pipeline(seed=1), reward="jpeg").backend.denoiser
    with pytest.raises(ValueError, match="does not fit this model: its U-Net has other weights"):
        load_evaluator(str(ige), other)
    for fields, sentence in (
        ({"log_snr": tuple(np.linspace(5, -5, T + 1))}, "the noise at its levels is another one"),
        ({"reader": {"kind": "pooled", "taps": {"mid": 32}, "text": 16}}, "reads 32 channels of mid, where this U-Net has 16"),
        ({"reader": {"kind": "pooled", "taps": {"mid": 16}, "text": 16}}, "reads 136 features of a state, where this model gives 72"),
        ({"width": 24}, "holds no IGE that can be read: model.safetensors: Error"),
    ):
        before = Config.read(ige)
        change(ige, **fields)
        with pytest.raises(ValueError, match=sentence):
            load_evaluator(str(ige), denoiser)
        before.write(ige)
    change(ige, targets=("similarity",))
    with pytest.raises(ValueError, match="was not trained on value; set ige_target to similarity"):
        Config.read(ige).check_search(T, "native", "value", (1, 2))
    (ige / "config.json").write_text('{"kind": "value"}')
    with pytest.raises(ValueError, match="it is another kind of network"):
        find_ige("scenes", str(ige))


@pytest.mark.parametrize("algorithm", ["best-of-n", "psp"])
def test_walks_that_are_planned_go_by_the_table_and_say_so(ige, searcher, tmp_path, algorithm):
    """The same search as by that table given as such; no state is read for it, and the journal reads back."""
    change(ige, table=(1, 1, 1, 2, 2, 2, 4, 4))
    options = {"algorithm": algorithm, "seeds": None, "rollout_stride": None}
    result = searcher("a fox", config(ige, **options), out=tmp_path / "run")
    table = config(ige, **options, jump="table", ige_model=None, jump_table=(1, 1, 1, 2, 2, 2, 4, 4))
    plain = searcher("a fox", table)
    assert result.tree == plain.tree and result.ledger.nfe == plain.ledger.nfe
    assert {node["level"] for node in result.tree["nodes"]} == {8, 4, 2, 1, 0}
    assert len(result.notes) == 1 and "the IGE's table" in result.notes[0] and not plain.notes
    job = json.loads((tmp_path / "run" / "job.json").read_text())
    assert SearchConfig(**job["config"]) == result.config and job["result"]["notes"] == list(result.notes)
    header = json.loads((tmp_path / "run" / "journal.jsonl").read_text().splitlines()[0])
    assert header["setting"]["ige_model"] is None
