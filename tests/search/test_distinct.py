import random

from mcts_ray.search import Candidate
from mcts_ray.search.distinct import Families
from mcts_ray.tree import State, Tree


def grown(edges):
    """A tree from (id, parent, level, k, phi) rows and the families of its leaves."""
    tree, families = Tree("root", 10), Families(10)
    for id, parent, level, k, phi in edges:
        node = tree.dispatch(tree[parent] if parent else tree.root, State(id, level, k, phi))
        if level == 0:
            families.add(node)
    return families


def found(**rewards):
    return [Candidate(node, reward, 0, 0.0) for node, reward in rewards.items()]


def nodes(candidates):
    return [candidate.node for candidate in candidates]


TREE = [
    ("s", None, 10, 0, 0.0),
    ("s8", "s", 8, 2, 0.0),
    ("a", "s8", 0, 8, 0.0),  # the seed's own image
    ("b", "s8", 5, 3, 0.5),  # new noise at level 8
    ("b0", "b", 0, 5, 0.0),
    ("b1", "b", 0, 5, 0.5),  # and again at level 5
    ("c0", "b", 3, 2, 0.0),
    ("c1", "c0", 0, 3, 0.0),  # b0 by other steps
    ("t", None, 10, 0, 0.0),
    ("t0", "t", 0, 10, 0.0),
]


def test_one_image_of_a_family_then_of_a_branch_never_the_same_image_twice():
    families = grown(TREE)
    finished = found(a=0.1, b0=0.9, b1=0.8, c1=0.7, t0=0.3)
    assert nodes(families.best(finished, 1)) == ["b0"]
    assert nodes(families.best(finished, 2)) == ["b0", "t0"]
    assert nodes(families.best(finished, 3)) == ["b0", "t0", "a"]
    assert nodes(families.best(finished, 4)) == ["b0", "b1", "t0", "a"]
    assert nodes(families.best(finished, 5)) == ["b0", "b1", "t0", "a"]


def test_of_equal_images_the_earlier():
    families = grown(TREE)
    assert nodes(families.best(found(t0=0.5, a=0.5, b0=0.5), 2)) == ["t0", "a"]


def test_what_has_left_the_best_never_comes_back():
    rng = random.Random(0)
    for n in (1, 2, 4):
        for _ in range(60):
            rows, finished, left = [("s0", None, 10, 0, 0.0), ("s1", None, 10, 0, 0.0)], [], set()
            inner = [("s0", 10), ("s1", 10)]
            before: set[str] = set()
            for index in range(25):
                parent, level = rng.choice(inner)
                s = rng.choice([0, rng.randrange(level)])
                rows.append((f"n{index}", parent, s, level - s, rng.choice([0.0, 0.5])))
                if s:
                    inner.append((f"n{index}", s))
                    continue
                finished.append(Candidate(f"n{index}", round(rng.random(), 1), 0, 0.0))
                now = set(nodes(grown(rows).best(finished, n)))
                assert not now & left and len(now) <= n
                left |= before - now
                before = now
