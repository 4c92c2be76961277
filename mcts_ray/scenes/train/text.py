"""The text side of scenes: a CLIP tokenizer whose vocabulary is the grammar's words, and a small CLIP text encoder."""

from __future__ import annotations

from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..grammar import WORDS

LENGTH = 16
START, END = "<|startoftext|>", "<|endoftext|>"


def tokenizer() -> CLIPTokenizer:
    """A stock `CLIPTokenizer` in which every word of the grammar is one token; other words fall into letters."""
    vocab, merges = _vocabulary()
    return CLIPTokenizer(
        vocab=vocab, merges=merges, bos_token=START, eos_token=END, pad_token=END, unk_token=END, model_max_length=LENGTH
    )


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-pair merges that build each word. A word is first split by the merges that earlier words already need; only
    what is then left is merged, with a lower priority, so that no word breaks another."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        parts = _split(word, merges)
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            tokens.append(parts[0])
    vocab = {token: i for i, token in enumerate([*dict.fromkeys(tokens), START, END])}
    return vocab, merges


def _split(word: str, merges: list[tuple[str, str]]) -> list[str]:
    parts = [*word[:-1], word[-1] + "</w>"]
    for left, right in merges:
        at = 0
        while at < len(parts) - 1:
            if (parts[at], parts[at + 1]) == (left, right):
                parts[at : at + 2] = [left + right]
            at += 1
    return parts


def text_encoder(width: int, layers: int) -> CLIPTextModel:
    """A `CLIPTextModel` for `tokenizer`, `width` wide."""
    words = tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return CLIPTextModel(config)
