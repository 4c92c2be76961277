import math

import pytest

from mcts_ray.tree.weights import Refusal, fusion_weights
from mcts_ray.tree import Fusing, Fusions, Offer, State, Tree, Widening, select
from mcts_ray.tree.fuse import in_a_row

VALUES = [0.3, 0.7, 0.1, 0.45, 0.6, 0.52]
SEED, JUMP = State("", 9), State("", 6, 3, 0.5)
NEVER = Widening(0.0)


def grow(tree, parent, values, like=SEED, name="s"):
    """Open children of `parent`, one per value, each with its roll-out to level 0."""
    for index, value in enumerate(values):
        id = f"{name}{index}"
        child = tree.dispatch(parent, State(id, like.level, like.k, like.phi, True))
        tree.complete(child, [State(f"{id}.0", 0, like.level)], value)
    return tree


def star(values=VALUES):
    tree = Tree("root", 9)
    return grow(tree, tree.root, values)


def fuse(tree, fusions, offer, like=SEED, reward=None, name="f"):
    """Take an offer; with a `reward` it comes back."""
    child = tree.dispatch(offer.parent, State(name, like.level, like.k, like.phi, True), offer.particles)
    fusions.dispatch(offer, child)
    if reward is not None:
        tree.complete(child, [State(f"{name}.0", 0, like.level)], reward)
        fusions.complete(child, reward)
    return child


def test_an_offer_holds_the_set_its_weights_and_what_is_expected():
    tree, fusions = star(), Fusions(Fusing("signed"))
    offer, weights = fusions.consider(tree.root, SEED), fusion_weights("signed", VALUES)
    assert offer.parent is tree.root and offer.particles == ("s0", "s1", "s2", "s3", "s4", "s5")
    assert offer.weights == weights.a and offer.size == 6
    assert offer.value == pytest.approx(weights.mean + 0.5 * weights.gain)


def test_only_siblings_of_one_kernel_that_have_come_back_are_particles():
    tree = star()
    parent, fusions = tree["s1"], Fusions(Fusing("innovation"))
    grow(tree, parent, VALUES[:5], JUMP, "a")
    grow(tree, parent, VALUES, State("", 6, 3, 0.0), "no noise ")
    grow(tree, parent, VALUES, State("", 7, 2, 0.5), "another k ")
    waiting = tree.dispatch(parent, State("w", 6, 3, 0.5))
    assert fusions.consider(parent, JUMP) is None
    tree.complete(waiting, [State("w.0", 0, 6)], 0.9)
    assert fusions.consider(parent, JUMP).particles == ("a0", "a1", "a2", "a3", "a4", "w")
    assert len(fusions.consider(parent, State("", 7, 2, 0.5)).particles) == 6


def test_sets_without_noise_are_a_refusal_which_is_told_once():
    """At phi 0, and at level 0, all children of a parent are the same."""
    for like in (State("", 6, 3, 0.0), State("", 0, 9, 0.5)):
        tree, fusions = star(), Fusions(Fusing("innovation"))
        parent, told = tree["s1"], []
        for index in range(13):
            child = tree.dispatch(parent, State(f"c{index}", like.level, like.k, like.phi))
            tree.complete(child, [State(f"c{index}.0", 0, 6)] if like.level else [], 0.1 * index)
            told.append(fusions.refused(parent, like))
        assert fusions.consider(parent, like) is Refusal.NOISELESS
        assert [index + 1 for index, one in enumerate(told) if one] == [6, 12] and told[5] is Refusal.NOISELESS


def test_each_kernel_has_a_set_of_its_own():
    """Fused children by one kernel do not stand against another's, and refusals are told for each."""
    tree, fusions, other = star(), Fusions(Fusing("signed")), State("", 7, 2, 0.5)
    parent = tree["s1"]
    grow(tree, parent, VALUES, JUMP, "a")
    grow(tree, parent, VALUES, other, "b")
    offer = fusions.consider(parent, JUMP)
    assert offer.kernel == (6, 3, 0.5)
    child = fuse(tree, fusions, offer, JUMP)
    assert fusions.consider(parent, JUMP) is None
    second = fusions.consider(parent, other)
    assert second.particles == ("b0", "b1", "b2", "b3", "b4", "b5") and second.kernel == (7, 2, 0.5)
    fusions.take_back(child)  # which only its own set knows of
    fuse(tree, fusions, second, other, name="g")
    assert fusions.consider(parent, other) is None


