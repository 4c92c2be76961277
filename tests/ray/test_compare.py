"""A comparison on a cluster gives the figures of one in process."""

from pathlib import Path

import pytest

from mcts_ray.compare.carry_out import carry_out
from mcts_ray.compare.request import make_comparison

TIMES = "busy_seconds"


def dark(images, prompts):
    return -images.mean((1, 2, 3))


@pytest.mark.slow
def test_a_comparison_on_a_cluster_gives_the_same_figures(cluster, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a photo of a bench\ntwo clocks\n")
    world = dict(model=str(tiny_folder), reward="jpeg", gold=f"{__name__}:dark", prompts_file=Path("prompts.txt"), device="cpu")
    size = dict(levels=4, times="3", count=2, seeds=1, pool=3, policies=["k=1", "k=2"], oracle=True)
    rows = []
    for executor, more in (("local", {}), ("ray", {"workers": 1, "address": cluster.get_runtime_context().gcs_address})):
        comparison = make_comparison(["best-of-n", "mcts"], out=Path(executor), executor=executor, **world, **size, **more)
        one = carry_out(comparison)["sets"]["prompts"]
        rows.append((one["pool"], [{what: value for what, value in row.items() if what != TIMES} for row in one["rows"]]))
        assert (Path(executor) / "page.html").exists()
    assert rows[0] == rows[1] and len(rows[0][1]) == 4
