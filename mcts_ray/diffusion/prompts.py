"""What prompts tell the network, encoded once each and kept while they are used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Condition:
    """One encoded prompt, or N stacked ones.

    embedding: (L, D) or (N, L, D), of L tokens. pooled: (P,) or (N, P), of the whole prompt, for networks that read it.
    """

    embedding: torch.Tensor
    pooled: torch.Tensor | None = None

    @classmethod
    def stack(cls, conditions: Sequence[Condition]) -> Condition:
        """N conditions of one model as one."""
        pooled = [each.pooled for each in conditions if each.pooled is not None]
        return cls(torch.stack([each.embedding for each in conditions]), torch.stack(pooled) if pooled else None)


class PromptCache:
    """Least-recently-used conditions, encoded one at a time so that none depends on its company.

    A text as a negative prompt is another entry: some pipelines read it differently.
    """

    def __init__(self, encode: Callable[[str, bool], Condition], size: int = 256):
        self.size = size
        self._encode = encode
        self._known: OrderedDict[tuple[str, bool], Condition] = OrderedDict()
        self._stacked: tuple[tuple[tuple[str, bool], ...], Condition] | None = None

    def __len__(self) -> int:
        return len(self._known)

    def get(self, prompt: str, negative: bool = False) -> Condition:
        """The condition of one prompt."""
        key = prompt, negative
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        condition = self._known[key] = self._encode(prompt, negative)
        if len(self._known) > self.size:
            self._known.popitem(last=False)
        return condition

    def stack(self, prompts: Sequence[str], negative_prompts: Sequence[str] = (), filler: int = 0) -> Condition:
        """The conditions of the prompts, then of the negative ones, then the first one `filler` times; the last batch is kept, since
        the slots of a running batch rarely change."""
        key = (*((prompt, False) for prompt in prompts), *((prompt, True) for prompt in negative_prompts))
        key += key[:1] * filler
        if self._stacked is None or self._stacked[0] != key:
            self._stacked = (key, Condition.stack([self.get(*each) for each in key]))
        return self._stacked[1]
