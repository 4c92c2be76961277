"""Training: what it writes, that it can be gone on with, that it ends early, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mcts_ray import SearchConfig
from mcts_ray.settings import load_config
from mcts_ray.gain import train
from mcts_ray.gain.data import Recorded
from mcts_ray.gain.evaluator import make_network
from mcts_ray.gain.folder import Config
from mcts_ray.gain.learn import Examples, losses

from .conftest import JUMPS, T

RECIPE = replace(train.RECIPE, steps=20, batch=8, checkpoint_every=10)


def test_what_is_written(trained, transitions):
    assert {"config.json", "model.safetensors", "metrics.json", "held_out.safetensors", "table.json"} <= {p.name for p in trained.iterdir()}
    config, record = Config.read(trained), json.loads((trained / "metrics.json").read_text())
    assert config.levels == T and config.jumps == JUMPS and len(config.table) == T and config.data["key"] == Recorded(transitions).key
    assert all(value.dtype == torch.float16 for value in load_file(trained / "model.safetensors").values())
    assert set(record["prediction"]) == set(config.targets) and set(record["prediction"]["value"]["k"]) == {"2", "4", "8"}
    assert set(record["prediction"]["jump_error"]["level"]) and record["net_value"]["k=1"]["net"] == 0
    assert record["train_states"] == 18 and record["held_out_states"] == 6
    kept, held = Recorded(transitions).split()
    prompt = Recorded(transitions).transitions.prompt
    assert not set(prompt[kept]) & set(prompt[held])
    table = load_config(trained / "table.json", {"algorithm": "mcts"})
    assert table.jump_table == config.table and isinstance(table, SearchConfig)


def test_a_run_that_is_cut_off_ends_in_the_same_weights(transitions, tiny_folder, tmp_path, trained):
    def stop(progress):
        raise KeyboardInterrupt

    common = dict(width=16, threads=1)
    train.run(str(tiny_folder), transitions, tmp_path / "ige", recipe=replace(RECIPE, steps=20), **common)
    with pytest.raises(KeyboardInterrupt):
        train.run(str(tiny_folder), transitions, tmp_path / "cut", recipe=RECIPE, report=stop, **common)
    # `report` comes before the last checkpoint: step 10 is on disk, step 20 is not
    train.run(str(tiny_folder), transitions, tmp_path / "cut", recipe=RECIPE, **common)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("ige", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match="holds a run with other width; train into another folder"):
        train.run(str(tiny_folder), transitions, tmp_path / "cut", recipe=RECIPE, width=8)


def test_it_ends_where_it_gets_no_better(transitions, tiny_folder, tmp_path, monkeypatch):
    """`value` is best after 2 steps, `similarity` after 6: each is kept as it was then, and training ends 3 checkpoints after the last."""
    losses = {"value": iter([1.0, 2.0, 2.5, 2.6, 2.7, 2.8, 0.0]), "similarity": iter([3.0, 2.0, 1.0, 1.5, 1.6, 1.7, 0.0])}
    seen = {}

    def measure(self, state):
        seen[len(seen)] = {name: self._network.part(state, name) for name in losses}
        return {name: next(values) for name, values in losses.items()}

    monkeypatch.setattr(train.Watch, "_measure", measure)
    monkeypatch.setattr(train, "PATIENCE", 3)
    recipe = replace(RECIPE, steps=14, checkpoint_every=2)
    train.run(str(tiny_folder), transitions, tmp_path / "ige", recipe=recipe, width=8, targets=tuple(losses))
    saved = torch.load(tmp_path / "ige" / "best.pt", weights_only=True)
    assert saved["checkpoints"] == [2, 4, 6, 8, 10, 12] and len(seen) == 6
    record = json.loads((tmp_path / "ige" / "metrics.json").read_text())
    assert record["best_step"] == {"value": 2, "similarity": 6}
    weights = load_file(tmp_path / "ige" / "model.safetensors")
    for m, (name, checkpoint) in enumerate((("value", 0), ("similarity", 2))):
        for key, value in seen[checkpoint][name].items():
            assert torch.equal(weights[key][m], value.half()), key


def test_variances_are_those_of_mean_gains(transitions, tiny_folder):
    """The units of `value` are those of the mean over children, and the likelihood is of that mean: a child that is not there changes
    nothing, and two that differ from their mean count as it does."""
    known = Recorded(transitions)
    kept, _ = known.split()
    config, examples = train.prepare(known, kept, ("value",), 8, None)
    mean_NK = examples.targets["value"][kept].nanmean(2)[:, 1:]
    assert config.units["value"][1] == pytest.approx(float(mean_NK[mean_NK.isfinite()].std(correction=0)), rel=1e-5)
    network = make_network(config).eval()
    mean = Examples(examples.features, examples.level, {"value": examples.targets["value"].nanmean(2, keepdim=True)})
    torch.testing.assert_close(losses(network, config, examples)["value"], losses(network, config, mean)["value"])


def test_mistakes(transitions, tmp_path):
    with pytest.raises(ValueError, match="are those of .*, not of scenes"):
        train.run("scenes", transitions, tmp_path / "ige")
    model = Recorded(transitions).manifest["model"]
    with pytest.raises(ValueError, match="unknown target 'beauty'; choose some of reward_rate, similarity, jump_error, value"):
        train.run(model, transitions, tmp_path / "ige", targets=("beauty",))
    with pytest.raises(ValueError, match="holds no transitions; make some with `mcts-ray train gain --collect`"):
        train.run(model, tmp_path, tmp_path / "ige")
    (tmp_path / "ige" / "versions").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds versions that searches have made of its IGE online; train into another folder"):
        train.run(model, transitions, tmp_path / "ige")
