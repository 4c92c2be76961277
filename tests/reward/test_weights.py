"""Where weights are looked for. The hub is the real client against a hub on localhost, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mcts_ray.reward.weights import Weights, find_clip, local_files
from tests.diffusion.fake_hub import fake_hub

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, sys
from mcts_ray.reward import clipscore, find_weights, hps
clipscore.MODEL = hps.MODEL = "me/clip"
said = {}
for reward in json.loads(sys.argv[1]):
    try:
        said[reward] = str(find_weights(reward))
    except ValueError as error:
        said[reward] = str(error)
hps.MODEL = "me/hps"
try:
    said["hps file"] = str(hps.find())
except ValueError as error:
    said["hps file"] = str(error)
said["heavy"] = sorted({"torch", "transformers"} & set(sys.modules))
print(json.dumps(said))
"""


def ask(endpoint, home, *rewards):
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, json.dumps(rewards)]
    ran = subprocess.run(command, capture_output=True, text=True, env=env, cwd=home, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_hub_ids(tmp_path):
    clip, weights, home = tmp_path / "clip", tmp_path / "hps", tmp_path / "home"
    for folder in (clip, weights, home):
        folder.mkdir()
    (clip / "config.json").write_text('{"model_type": "clip"}')
    (clip / "preprocessor_config.json").write_text("{}")
    (weights / "HPS_v2.1_compressed.pt").write_bytes(b"x" * 1000)
    with fake_hub({"me/clip": clip, "me/hps": weights}, gated=("lab/gated",)) as endpoint:
        said = ask(endpoint, home, "clipscore", "clipscore@me/nothing", "clipscore@lab/gated", "clipscore@me/hps", "aesthetic@me/clip")
    assert said["clipscore"] == "None"
    assert said["clipscore@me/nothing"].startswith("reward 'clipscore': no model me/nothing on the hub")
    assert said["clipscore@lab/gated"].startswith("reward 'clipscore': lab/gated is gated")
    assert said["clipscore@me/hps"] == "reward 'clipscore': me/hps has no config.json"
    assert said["aesthetic@me/clip"].startswith("reward 'aesthetic': me/clip has no sac+logos+ava1-l14-linearMSE.pth")
    assert said["hps file"] == "Weights(reward='hps', source='me/hps')"
    assert not list(home.rglob("*compressed.pt"))  # large weights are looked for, not downloaded
    assert said["heavy"] == []
    said = ask(endpoint, home, "clipscore", "clipscore@me/other")
    assert said["clipscore"] == "None"  # from the cache
    assert said["clipscore@me/other"].startswith("reward 'clipscore': me/other is not in the local cache and the hub cannot be reached")
    assert said["clipscore@me/other"].endswith("or give a local folder, as in clipscore@FOLDER")


def test_a_folder_goes_before_the_hub_and_home_is_expanded(tmp_path, monkeypatch):
    (tmp_path / "me" / "clip").mkdir(parents=True)
    (tmp_path / "me" / "clip" / "config.json").write_text('{"model_type": "clip"}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_clip("r", "me/clip").model == "me/clip"
    assert find_clip("r", "~/me/clip").model == str(tmp_path / "me" / "clip")
    assert Weights("r", "me/clip").file("b.json", "config.json") == Path("me/clip/config.json")
    assert Weights("r", "me/clip").file("b.json") is None


@pytest.mark.parametrize(
    "config, message",
    [
        ('{"model_type": "siglip"}', "is a model of type siglip, not clip"),
        ("[]", "config.json of .* is not the configuration of a model"),
        ("{", "config.json of .* is not the configuration of a model"),
    ],
)
def test_another_model(tmp_path, config, message):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        find_clip("r", str(tmp_path))


def test_files_of_weights(tmp_path):
    for name in ("a.safetensors", "sub/b.pt", "config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert [file.name for file in local_files(str(tmp_path))] == ["a.safetensors", "b.pt"]
    assert local_files("me/clip") == []
