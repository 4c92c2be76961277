import torch

from mcts_ray.diffusion.prompts import Condition, PromptCache


def counting_cache(size):
    seen = []

    def encode(prompt, negative):
        seen.append("-" * negative + prompt)
        return Condition(torch.full((2, 3), float(ord(prompt))), torch.tensor([float(negative)]))

    return PromptCache(encode, size), seen


def test_encodes_each_prompt_once_and_forgets_the_least_recent():
    cache, seen = counting_cache(2)
    cache.get("a"), cache.get("b"), cache.get("a"), cache.get("c")
    assert seen == ["a", "b", "c"] and len(cache) == 2
    cache.get("a")
    assert seen == ["a", "b", "c"]
    cache.get("b")
    assert seen == ["a", "b", "c", "b"]


def test_stack_larger_than_the_cache():
    cache, seen = counting_cache(2)
    stacked = cache.stack(["a", "b", "c", "b"])
    assert stacked.embedding.shape == (4, 2, 3) and stacked.embedding[:, 0, 0].tolist() == [97, 98, 99, 98]
    assert stacked.pooled.shape == (4, 1)
    assert cache.stack(["a", "b", "c", "b"]) is stacked and seen == ["a", "b", "c"]


def test_a_negative_prompt_is_another_entry():
    cache, seen = counting_cache(4)
    stacked = cache.stack(["a", "b"], ["b", "a"])
    assert seen == ["a", "b", "-b", "-a"] and stacked.pooled[:, 0].tolist() == [0, 0, 1, 1]
    assert cache.stack(["a", "b", "b"], ["a"]) is not stacked and len(seen) == 4


def test_the_pipelines_own_embedding(pipe, denoiser):
    """Padding, truncation and attention conventions of the pipeline, for prompt and negative prompt."""
    for prompt in ("a red circle", "", "blue square left of a yellow ring, and more words than fit"):
        cond, uncond = pipe.encode_prompt(prompt, "cpu", 1, True, negative_prompt="green")
        assert torch.equal(denoiser.prompts.get(prompt).embedding, cond[0])
        assert torch.equal(denoiser.prompts.get("green", negative=True).embedding, uncond[0])
