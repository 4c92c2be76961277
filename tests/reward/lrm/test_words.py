from types import SimpleNamespace

import pytest

from mcts_ray.reward.lrm.words import Words
from tests.reward.lrm.published import PIPELINES
from tests.tiny import tiny_tokenizer


def test_ids_are_padded_and_cut_to_the_full_length():
    words = Words.of_pipeline(PIPELINES["sdxl"]())
    ids = words(["a", "a prompt of far more than sixteen letters"])
    assert [tuple(part.shape) for part in ids] == [(2, 16), (2, 16)]
    assert len(Words.of_pipeline(PIPELINES["sd"]()).tokenizers) == 1


def test_the_tokenizer_that_belongs_to_the_text_encoder(tmp_path, monkeypatch):
    pipe = PIPELINES["sd"]()
    same = SimpleNamespace(family="sd", text_encoder=pipe.text_encoder)
    assert Words.choose(same, pipe, tmp_path).tokenizers == (pipe.tokenizer,)
    config = SimpleNamespace(**{**pipe.text_encoder.config.to_dict(), "hidden_size": 768})
    other = SimpleNamespace(family="sd", text_encoder=SimpleNamespace(config=config))  # of Stable Diffusion 1.x on a 2.x generator

    from transformers import CLIPTokenizer

    asked = []
    original = CLIPTokenizer.from_pretrained
    monkeypatch.setattr(CLIPTokenizer, "from_pretrained", lambda source, **_: asked.append(source) or (_ for _ in ()).throw(OSError()))
    with pytest.raises(ValueError, match="put CLIP's tokenizer into a folder tokenizer"):
        Words.choose(other, pipe, tmp_path)
    assert asked == ["openai/clip-vit-large-patch14"]
    monkeypatch.setattr(CLIPTokenizer, "from_pretrained", original)
    tiny_tokenizer(length=8).save_pretrained(tmp_path / "tokenizer")
    assert Words.choose(other, pipe, tmp_path)(["a fox"])[0].shape == (1, 8)
