import json
from pathlib import Path

import pytest
import torch

from mcts_ray.checks import check_step_model, find_calibration
from mcts_ray.reward.calibrate import Calibration, Level
from mcts_ray.settings import ConfigError, make_config
from mcts_ray.reward import step
from mcts_ray.reward.step import States, absolute, find_step_model, step_weights


@pytest.mark.parametrize(
    "kind, model, source, sentence",
    [
        ("value", "owner/model", None, "model owner/model has no value step model of its own; choose one with step_model"),
        ("value", "scenes", "nowhere", "step_model 'nowhere' is no folder; name the folder of a value step model"),
        ("value", "scenes", "owner/name", "is no folder; name"),
        ("lrm", "scenes", "no where", "is no folder, nor a file, nor a hub id like owner/name; name the folder of a lrm step model"),
        ("value", "scenes", "{tmp}", "is not a folder with the weights"),
        ("value", "scenes", "{tmp}/file", "is not a folder with the weights"),
        ("lrm", "scenes", "{tmp}/file", "is no file of weights; a lrm step model in one file ends in .pt, "),
    ],
)
def test_what_is_not_there_is_one_sentence(tmp_path, kind, model, source, sentence):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "file").write_text("")
    where = str(tmp_path / "empty")
    if source == "{tmp}":
        (tmp_path / "empty" / "file").unlink()
    with pytest.raises(ValueError, match=sentence) as error:
        find_step_model(kind, model, source and source.replace("{tmp}", where))
    assert "\n" not in str(error.value)


def test_the_shipped_one_is_called_scenes(tmp_path, monkeypatch):
    monkeypatch.setattr(step, "SHIPPED", tmp_path)
    with pytest.raises(ValueError, match="this installation has no value step model for scenes"):
        find_step_model("value", "scenes", None)
    (tmp_path / "value").mkdir()
    (tmp_path / "value" / "model.safetensors").write_bytes(b"")
    assert find_step_model("value", "scenes", None) == find_step_model("value", "owner/name", "scenes") == "scenes"
    assert step_weights("value", "scenes") == [tmp_path / "value" / "model.safetensors"]


def test_a_hub_id_is_left_to_the_loader_of_lrm():
    assert find_step_model("lrm", "scenes", "owner/name") == absolute("owner/name") == "owner/name"
    assert step_weights("lrm", "owner/name") == []


def test_a_folder_travels_by_its_absolute_path(tmp_path, monkeypatch):
    (tmp_path / "head").mkdir()
    monkeypatch.chdir(tmp_path)
    assert absolute("head") == str(tmp_path / "head") and absolute("scenes") == "scenes"


def test_a_file_of_weights_is_a_step_model_of_lrm(tmp_path, monkeypatch):
    (tmp_path / "lrm.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert find_step_model("lrm", "scenes", "lrm.pt") == "lrm.pt" and absolute("lrm.pt") == str(tmp_path / "lrm.pt")
    assert step_weights("lrm", "lrm.pt") == [Path("lrm.pt")]


def test_the_calibration_of_a_file_lies_beside_it(tmp_path):
    level = Level(3, 0.0, "linear", (-1.0, 1.0), (0.0, 1.0), 0.0, 1.0, 0.6, 0.4, 0.0, 0.2)
    Calibration("pipeline", "lrm", "jpeg", 6, (level,)).save(tmp_path / "calibration.json")
    (tmp_path / "lrm.pt").write_bytes(b"")
    config = make_config({"algorithm": "mcts", "reward": "jpeg", "step_reward": "lrm", "step_model": str(tmp_path / "lrm.pt")})
    assert find_calibration(config, "owner/name").step_reward == "lrm"


def test_an_lrm_of_other_latents_is_refused_before_the_model_is_loaded(tmp_path, tiny_folder, tiny_xl_folder):
    own = {"kind": "lrm", "family": "sd", "unet": {}, "text_encoder": {}, "enhancement": 7.5}
    (tmp_path / "model.safetensors").write_bytes(b"")
    config = make_config({"algorithm": "psp", "step_reward": "lrm", "step_model": str(tmp_path)})
    for channels, model, sentence in (
        (4, tiny_xl_folder, "is for Stable Diffusion 1.x/2.x, and the generator is of the family SDXL"),
        (16, tiny_folder, "reads latents of 16 channels, and the generator's have 4"),
    ):
        latents = {"channels": channels, "scaling_factor": 1.0}
        (tmp_path / "config.json").write_text(json.dumps(own | {"latents": latents}))
        with pytest.raises(ValueError, match=sentence):
            check_step_model(str(model), config)


def test_a_part_of_states_is_its_rows():
    x = torch.arange(3.0).view(3, 1, 1, 1)
    states = States(x, x + 1, x + 2, x.flatten(), x.flatten(), {"mid": x + 3}, ("a", "b", "c"), x[..., 0] + 4)
    part = states.part(slice(1, 3))
    assert len(part) == 2 and part.prompts == ("b", "c")
    assert [float(value.flatten()[0]) for value in (part.x, part.x0, part.eps, part.taps["mid"], part.embeddings)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"algorithm": "psp", "step_model": "x"}, "step_model is the network of step_reward lrm or value"),
        ({"algorithm": "best-of-n", "step_reward": "value"}, "best-of-n uses no step scores; leave step_reward at none, or record"),
        ({"algorithm": "random", "step_reward": "lrm"}, "random uses no step scores"),
        ({"algorithm": "psp", "step_reward": "clip"}, "step_reward: input should be 'none', 'x0', 'lrm' or 'value'"),
    ],
)
def test_settings_that_do_not_fit_are_one_sentence(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make_config(values)


def test_scores_without_a_decode_leave_decodes_free():
    make_config({"algorithm": "psp", "step_reward": "value", "max_decodes": 1})
    make_config({"algorithm": "best-of-n", "step_reward": "lrm", "record_scores": True, "max_decodes": 2})
    for algorithm in ("psp", "fk", "mcts", "dfs"):
        assert make_config({"algorithm": algorithm, "step_reward": "lrm"}).scores_in_engine
