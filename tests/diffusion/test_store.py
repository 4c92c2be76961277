"""Kept states and their limit."""

import torch

from mcts_ray.diffusion.store import Kept, Store


def kept(cells=16):
    return Kept(3, torch.zeros(1, cells), torch.zeros(1, cells), 1.0, 0.0)


def test_the_account_follows_what_is_there():
    store = Store()
    store.put("a", "1", kept())
    store.put("a", "1", kept())
    store.put("a", "2", kept(32))
    store.put("b", "1", kept())
    assert len(store) == 3 and store.size == 128 + 256 + 128
    store.forget("a", ["2", "nothing"])
    store.drop("b")
    assert len(store) == 1 and store.size == 128 and store.get("b", "1") is None
    store.trim(set)
    assert len(store) == 1


def test_what_has_not_been_used_for_longest_goes_unless_it_is_needed():
    store = Store(limit=256)
    for node in "1234":
        store.put("a", node, kept())
    store.get("a", "1")
    store.trim(lambda: {("a", "2")})
    assert [store.get("a", node) is not None for node in "1234"] == [True, True, False, False] and store.size == 256
