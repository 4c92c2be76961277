import pytest
import torch

from mcts_ray.reward.value.network import Look, Map, Shape, ValueNetwork, fourier, places, to_grid

SHAPE = Shape({"mid": 6, "up.0": 5}, latent=4, text=8, grid=4, width=16, heads=2)


def inputs(n, sides=(2, 4, 4)):
    torch.manual_seed(0)
    taps = {"mid": torch.randn(n, 6, sides[0], sides[0]), "up.0": torch.randn(n, 5, sides[1], sides[1])}
    latent = torch.randn(2, n, 4, sides[2], sides[2])
    return taps, latent[0], latent[1], torch.linspace(-9, 9, n), torch.randn(n, 7, 8)


@pytest.mark.parametrize("sides", [(2, 4, 4), (1, 8, 16), (4, 3, 5)])
def test_maps_of_any_size_come_to_one_grid(sides):
    said = ValueNetwork(SHAPE).eval()(*inputs(3, sides))
    assert said.mean.shape == said.log_variance.shape == (3,)
    assert said.verdict.shape == (3, 7) and said.where.shape == (3, 7, 2)


def test_a_fresh_network_predicts_the_mean_and_the_variance_of_the_rewards():
    said = ValueNetwork(SHAPE)(*inputs(5))
    assert (said.mean == 0).all() and (said.log_variance == 0).all()


def test_states_do_not_depend_on_their_company():
    network = ValueNetwork(SHAPE).eval()
    torch.nn.init.normal_(network.head[-1].weight)
    taps, *rest = inputs(4)
    together = network(taps, *rest).mean
    alone = [network({k: v[i : i + 1] for k, v in taps.items()}, *(value[i : i + 1] for value in rest)).mean for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=1e-5)


def test_a_look_is_what_the_stock_layer_does():
    torch.manual_seed(0)
    options = {"dim_feedforward": 24, "activation": "gelu", "batch_first": True, "norm_first": True}
    stock, look = torch.nn.TransformerDecoderLayer(12, 3, **options).eval(), Look(12, 3, **options).eval()
    for weight in stock.parameters():  # biases too, which begin at 0
        torch.nn.init.normal_(weight, std=0.3)
    look.load_state_dict(stock.state_dict())
    words, patches = torch.randn(2, 5, 12), torch.randn(2, 9, 12)
    torch.testing.assert_close(look(words, look.seen(patches)), stock(words, patches), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [4, 2])
def test_maps_are_read_in_standard_units(side):
    """Of a map as large as the grid, and of a smaller one, which is projected before it is brought to the grid."""
    torch.manual_seed(0)
    module, seen = Map(6, 16), 3 + 2 * torch.randn(2, 6, side, side)
    module.center.copy_(torch.randn(6))
    module.spread.copy_(0.5 + torch.rand(6))
    wanted = (seen - module.center[:, None, None]) / module.spread[:, None, None]
    wanted = torch.einsum("bchw,dc->bdhw", wanted, module.project.weight) + module.project.bias[:, None, None]
    wanted = to_grid(wanted, 4, exact=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(module(seen, 4), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_it_learns_what_only_place_and_word_together_tell():
    """The truth is the value of a channel at the place that a word names: no pooled feature has it."""
    torch.manual_seed(0)
    network = ValueNetwork(Shape({"up.0": 5}, latent=4, text=8, grid=4, width=32, heads=2, blocks=1)).eval()  # without dropout
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    words, losses = torch.randn(16, 8), []
    for _ in range(500):
        place = torch.randint(16, (64,))
        maps, zero = torch.randn(64, 5, 4, 4), torch.zeros(64, 4, 4, 4)
        true = maps[:, 0].flatten(1)[torch.arange(64), place]
        mean = network({"up.0": maps}, zero, zero, torch.zeros(64), words[place][:, None]).mean
        loss = (mean - true).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.4  # with this seed .2, at the start 1; a pooled map explains 1 / 16 of the variance


def test_grids_and_waves():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert to_grid(x, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5] and to_grid(x, 8) is x
    assert to_grid(x, 8, exact=True).shape == (1, 1, 8, 8)
    assert len({tuple(row.tolist()) for row in places(4, 4)}) == 16
    assert torch.isfinite(fourier(torch.tensor([float("-inf"), 0.0, float("inf")]))).all()