def test_a_refusal_by_rewards_is_told_once_for_each_size():
    fusions, tree = Fusions(Fusing("innovation")), star([0.4] * 5)
    told = []
    for index in range(8):
        grow(tree, tree.root, [0.4], name=f"t{index} ")
        told.append(fusions.refused(tree.root, SEED))
    assert told == [Refusal.FLAT, *[None] * 5, Refusal.FLAT, None]  # of 6 and of 12


def test_a_larger_number_is_waited_for_unless_the_best_two_are_close():
    fusions = Fusions(Fusing("signed", after=8))
    close = star([0.3, 0.7, 0.1, 0.45, 0.65, 0.52])  # sd 0.2
    assert isinstance(fusions.consider(close.root, SEED), Offer)
    ahead = star([0.3, 0.95, 0.1, 0.45, 0.6, 0.52])
    assert fusions.consider(ahead.root, SEED) is None
    grow(ahead, ahead.root, [0.3, 0.2], name="t")
    assert fusions.consider(ahead.root, SEED).size == 8


def test_rewards_without_weights_are_a_refusal():
    fusions = Fusions(Fusing("innovation"))
    assert fusions.consider(star([0.4] * 6).root, SEED) is Refusal.FLAT
    assert fusions.consider(star([0.0, 0.01, 0.02, 0.0, 0.01, 9.0]).root, SEED) is Refusal.DOMINATED
    assert fusions.consider(star([0.4] * 5).root, SEED) is None


def test_another_fusion_needs_twice_the_siblings_and_there_are_so_many_at_most():
    tree, fusions = star(), Fusions(Fusing("signed", most=2))
    fuse(tree, fusions, fusions.consider(tree.root, SEED))
    assert fusions.consider(tree.root, SEED) is None  # out
    grow(tree, tree.root, VALUES[:5], name="t")
    assert fusions.consider(tree.root, SEED) is None
    grow(tree, tree.root, VALUES[:1], name="u")
    offer = fusions.consider(tree.root, SEED)
    assert offer.size == 12 and "f" not in offer.particles
    fuse(tree, fusions, offer, reward=0.5, name="g")
    grow(tree, tree.root, VALUES * 5, name="v")
    assert fusions.consider(tree.root, SEED) is None


def test_a_refused_fusion_leaves_no_trace_but_that_its_set_must_double():
    tree, fusions = star(), Fusions(Fusing("signed"))
    before = [(n.visits, n.in_flight, n.certainty, n.draws, n.lost, n.open) for n in (tree.root, *tree)]
    child = fuse(tree, fusions, fusions.consider(tree.root, SEED))
    fusions.take_back(child)
    tree.take_back(child)
    assert [(n.visits, n.in_flight, n.certainty, n.draws, n.lost, n.open) for n in (tree.root, *tree)] == before
    grow(tree, tree.root, VALUES[:5], name="t")
    assert fusions.consider(tree.root, SEED) is None
    grow(tree, tree.root, VALUES[:1], name="u")
    assert fusions.consider(tree.root, SEED).size == 12


@pytest.mark.parametrize("depth", [1, 2])
def test_fused_noises_in_a_row_are_capped(depth):
    tree, fusions = star(), Fusions(Fusing("signed", depth=depth))
    first = fuse(tree, fusions, fusions.consider(tree.root, SEED), reward=0.5)
    inner = tree.dispatch(first, State("i", 7, 2))  # a noise-free move does not part the row
    tree.complete(inner, [State("i.0", 0, 7)], 0.5)
    like = State("", 5, 2, 0.5)
    grow(tree, inner, VALUES, like, "a")
    assert (in_a_row(tree["s0"]), in_a_row(first), in_a_row(inner), in_a_row(tree["a0"])) == (0, 1, 1, 0)
    offer = fusions.consider(inner, like)
    assert (offer is None) == (depth == 1)
    if offer:
        assert in_a_row(fuse(tree, fusions, offer, like, name="g")) == 2
    grow(tree, tree["a0"], VALUES, State("", 3, 2, 0.5), "b")  # fresh noise between does
    assert isinstance(fusions.consider(tree["a0"], State("", 3, 2, 0.5)), Offer)


