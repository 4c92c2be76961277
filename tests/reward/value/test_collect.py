import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mcts_ray.checks import collection_prompts
from mcts_ray.reward.value import collect
from mcts_ray.reward.value.data import read_manifest
from mcts_ray.scenes.prompts import prompts
from tests.reward.value.conftest import LEVELS, PROMPTS

OPTIONS = {"trajectories": 4, "levels": LEVELS, "guidance": 2.0, "device": "cpu"}


def test_the_manifest_says_what_is_there(collected):
    manifest = read_manifest(collected)
    (shard,) = manifest["shards"]
    assert manifest["counts"] == {str(level): 4 * len(PROMPTS) for level in range(1, LEVELS + 1)}
    assert shard["states"] == 4 * len(PROMPTS) * LEVELS and shard["prompts"] == len(PROMPTS)
    assert manifest["taps"] == {"mid": [16, 4, 4], "up.0": [16, 8, 8], "up.1": [8, 8, 8]} and manifest["prompts"] == PROMPTS
    tensors = load_file(collected / shard["file"])
    assert tensors["eta"].unique(return_counts=True)[1].tolist() == [shard["states"] // 2] * 2
    assert tensors["embeddings"].shape == (len(PROMPTS), 16, 16) and all(torch.isfinite(value).all() for value in tensors.values())


def test_a_collection_that_was_cut_off_goes_on_to_the_same(collected, tiny_folder, tmp_path, monkeypatch):
    """In shards of two prompts, stopped after the first: the same states as all at once, and no call for what is there."""
    monkeypatch.setattr(collect, "SHARD", 2 * 4 * LEVELS * 8000)

    class Cut(Exception):
        pass

    def cut(line):
        raise Cut

    with pytest.raises(Cut):
        collect.run(str(tiny_folder), "jpeg", PROMPTS, tmp_path, report=cut, **OPTIONS)
    first = read_manifest(tmp_path)["shards"]
    assert len(first) == 1 and first[0]["prompts"] < len(PROMPTS)
    stamp = (tmp_path / first[0]["file"]).stat().st_mtime_ns
    said = []
    collect.run(str(tiny_folder), "jpeg", PROMPTS, tmp_path, report=said.append, **OPTIONS)
    shards = read_manifest(tmp_path)["shards"]
    assert len(shards) == len(said) + 1 and said[-1] == f"6 of 6 prompts, {6 * 4 * LEVELS} states"
    assert (tmp_path / first[0]["file"]).stat().st_mtime_ns == stamp
    whole = load_file(collected / "shard-00000.safetensors")
    parts = [load_file(tmp_path / shard["file"]) for shard in shards]
    for name in ("x0", "tap.up.0", "reward", "eta", "level", "trajectory", "log_snr"):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]).float(), whole[name].float(), atol=3e-2, rtol=1e-2)
    assert [shard["first"] for shard in shards] == [sum(s["prompts"] for s in shards[:i]) for i in range(len(shards))]
    said.clear()
    collect.run(str(tiny_folder), "jpeg", PROMPTS, tmp_path, report=said.append, **OPTIONS)
    assert said == []


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"trajectories": 1}, "a prompt needs two trajectories at least"),
        ({"at": [3, 9]}, "level 9 has no state to note; levels run from 1 to 5"),
        ({"prompts": []}, "no prompt was given"),
        ({"prompts": None}, "has no prompts of its own; give some with --prompts"),
        ({"reward": None}, "has no reward of its own"),
        ({"limit": 1e-5}, "6 prompts with 20 states each would write 0.0 GB to .*, more than the limit of 1e-05"),
        ({"taps": ["down.7"]}, "no tap named 'down.7'"),
    ],
)
def test_what_cannot_be_is_one_sentence(tiny_folder, tmp_path, fields, sentence):
    given = {"reward": "jpeg", "prompts": PROMPTS, **OPTIONS, **fields}
    with pytest.raises(ValueError, match=sentence):
        collect.run(str(tiny_folder), given.pop("reward"), given.pop("prompts"), tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_other_trajectories_are_not_mixed_in(collected, tiny_folder, tmp_path):
    for fields, what in (({"seed": 1}, "seed"), ({"guidance": 3.0}, "guidance"), ({"taps": ["mid"]}, "taps")):
        with pytest.raises(ValueError, match=f"made with other {what}; collect into another folder"):
            collect.run(str(tiny_folder), "jpeg", PROMPTS, collected, **OPTIONS | fields)
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "pairs"}))
    with pytest.raises(ValueError, match="is no manifest of trajectories"):
        collect.run(str(tiny_folder), "jpeg", PROMPTS, tmp_path, **OPTIONS)


def test_scenes_have_training_prompts_of_their_own():
    chosen = collection_prompts("scenes", "scenes", None, None)
    assert set(chosen) == {*prompts("medium", "train"), *prompts("hard", "train")} and len(chosen) == 2000
    assert collection_prompts("scenes", "scenes", None, 3) == chosen[:3]
    more = collection_prompts("scenes", "scenes", None, len(chosen) + 500)
    assert more[: len(chosen)] == chosen and len(set(more)) == len(chosen) + 500
    judged = {text for name in ("medium", "hard") for split in ("validation", "test") for text in prompts(name, split)}
    assert not judged & set(more)
    assert collection_prompts("scenes", "scenes", ["A red ring", "a red ring"], None) == ["a red ring"]


def test_a_generator_whose_samples_all_fail_is_one_sentence(tiny_folder, tmp_path, monkeypatch):
    from mcts_ray.diffusion import engine

    step = engine.Engine.step
    nothing = {"latent": None, "error": "its latent is not finite", "scores": ()}
    monkeypatch.setattr(engine.Engine, "step", lambda self: [replace(walked, **nothing) for walked in step(self)])
    with pytest.raises(ValueError, match="none of 4 images got a reward; the last one: its latent is not finite"):
        collect.run(str(tiny_folder), "jpeg", PROMPTS[:1], tmp_path, **OPTIONS)
