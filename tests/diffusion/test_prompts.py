import torch

from mcts_ray.diffusion.prompts import PromptCache


def counting_cache(size):
    seen = []

    def encode(prompt):
        seen.append(prompt)
        return torch.full((2, 3), float(ord(prompt)))

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
    assert stacked.shape == (4, 2, 3) and stacked[:, 0, 0].tolist() == [97, 98, 99, 98]
    assert cache.stack(["a", "b", "c", "b"]) is stacked and seen == ["a", "b", "c"]


def test_the_pipelines_own_embedding(pipe, denoiser):
    """Padding, truncation and attention conventions of the pipeline, for prompt and negative prompt."""
    for prompt in ("a red circle", "", "blue square left of a yellow ring, and more words than fit"):
        cond, uncond = pipe.encode_prompt(prompt, "cpu", 1, True, negative_prompt="green")
        assert torch.equal(denoiser.prompts.get(prompt), cond[0])
        assert torch.equal(denoiser.prompts.get("green"), uncond[0])