def test_the_share_of_the_promised_gain_is_learned():
    tree, fusions = star(), Fusions(Fusing("signed", most=9))
    offer = fusions.consider(tree.root, SEED)
    fuse(tree, fusions, offer, reward=offer.mean + offer.gain)
    assert fusions.kappa == pytest.approx(0.8 * 0.5 + 0.2 * 1)
    grow(tree, tree.root, VALUES, name="t")
    later = fusions.consider(tree.root, SEED)
    assert later.value == pytest.approx(later.mean + 0.6 * later.gain)
    fuse(tree, fusions, later, reward=-1e9, name="g")
    assert fusions.kappa == pytest.approx(0.8 * 0.6 - 0.2 * 2)


def test_a_fused_child_counts_like_others_but_predicts_no_fresh_one():
    tree, fusions = star(), Fusions(Fusing("signed"))
    fresh, draws = tree.root.fresh, tree.root.draws
    child = fuse(tree, fusions, fusions.consider(tree.root, SEED), reward=5.0)
    assert child.action == "fuse" and (tree.root.fresh, tree.root.draws) == (fresh, draws)
    assert (tree.root.visits, len(tree.root.children), tree.root.best) == (7, 7, 5.0)
    assert tree.root.value == pytest.approx((sum(VALUES) + 5.0) / 7)


def test_particles_are_kept_or_retired():
    for retire in (False, True):
        tree, fusions = star(), Fusions(Fusing("signed", retire=retire))
        grow(tree, tree.root, [0.99], name="t")
        offer = fusions.consider(tree.root, SEED)
        grow(tree, tree.root, [0.2], name="later ")
        child = fuse(tree, fusions, offer)
        assert len(tree.root.arms) == 8  # not before it has come back
        tree.complete(child, [State("f.0", 0, 9)], 0.1)
        fusions.complete(child, 0.1)
        chosen = select(tree, 0.0, NEVER, lambda node: True)
        assert chosen.id == ("later 0" if retire else "t0")
        assert tree.root.visits == 9 and len(tree.root.children) == 9 and tree.root.best == 0.99


def test_fusing_competes_with_widening_and_deepening():
    tree, fusions = star(), Fusions(Fusing("signed"))
    tree.root.visits = 100  # so that exploration tells

    def chosen(beta, kappa, widening=NEVER, affordable=lambda node: True):
        fusions.kappa = kappa
        return select(tree, beta, widening, affordable, lambda node: fusions.consider(node, SEED))

    offer = fusions.consider(tree.root, SEED)
    tie = (0.7 - offer.mean) / offer.gain  # kappa at which it is worth as much as the best child
    assert isinstance(chosen(0.0, tie + 0.01), Offer) and chosen(0.0, tie - 0.01) is tree["s1"]
    assert isinstance(chosen(0.0, tie + 0.01, affordable=lambda node: node is tree.root), Offer)
    assert chosen(0.0, tie + 0.01, affordable=lambda node: node is not tree.root) is tree["s1"]
    tree.root.firsts = 6 * 0.8  # fresh children are worth more than the best one
    even = (0.8 - offer.mean) / offer.gain
    assert chosen(0.0, even - 0.01, Widening()) is tree.root and isinstance(chosen(0.0, even + 0.01, Widening()), Offer)


def test_the_virtual_fused_child_has_a_count_of_one():
    tree, fusions = star(), Fusions(Fusing("signed"))
    best = tree["s1"]
    tree.root.visits, best.certainty = 9, 1 / 2  # of which 4 through the best
    fusions.kappa = 0.0
    mean = fusions.consider(tree.root, SEED).value
    even = (best.value - mean) / (tree.spread.sd * math.sqrt(2 * math.log(9)) * (1 - 1 / 2))
    tree.root.arms = [best]
    for beta, fused in ((even * 1.01, True), (even * 0.99, False)):
        found = select(tree, beta, NEVER, lambda node: True, lambda node: fusions.consider(node, SEED))
        assert isinstance(found, Offer) == fused


def test_a_fusion_of_which_one_child_is_there_counts_though_another_is_lost():
    tree, fusions = star(), Fusions(Fusing("ensemble", children=2))
    offer = fusions.consider(tree.root, SEED)
    first = tree.dispatch(tree.root, SEED, offer.particles)
    fusions.dispatch(offer, first)
    fuse(tree, fusions, fusions.following(offer), name="g")
    fusions.take_back(first)
    tree.take_back(first)
    grow(tree, tree.root, VALUES, name="t")
    assert fusions.consider(tree.root, SEED) is None


def test_a_value_that_has_overflowed_is_a_refusal():
    tree, fusions = star(), Fusions(Fusing("innovation"))
    list(tree.root.children)[0].value = math.inf
    assert fusions.consider(tree.root, SEED) is Refusal.FAILED
