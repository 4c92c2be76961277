import json

import pytest
import torch

from mcts_ray.diffusion.noise import draw
from mcts_ray.fusion.decoder import DecoderNetwork, check_decoder, decoded, load, read_config, tap_channels, toward
from mcts_ray.tree.weights import Refusal
from tests.fusion.family import ALPHA, NAMES, S, blob, weights
from tests.tiny import tiny_pipeline

SHAPE = (4, 8, 8)
W, Z = torch.tensor(weights()), draw(NAMES, SHAPE)
MU = ALPHA * blob(SHAPE, 0.5, 0.5)
X, FEATURES = MU + S * Z, draw([f"f{i}" for i in range(6)], (10, 8, 8))


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return DecoderNetwork(10, 4, width=16, blocks=2).eval().requires_grad_(False)


def fuse(network, w=W, x=X, z=Z, features=FEATURES):
    return decoded(z, x, features, w, (MU, S), 0.5, network)


def test_its_noise_is_as_long_as_its_siblings_and_no_copy(network):
    norms = Z.flatten(1).norm(dim=1)
    assert norms.min() <= fuse(network).norm() <= norms.max()


def test_one_sibling_and_equal_ones_give_that_sibling(network):
    """[1, 3] Whatever the network says."""
    torch.testing.assert_close(toward(X, FEATURES, torch.eye(6)[2], (MU, S), 0.5, network), Z[2], rtol=1e-4, atol=1e-4)
    equal = [part[:1].expand(6, -1, -1, -1) for part in (X, FEATURES)]
    torch.testing.assert_close(toward(*equal, W / W.sum(), (MU, S), 0.5, network), Z[0], rtol=1e-4, atol=1e-4)
    assert fuse(network, torch.eye(6)[2]) is Refusal.COPY


def test_features_tell(network):
    assert not torch.allclose(fuse(network), fuse(network, features=FEATURES.flip(3)))


def test_grids_and_sizes(network):
    big = DecoderNetwork(10, 4, factor=4, width=16, blocks=1)
    assert big.latent(torch.zeros(2, 10, 16, 16), 0.0, (64, 64)).shape == (2, 4, 64, 64)
    assert big.latent(torch.zeros(1, 10, 16, 16), 0.0, (61, 35)).shape == (1, 4, 61, 35)
    assert network.latent(torch.zeros(1, 10, 4, 4), 0.0, (8, 8)).shape == (1, 4, 8, 8)


def test_weights_are_small_and_come_back(network, tmp_path):
    with torch.random.fork_rng(devices=[]):
        shipped = DecoderNetwork(96, 4)
        shipped.save(tmp_path / "big", {"tap": "up.0"})
    assert (tmp_path / "big" / "model.safetensors").stat().st_size < 1e6  # 2 MB together with the IGE
    network.save(tmp_path, {"tap": "up.0"})
    again = load(str(tmp_path))
    torch.testing.assert_close(again(FEATURES, torch.zeros(6)), network(FEATURES, torch.zeros(6)), rtol=0.02, atol=0.02)


def test_a_folder_that_holds_none_is_a_sentence(tmp_path):
    for text in (None, "{", json.dumps({"network": 3, "tap": "up.0"})):
        if text:
            (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match="holds no fusion decoder; make one with `mcts-ray train fusion --out"):
            read_config(str(tmp_path))


def test_a_network_of_another_model_is_a_sentence(tmp_path):
    from mcts_ray.diffusion.adapters.sd import StableDiffusionAdapter

    adapter = StableDiffusionAdapter(tiny_pipeline())
    channels = tap_channels(adapter.unet)
    assert channels == {"up.0": 16, "up.1": 8}
    DecoderNetwork(16, 4, width=16).save(tmp_path, {"tap": "up.0"})
    assert check_decoder(str(tmp_path), adapter) == "up.0"
    DecoderNetwork(8, 4, width=16).save(tmp_path, {"tap": "up.0"})
    with pytest.raises(ValueError, match="was trained for another model"):
        check_decoder(str(tmp_path), adapter)
