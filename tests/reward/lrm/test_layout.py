import pytest

from mcts_ray.reward.lrm.layout import find


def test_no_torch_is_needed_to_look():
    import subprocess
    import sys

    code = "import sys, mcts_ray.reward.lrm, mcts_ray.reward.lrm.layout, mcts_ray.reward.lrm.pairs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_sources_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{}")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"kind": "value"}')
    (tmp_path / "other" / "model.safetensors").write_text("")
    cases = {
        "empty": "holds no latent reward model: neither config.json with model.safetensors, nor unet/",
        "notes.txt": "is no file of weights",
        "half": "has no model.safetensors",
        "other": "describes no latent reward model",
    }
    for name, sentence in cases.items():
        with pytest.raises(ValueError, match=sentence) as error:
            find(str(tmp_path / name))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="neither a folder, nor a file, nor a hub id"):
        find("not there")


def _hub(monkeypatch, tmp_path, error=None):
    """A hub whose one repository lies in `tmp_path`, and what was asked of it."""
    import huggingface_hub as hub

    asked = []

    def model_info(self, repo, timeout):
        if error:
            raise error

    def snapshot_download(repo, allow_patterns=None, local_files_only=False):
        asked.append((repo, allow_patterns, local_files_only))
        return str(tmp_path)

    monkeypatch.setattr(hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return asked


def test_a_folder_of_a_hub_repository(monkeypatch, tmp_path):
    for name in ("unet/config.json", "text_encoder/config.json", "state_dict.pt"):
        path = tmp_path / "lrm_sd15" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    asked = _hub(monkeypatch, tmp_path)
    layout = find("casiatao/LRM/lrm_sd15")
    assert layout.kind == "published" and layout.path == tmp_path / "lrm_sd15"
    assert asked == [("casiatao/LRM", ["lrm_sd15", "lrm_sd15/*"], False)]
    with pytest.raises(ValueError, match="the hub repository casiatao/LRM has no lrm_sd3"):
        find("casiatao/LRM/lrm_sd3")


def test_without_a_connection_the_cache_is_used_or_one_sentence_said(monkeypatch, tmp_path):
    (tmp_path / "lrm.pt").write_text("")
    asked = _hub(monkeypatch, tmp_path, error=OSError("no connection\nat all"))
    assert find("owner/name/lrm.pt").kind == "flat" and asked == [("owner/name", None, True)]
    with pytest.raises(ValueError, match="the hub does not give it") as error:
        find("owner/name/other")
    assert "\n" not in str(error.value)
