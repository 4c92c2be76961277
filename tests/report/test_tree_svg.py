"""The drawing of a tree: every node once, from left to right, fused ones marked."""

import re

import pytest

from mcts_ray.report.tree_layout import forest
from mcts_ray.report.tree_svg import SHADES, Drawing, Scale, node_data, shades_css
from tests.report.trees import chains, large_tree, small_tree


def drawing(grower, **fields):
    tree = forest(grower.nodes)
    return Drawing(tree, max(node["level"] for node in tree.nodes), **fields)


@pytest.mark.parametrize("grower", [small_tree(), large_tree(300), chains(2, 1000)], ids=["small", "large", "chains"])
def test_every_node_and_edge_is_drawn_once(grower):
    draw = drawing(grower)
    svg = draw.view(range(len(grower.nodes)))
    dots = re.findall(r'<circle[^>]* data-n="(\d+)"', svg) + re.findall(r'<path class="fused[^>]* data-n="(\d+)"', svg)
    edges = re.findall(r'<path d="M[^>]* data-n="(\d+)"', svg)
    assert sorted(map(int, dots)) == list(range(len(grower.nodes)))
    assert sorted(map(int, edges)) == [i for i, node in enumerate(grower.nodes) if node["parent"] is not None]


def test_children_lie_right_of_their_parents():
    draw = drawing(large_tree(300))
    for node, parent in enumerate(draw.tree.parents):
        if parent >= 0:
            assert draw.x(draw.tree.nodes[node]["level"]) > draw.x(draw.tree.nodes[parent]["level"])


def test_fused_nodes_are_diamonds_with_a_line_from_every_particle():
    draw = drawing(small_tree())
    (fused,) = draw.tree.particles
    svg = draw.view(range(len(draw.tree.nodes)))
    assert len(re.findall(r'class="fused v\d+"', svg)) == 1
    (arcs,) = re.findall(rf'class="fusion" d="([^"]*)" data-f="{fused}"', svg)
    assert arcs.count("M") == 2


def test_the_best_path_is_highlighted():
    grower = small_tree()
    best = len(grower.nodes) - 2
    draw = drawing(grower, best=best)
    marked = re.findall(r'<path class="best" [^>]*data-n="(\d+)"', draw.view(range(len(grower.nodes))))
    assert sorted(map(int, marked)) == sorted(draw.tree.path(best)[:-1])


def test_jump_sizes_are_written_where_they_change():
    draw = drawing(small_tree())
    sizes = re.findall(r'class="k"[^>]*>(\d+)<', draw.view(range(len(draw.tree.nodes))))
    # seed 1: 4 (and 4 again, unwritten); seed 2: both particles 4, then 2; the fused one 4, then 1; in flight: 1, unwritten
    assert sorted(map(int, sizes)) == [1, 2, 2, 4, 4, 4, 4]


def test_leaves_carry_rewards_badges_and_thumbnails():
    grower = small_tree()
    best = len(grower.nodes) - 2
    svg = drawing(grower, thumbnails=[best], badges={best: "#1"}).view(range(len(grower.nodes)))
    assert svg.count('class="reward"') == 4 and f'<use href="#t{best}"' in svg
    assert '0.9000 <tspan class="badge">#1</tspan>' in svg


def test_nodes_without_a_value_are_hollow():
    assert drawing(small_tree()).view(range(len(small_tree().nodes))).count('circle class="none"') == 1


def test_the_scale():
    scale = Scale([-50.0, *range(1, 100)])
    assert scale.clipped and scale.high == 99 and 0 < scale.low < 10
    assert scale.shade(-50.0) == "v0" and scale.shade(99) == f"v{SHADES - 1}" and scale.shade(None) == "none"
    assert Scale([2.0, 2.0]).shade(2.0) == f"v{SHADES - 1}"
    assert Scale([]).shade(None) == "none"
    assert shades_css().count("{fill:#") == SHADES


def test_node_data():
    nodes = small_tree().nodes
    next(node for node in nodes if node["action"] == "fuse").update(cosine=0.7512345, ess=3.25)
    tree = forest(nodes)
    rows = node_data(tree)
    (fused,) = tree.particles
    assert rows[0][0] == -1 and rows[0][1:4] == [8, "seed", 1]
    assert rows[fused][8:] == [0.75123, 3.25, None, tree.particles[fused]]
    assert node_data(forest(small_tree().nodes))[fused][8:] == [None, None, None, tree.particles[fused]]
    assert rows[tree.particles[fused][0]][5:7] == [0.6, 0.5]
