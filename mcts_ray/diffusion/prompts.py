"""Prompt embeddings, encoded once each and kept while they are used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch


class PromptCache:
    """Least-recently-used embeddings (L tokens, D) by prompt, encoded one at a time so that none depends on its company."""

    def __init__(self, encode: Callable[[str], torch.Tensor], size: int = 256):
        self.size = size
        self._encode = encode
        self._known: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._stacked: tuple[tuple[str, ...], torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self._known)

    def get(self, prompt: str) -> torch.Tensor:
        """The embedding (L, D) of one prompt."""
        if prompt in self._known:
            self._known.move_to_end(prompt)
            return self._known[prompt]
        embedding_LD = self._known[prompt] = self._encode(prompt)
        if len(self._known) > self.size:
            self._known.popitem(last=False)
        return embedding_LD

    def stack(self, prompts: Sequence[str]) -> torch.Tensor:
        """Embeddings (N, L, D); the last batch is kept, since the slots of a running batch rarely change."""
        key = tuple(prompts)
        if self._stacked is None or self._stacked[0] != key:
            self._stacked = (key, torch.stack([self.get(prompt) for prompt in key]))
        return self._stacked[1]
