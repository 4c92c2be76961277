"""The Python face, on a real tiny pipeline."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mcts_ray import SearchConfig, Searcher, SearchFailed, SearchInterrupted
from mcts_ray.diffusion.levels import Levels, ays_levels
from mcts_ray.search.ids import seed_id
from mcts_ray.search.journal import replay
from tests.tiny import SIZE, tiny_pipeline, tiny_xl_pipeline

CONFIG = SearchConfig(levels=4, budget=24, guidance=2.0, images=3)


@pytest.fixture(scope="module")
def searcher():
    return Searcher(tiny_pipeline(), reward="jpeg")


def test_one_prompt(searcher):
    seen = []
    result = searcher("a red circle", CONFIG, on_progress=seen.append)
    assert [image.size for image in result.images] == [(SIZE, SIZE)] * 3
    rewards = [candidate.reward for candidate in result.candidates]
    assert rewards == sorted(rewards, reverse=True) and result.best == result.candidates[0]
    assert result.mean_reward <= result.best.reward
    assert result.ledger.nfe == 24 and result.ledger.decodes == 6
    assert len(result.tree["nodes"]) == 6 * 5
    assert result.gold is None and result.passed is None and result.failure is None and result.run_dir is None
    assert seen[-1].nfe == 24
    assert (result.config.in_flight, result.config.height, result.config.reward) == (3, SIZE, "jpeg")


def test_the_same_request_gives_the_same_images(searcher):
    one, two = searcher("a red circle", CONFIG), searcher("a red circle", CONFIG)
    assert one.candidates == [replace(c, seconds=d.seconds) for c, d in zip(two.candidates, one.candidates, strict=True)]
    assert all(np.array_equal(a, b) for a, b in zip(one.images, two.images, strict=True))


def test_other_seeds_give_other_images(searcher):
    one = searcher("a red circle", CONFIG)
    two = searcher("a red circle", CONFIG.model_copy(update={"seed": 1}))
    assert not set(c.node for c in one.candidates) & set(c.node for c in two.candidates)


def test_eta_and_k_reach_the_engine(searcher):
    noisy = searcher("a red circle", SearchConfig(levels=4, k=2, eta=1.0, budget=4))
    plain = searcher("a red circle", SearchConfig(levels=4, k=2, budget=4))
    assert noisy.ledger.nfe == plain.ledger.nfe == 4 and noisy.ledger.decodes == 2
    assert not np.array_equal(noisy.first, plain.first)
    assert {node["action"] for node in noisy.tree["nodes"]} == {"seed", "jump 2"}


def test_many_prompts_run_together_and_share_their_seeds(searcher):
    results = searcher.many(["a red circle", "a blue square"], CONFIG)
    assert [result.prompt for result in results] == ["a red circle", "a blue square"]
    seeds = [[node["id"] for node in result.tree["nodes"] if node["action"] == "seed"] for result in results]
    assert seeds[0] == seeds[1] == [seed_id(0, index) for index in range(6)]
    assert all(result.ledger.nfe == 24 for result in results)
    alone = searcher("a blue square", CONFIG)
    assert [c.node for c in alone.candidates] == [c.node for c in results[1].candidates]


def test_any_callable_is_a_reward():
    def dark(images, prompts):
        return -images.reshape(len(images), -1).mean(1)

    result = Searcher(tiny_pipeline(), reward=dark)("a red circle", CONFIG)
    assert result.config.reward == "dark"
    assert result.best.reward == pytest.approx(-np.asarray(result.images[0]).mean())


def test_the_configuration_chooses_the_reward_over_the_searcher():
    searcher = Searcher(tiny_pipeline(), reward=lambda images, prompts: [0.0] * len(prompts))
    assert searcher("a red circle", CONFIG.model_copy(update={"reward": "jpeg"})).config.reward == "jpeg"


def test_a_network_as_reward_is_booked_and_says_why_it_cannot_be_loaded(clip_folder, tmp_path):
    searcher = Searcher(tiny_pipeline(), reward=f"pickscore@{clip_folder}")
    result = searcher("a red circle", CONFIG)
    plain = searcher("a red circle", CONFIG.model_copy(update={"reward": "jpeg"}))
    assert result.ledger.decodes == result.ledger.reward_calls == 6
    assert result.ledger.model_forwards == plain.ledger.model_forwards + 6
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text('{"model_type": "clip"}')
    (tmp_path / "clip" / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ValueError, match="reward 'pickscore': .* cannot be loaded") as error:
        searcher.many(["a red circle"], CONFIG.model_copy(update={"reward": f"pickscore@{tmp_path}/clip"}), outs=[tmp_path / "run"])
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_when_everything_fails_the_error_says_why():
    searcher = Searcher(tiny_pipeline(), reward=lambda images, prompts: [float("nan")] * len(prompts))
    with pytest.raises(SearchFailed, match="6 units failed, the first because reward '<lambda>' returned nan"):
        searcher("a red circle", CONFIG)
    assert "6 units failed" in searcher.many(["a red circle"], CONFIG)[0].failure


def test_ctrl_c_hands_over_what_was_found(searcher, tmp_path):
    def interrupt(progress):
        if progress.images:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as error:
        searcher("a red circle", CONFIG, interrupt, out=tmp_path / "run")
    assert isinstance(error.value, SearchInterrupted)
    result = error.value.results[0]
    assert result.images and result.run_dir == tmp_path / "run"
    assert (tmp_path / "run" / "images" / "01.png").exists()
    assert json.loads((tmp_path / "run" / "job.json").read_text())["status"] == "interrupted"


def test_max_seconds_without_an_image_is_a_failure(searcher):
    with pytest.raises(SearchFailed, match="no image was finished for 'a red circle' before the search was ended after"):
        searcher("a red circle", SearchConfig(levels=100, max_seconds=0.05))


@pytest.mark.parametrize(
    "config, message",
    [
        (CONFIG.model_copy(update={"algorithm": "best-of"}), "unknown algorithm 'best-of'; did you mean 'best-of-n'"),
        (CONFIG.model_copy(update={"reward": "jpg"}), "unknown reward 'jpg'"),
        (CONFIG.model_copy(update={"height": 33}), "height and width must be multiples of 4 for this model, not 33x32"),
    ],
)
def test_mistakes(searcher, config, message):
    with pytest.raises(ValueError, match=message):
        searcher("a red circle", config)


def test_mistakes_in_many(searcher, tmp_path):
    with pytest.raises(ValueError, match="a list of prompts, not one string"):
        searcher.many("a red circle", CONFIG)
    with pytest.raises(ValueError, match="2 prompts but 1 run directories"):
        searcher.many(["a ring", "a cross"], CONFIG, outs=[tmp_path / "run"])
    with pytest.raises(ValueError, match="unknown reward ''"):
        searcher("a red circle", CONFIG.model_copy(update={"reward": ""}))


def test_a_model_without_a_reward_of_its_own():
    with pytest.raises(ValueError, match="model pipeline has no reward of its own; choose one"):
        Searcher(tiny_pipeline())("a red circle", CONFIG)


def test_prompts_of_scenes_must_be_in_its_grammar(tiny_folder):
    searcher = Searcher(tiny_pipeline(), model="scenes", reward="jpeg")
    with pytest.raises(ValueError, match="outside the scenes grammar"):
        searcher("a rd circle", CONFIG)
    with pytest.raises(ValueError, match="a prompt must not be empty"):
        Searcher(tiny_pipeline(), reward="jpeg")(" ", CONFIG)


def test_gold_is_the_verifier_on_the_best_image():
    from mcts_ray.scenes import verify

    searcher = Searcher(tiny_pipeline(), model="scenes", reward="jpeg")
    result = searcher("a red circle", CONFIG.model_copy(update={"height": 64, "width": 64}))
    score, passed, _ = verify(np.asarray(result.images[0]), "a red circle")
    assert (result.gold, result.passed) == (score, passed)


def test_from_pretrained_folder(tiny_folder):
    searcher = Searcher.from_pretrained(str(tiny_folder), device="cpu", reward="jpeg")
    result = searcher("a red circle", CONFIG)
    assert result.model == str(tiny_folder)
    same = Searcher(tiny_pipeline(), reward="jpeg")("a red circle", CONFIG)
    assert np.array_equal(result.images[0], same.images[0])


@pytest.fixture(scope="module")
def xl_searcher(tiny_xl_folder):
    return Searcher.from_pretrained(str(tiny_xl_folder), device="cpu", reward="jpeg")


@pytest.mark.parametrize("algorithm", ["best-of-n", "psp"])
def test_sdxl_from_a_folder(xl_searcher, algorithm):
    config = SearchConfig(algorithm=algorithm, levels=4, budget=16, guidance=2.0, images=2, height=SIZE, width=48)
    result = xl_searcher("a red circle", config)
    assert result.ledger.nfe <= 16 and result.ledger.model_forwards == 2 * result.ledger.nfe
    assert [image.size for image in result.images] == [(48, SIZE)] * 2
    assert np.array_equal(result.images[0], Searcher(tiny_xl_pipeline(), reward="jpeg")("a red circle", config).images[0])


def test_ays_levels_of_sdxl_are_those_of_its_own_table(xl_searcher, searcher):
    config = SearchConfig(levels=40, jump="ays", budget=10, guidance=1.0)
    for each, grid in ((searcher, "ays"), (xl_searcher, "ays-xl")):
        walked = [node["level"] for node in each("a red circle", config).tree["nodes"]]
        anchors = ays_levels(each.backend.denoiser.levels(40), grid)
        assert len(anchors) == 10 and walked == sorted({40, 0, *anchors}, reverse=True), grid


def test_the_ays_grid_is_that_of_the_model(xl_searcher, searcher):
    config = SearchConfig(levels=10, grid="ays", budget=10)
    for each, grid in ((searcher, "ays"), (xl_searcher, "ays-xl")):
        setting = each.backend.plan(["a ring"], config, "jpeg").searches[0].setting
        walked = each.backend.denoiser.levels(setting.levels, setting.grid).timesteps_L.tolist()
        assert walked == Levels.from_scheduler(each.backend.adapter.scheduler, 10, grid).timesteps_L.tolist()


@pytest.mark.parametrize("values", [{"algorithm": "psp"}, {"algorithm": "mcts", "seeds": 3}, {"algorithm": "mcts", "jump": "ays", "order": 2}])
def test_every_algorithm_through_the_python_face(searcher, values, tmp_path):
    config = SearchConfig(levels=10, budget=80, guidance=2.0, images=3, **values)
    result = searcher("a red circle", config, out=tmp_path / "run")
    assert result.images and result.ledger.nfe <= 80 and result.best.reward == max(c.reward for c in result.candidates)
    nodes = json.loads((tmp_path / "run" / "tree.json").read_text())["nodes"]
    assert {node["id"] for node in nodes} >= {c.node for c in result.candidates}
    assert sum(node["level"] > 0 for node in nodes) == result.ledger.nfe
    again = searcher.backend.plan(["a red circle"], result.config, None).searches[0]
    lines = (tmp_path / "run" / "journal.jsonl").read_text().splitlines()
    replay(again, map(json.loads, lines))
    assert again.nodes() == result.tree["nodes"]
