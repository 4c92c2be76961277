import pytest
import torch

from mcts_ray.reward.value.data import Trajectories
from tests.reward.value.conftest import LEVELS, PROMPTS


def test_groups_are_the_states_of_one_prompt_at_one_level(collected):
    data = Trajectories(collected)
    assert len(data.groups) == len(PROMPTS) * LEVELS and {len(group) for group in data.groups} == {4}
    for group in data.groups:
        shard, rows = data.shards[group.shard], slice(group.start, group.stop)
        assert shard["prompt"][rows].unique().tolist() == [group.prompt] and shard["level"][rows].unique().tolist() == [group.level]
        assert shard["trajectory"][rows].tolist() == [0, 1, 2, 3]


def test_prompts_are_on_one_side_only_and_always_the_same(collected):
    kept, held = Trajectories(collected).split()
    assert {g.prompt for g in kept}.isdisjoint(g.prompt for g in held) and len({g.prompt for g in held}) == 1
    assert Trajectories(collected).split() == (kept, held) and Trajectories(collected).key == Trajectories(collected).key


def test_a_batch_holds_its_groups_in_order(collected):
    data = Trajectories(collected)
    chosen = [data.groups[7], data.groups[0]]
    batch = data.batch(chosen)
    assert batch.group.tolist() == [0] * 4 + [1] * 4 and batch.x.dtype == torch.float32
    assert torch.equal(batch.reward[4:], data.shards[0]["reward"][:4])
    assert torch.equal(batch.embeddings[0], data.shards[0]["embeddings"][chosen[0].prompt].float())
    shapes = {name: tuple(tap.shape) for name, tap in batch.taps.items()}
    assert shapes == {"mid": (8, 16, 4, 4), "up.0": (8, 16, 8, 8), "up.1": (8, 8, 8, 8)}


def test_a_folder_without_trajectories_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no trajectories"):
        Trajectories(tmp_path)
