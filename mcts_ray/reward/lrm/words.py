"""Prompts as token ids, by the tokenizer that belongs to a text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

CLIP = "openai/clip-vit-large-patch14"  # the tokenizer of the published models
SAME = ("vocab_size", "hidden_size", "num_hidden_layers")


class Words:
    """The tokenizers of one or two text encoders. Calling it: B prompts -> token ids (B, L) for each, padded to the full length."""

    def __init__(self, *tokenizers) -> None:
        self.tokenizers = tokenizers

    def __call__(self, prompts: Sequence[str]) -> tuple[torch.Tensor, ...]:
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return tuple(words(list(prompts), max_length=words.model_max_length, **options).input_ids for words in self.tokenizers)

    @classmethod
    def of_pipeline(cls, pipe) -> Words:
        """Those of the generator."""
        return cls(*(words for words in (pipe.tokenizer, getattr(pipe, "tokenizer_2", None)) if words is not None))

    @classmethod
    def choose(cls, model, pipe, folder: Path) -> Words:
        """For a model that was loaded from `folder`: the tokenizer that lies there, else the generator's if its text encoder is of
        the same make, else CLIP's from the hub (an LRM of Stable Diffusion 1.x on a 2.x pipeline). ValueError if that is out of reach.
        """
        if (folder / "tokenizer").is_dir():
            names = ("tokenizer",) if model.family == "sd" else ("tokenizer", "tokenizer_2")
            return cls(*(_load(str(folder), name) for name in names))
        theirs, ours = pipe.text_encoder.config, model.text_encoder.config
        if model.family == "sdxl" or all(getattr(theirs, name) == getattr(ours, name) for name in SAME):
            return cls.of_pipeline(pipe)
        return cls(_load(CLIP))


def _load(source: str, subfolder: str = ""):
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(source, subfolder=subfolder)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the tokenizer of this latent reward model is not in {source} ({type(error).__name__}); "
            "put CLIP's tokenizer into a folder tokenizer beside its weights"
        ) from None
