from mcts_ray.search.ids import child_id, fuse_id, jump_id, root_id, seed_id


def test_ids_never_change():
    # Golden values: blake2b of the parts joined by \x1f, digest_size=16; noise hangs on them, so they are for ever.
    assert root_id(0) == "59b57783571cbc5e9bcd6caa9bb7bbb7"
    assert seed_id(0, 0) == "f46c96252eec97525a4decab77a098cf"
    assert jump_id(seed_id(0, 0), 2) == "8764962bf70a3b42e893091e3f41257b"


def test_every_part_of_the_name_matters():
    parent = seed_id(0, 0)
    names = {parent, seed_id(0, 1), seed_id(1, 0), jump_id(parent, 1), jump_id(parent, 2), jump_id(parent, 1, 1)}
    assert len(names) == 6


def test_a_fused_node_is_named_after_its_rule_particles_and_weights():
    name = fuse_id("p", "signed", ("a", "b"), (0.5, -0.25))
    assert name == child_id("p", "fuse", "signed", "a", "b", 0.5, -0.25)
    others = [("q", "signed", ("a", "b")), ("p", "innovation", ("a", "b")), ("p", "signed", ("b", "a"))]
    assert name not in [fuse_id(*other, (0.5, -0.25)) for other in others]
    assert name != fuse_id("p", "signed", ("a", "b"), (0.5, -0.250001))


def test_parts_do_not_run_into_each_other():
    assert child_id("ab", "c") != child_id("a", "bc")
    assert child_id("a", "jump", 1, 11) != child_id("a", "jump", 11, 1)


def test_seeds_hang_on_the_job_seed_alone():
    assert seed_id(7, 3) == child_id(root_id(7), "seed", 3)
