"""Names of nodes: a node's id is a hash of its parent's id, its action and its noise key, so that it can be replayed.

The noise of a node is drawn from its id (`mcts_ray.diffusion.noise`), never from a generator shared by a batch. Seeds
hang on the job's seed alone: every algorithm and every prompt with the same seed starts from the same initial noises.
"""

from __future__ import annotations

from hashlib import blake2b


def _digest(*parts: str | int | float) -> str:
    """128-bit blake2b of the parts, as 32 hex digits; the separator keeps ("ab", "c") apart from ("a", "bc")."""
    text = "\x1f".join(str(part) for part in parts)
    return blake2b(text.encode(), digest_size=16).hexdigest()


def root_id(seed: int) -> str:
    """The id from which all seeds of a job descend."""
    return _digest("root", seed)


def child_id(parent: str, action: str, *key: str | int | float) -> str:
    """The id of the child that `action` makes from `parent`; `key` tells draws of the same action apart."""
    return _digest(parent, action, *key)


def seed_id(seed: int, index: int) -> str:
    """The `index`-th initial noise x_T of a job."""
    return child_id(root_id(seed), "seed", index)


def jump_id(parent: str, k: int, index: int = 0) -> str:
    """The `index`-th jump of `k` levels from `parent`."""
    return child_id(parent, "jump", k, index)


def fuse_id(parent: str, mode: str, particles: tuple[str, ...], weights: tuple[float, ...], *draw: int) -> str:
    """The child of `parent` whose noise is fused from those of its `particles`, in this order, by the rule `mode`; `draw` tells
    those apart that the rule gives a draw of their own."""
    return child_id(parent, "fuse", mode, *particles, *weights, *draw)
