import torch

from mcts_ray.gain.network import GainNetwork, waves

TARGETS = ("reward_rate", "similarity", "jump_error", "value")


def test_every_jump_in_one_pass_and_k_1_is_0_by_definition():
    torch.manual_seed(0)
    network = GainNetwork(10, (1, 2, 4), TARGETS, width=16)
    torch.nn.init.normal_(network.head[-1].weight)
    torch.nn.init.normal_(network.head[-1].bias)
    network.zero.copy_(torch.tensor([0.0, 0.0, -0.7, 0.0]))
    network.eval()
    features_BF, log_snr_B, landing_BK = torch.randn(5, 10), torch.randn(5), torch.randn(5, 3)
    mean_BKM, log_variance_BKM = network(features_BF, log_snr_B, landing_BK)
    assert mean_BKM.shape == log_variance_BKM.shape == (5, 3, 4)
    assert (mean_BKM[:, 0, 2] == -0.7).all() and (mean_BKM[:, 0, 3] == 0).all() and (log_variance_BKM[:, 0, 2:] == -7).all()
    assert mean_BKM[:, 1:].std() > 0 and mean_BKM[:, 0, :2].std() > 0
    alone = network(features_BF[2:3], log_snr_B[2:3], landing_BK[2:3])[0]
    torch.testing.assert_close(alone[0], mean_BKM[2])
    moved = network(features_BF, log_snr_B, landing_BK + 1)[0]
    assert (moved[:, 1:] != mean_BKM[:, 1:]).any()  # where a jump lands is a condition


def test_targets_share_no_weights():
    """A loss on one target moves its part of every parameter and no other; parts of several states make one state again."""
    torch.manual_seed(0)
    network, other = (GainNetwork(10, (1, 2, 4), TARGETS, width=16).eval() for _ in range(2))
    network.head[-1].weight.data.normal_()
    mean_BKM, log_variance_BKM = network(torch.randn(5, 10), torch.randn(5), torch.randn(5, 3))
    (mean_BKM + log_variance_BKM)[..., 1].sum().backward()
    for name, value in network.named_parameters():
        assert value.grad[1].abs().sum() > 0, name
        assert value.grad[[0, 2, 3]].abs().sum() == 0, name
    states = [one.state_dict() for one in (network, other)]
    joined = network.joined({name: network.part(states[name == "similarity"], name) for name in TARGETS})
    assert torch.equal(joined["jump"][1], other.jump[1]) and torch.equal(joined["jump"][[0, 2, 3]], network.jump[[0, 2, 3]])
    assert set(joined) == set(states[0])
    seen = torch.randn(5, 10), torch.randn(5), torch.randn(5, 3)
    some, every = network.only(("similarity", "value"))(*seen), network(*seen)
    torch.testing.assert_close(some[0], every[0][..., [1, 3]])
    torch.testing.assert_close(some[1], every[1][..., [1, 3]])


def test_it_is_small_on_scenes():
    """640 numbers of taps, 8 of x0, 192 of the prompt."""
    assert sum(value.numel() for value in GainNetwork(840, (1, 2, 4, 8), TARGETS).parameters()) <= 500_000


def test_infinite_noise_is_no_trouble():
    assert torch.isfinite(waves(torch.tensor([float("inf"), -float("inf"), 0.0]))).all()
