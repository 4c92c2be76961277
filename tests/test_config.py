import json

import pytest
from pydantic import ValidationError

from mcts_ray.checks import check_ige, with_table
from mcts_ray.config import SearchConfig
from mcts_ray.estimate import count
from mcts_ray.gain.folder import Config
from mcts_ray.settings import ConfigError, load_config, make_config, parse_setting


def test_every_field_is_described():
    assert all(field.description for field in SearchConfig.model_fields.values())


def test_frozen_and_closed():
    config = SearchConfig()
    with pytest.raises(ValidationError):
        config.budget = 3
    with pytest.raises(ValidationError):
        SearchConfig(budgets=3)


def test_budget_below_one_trajectory_names_the_number_needed():
    with pytest.raises(ValueError, match="needs 30 NFE"):
        SearchConfig(budget=29)
    with pytest.raises(ValueError, match=r"needs 8 NFE \(levels 30, k 4\)"):
        SearchConfig(budget=7, k=4)
    assert SearchConfig(budget=8, k=4).trajectory_nfe == 8


def test_defaults_are_filled_in_and_choices_kept():
    config = SearchConfig(guidance=2.0, height=48).resolved(scenes=True, size=(64, 64), reward="scenes")
    assert (config.budget, config.in_flight, config.guidance) == (240, 30, 2.0)
    assert (config.height, config.width, config.reward) == (48, 64, "scenes")
    assert SearchConfig(budget=30).resolved(False, (512, 512), "jpeg").guidance == 7.5
    assert SearchConfig(budget=30).resolved(False, (512, 512), "jpeg").in_flight == 3


def test_resolved_configuration_reads_back():
    config = SearchConfig(eta=0.5).resolved(True, (64, 64), "scenes")
    assert SearchConfig(**json.loads(config.model_dump_json())) == config


def test_files_with_settings_over_them(tmp_path):
    (tmp_path / "a.json").write_text('{"budget": 90, "k": 2}')
    (tmp_path / "a.toml").write_text("budget = 90\nk = 2\n")
    for name in ("a.json", "a.toml"):
        config = load_config(tmp_path / name, {"k": "3", "images": 1})
        assert (config.budget, config.k, config.images) == (90, 3, 1)


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.yaml", "k: 2", "must be a .json or .toml file"),
        ("a.json", "{k: 2}", "is not valid JSON"),
        ("a.toml", "k = ", "is not valid TOML"),
        ("a.json", "[1]", "must hold an object of SearchConfig fields, not a list"),
        ("a.json", '{"levls": 4}', "there is no field 'levls'; did you mean 'levels'"),
        ("a.json", '{"zzz": 4}', "there is no field 'zzz'; known are algorithm, budget"),
        ("a.json", '{"levels": "many"}', "levels: input should be a valid integer.* not 'many'"),
        ("a.json", '{"budget": 5}', "budget 5 is below one trajectory, which needs 30 NFE"),
        ("a.json", '{"max_seconds": -1}', "max_seconds: input should be greater than 0, not -1"),
        ("a.json", '{"guidance": NaN}', "guidance: input should be a finite number"),
        ("a.json", '{"jump": "wild"}', "jump: input should be 'constant', 'table', 'ays' or 'ige', not 'wild'"),
        ("a.json", '{"jump": "ige", "algorithm": "fk"}', "jump ige chooses at the states of a tree, which fk has not"),
        ("a.json", '{"jump": "ige", "price": 0.1}', "best-of-n goes by the table of the IGE, on which price has no effect; leave"),
        ("a.json", '{"price": 0.1}', "price belongs to jump ige; set jump to ige or leave it out"),
        ("a.json", '{"k": 4, "jump": "ays"}', "k is the jump where jump is constant, and has no effect on jump ays"),
        ("a.json", '{"algorithm": "mcts", "jump": "ige", "ige_top": 3}', "ige_top is the m of top-m, and ige_choice is greedy"),
        (
            "a.json",
            '{"algorithm": "mcts", "jump": "ige", "ige_choice": "top-m", "ige_top": 1, "ige_online": "o"}',
            "ige_online compares children by several jumps, where ige_top 1 makes them by one",
        ),
        ("a.json", '{"algorithm": "mcts", "jump": "ige", "ige_online": "o"}', "set ige_choice to top-m or sample, ige_target to value"),
        ("a.json", '{"algorithm": "mcts", "jump": "ige", "ige_online": "o", "ige_version": 1}', "pinned to a version learns nothing"),
        ("a.json", '{"jump": "table"}', "jump table and jump_table belong together"),
        ("a.json", '{"jump_table": [1]}', "jump table and jump_table belong together"),
        ("a.json", '{"jump": "table", "jump_table": [1]}', "jump_table has 1 entries where levels is 30"),
        ("a.json", '{"levels": 2, "jump": "table", "jump_table": [1, 3]}', "jump size 3 is not one of jumps .1, 2, 4, 8."),
        ("a.json", '{"jumps": [0, 1]}', "jump size 0 is not one of jumps .0, 1., which must be at least 1"),
        ("a.json", '{"algorithm": "psp", "step_reward": "none"}', "psp ranks by step scores; set step_reward to x0"),
        ("a.json", '{"algorithm": "psp", "max_decodes": 2}', "psp needs max_decodes of at least 3, .* not 2"),
        ("a.json", '{"step_reward": "x0"}', "best-of-n uses no step scores"),
        ("a.json", '{"algorithm": "mcts", "eta": 0.5}', "mcts rolls out without noise and branches by phi"),
        ("a.json", '{"grid": "linspace"}', "grid: input should be 'native', 'leading', 'trailing', 'karras' or 'ays', not 'linspace'"),
        ("a.json", '{"phi_schedule": "step"}', "phi_schedule: input should be 'constant', 'taper', 'linear' or 'cosine', not 'step'"),
        ("a.json", '{"eta": 0, "phi_schedule": "taper"}', "eta and phi_schedule both say how noisy a jump is; set one of them"),
        ("a.json", '{"algorithm": "mcts", "eta": 1, "phi_schedule": "taper"}', "mcts rolls out without noise and branches by phi"),
        ("a.json", '{"algorithm": "dts", "phi": 0, "phi_schedule": "taper"}', "dts needs noise, .* set phi above 0"),
        ("a.json", '{"algorithm": "fk", "phi_schedule": "taper"}', "fk needs noise at every level, .* set phi_schedule to constant"),
        ("a.json", '{"algorithm": "mcts", "rollout_stride": 4, "budget": 7}', "needs 8 NFE .levels 30, rollout_stride 4."),
        ("a.json", '{"jump": "ays", "budget": 7}', "needs 10 NFE .levels 30, jump ays."),
        ("a.json", '{"backup": "median"}', "backup: input should be 'mean', 'max' or 'soft', not 'median'"),
        ("a.json", '{"phi": 2}', "phi: input should be less than or equal to 1.5, not 2"),
        ("a.json", '{"fuse": "signed"}', "best-of-n has no siblings to fuse; leave fuse at none or set algorithm to mcts"),
        ("a.json", '{"algorithm": "mcts", "fuse": "signed", "phi": 0, "budget": 200}', "only seeds can.*pays for 6"),
        ("a.json", '{"algorithm": "mcts", "fuse": "lol"}', "fuse: input should be 'none', 'innovation', .*'slerp' or 'fresh', not"),
        ("a.json", '{"algorithm": "mcts", "fuse": "mean", "fuse_model": "x"}', "fuse_model is the network of fuse decoder; set"),
        ("a.json", '{"algorithm": "mcts", "fuse": "ensemble", "fused_children": 0}', "fused_children: .* or equal to 1, not 0"),
        ("a.json", '{"fuse_after": 5}', "fuse_after: input should be greater than or equal to 6, not 5"),
        ("none/a.json", None, "cannot be read .No such file"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_config(tmp_path / name)
    assert "\n" not in str(error.value)


def test_set_arguments():
    assert parse_setting("k=2") == ("k", "2")
    assert parse_setting("max-seconds=1.5") == ("max_seconds", "1.5")
    assert parse_setting("budget=null") == ("budget", None)
    assert parse_setting("negative_prompt=a = b") == ("negative_prompt", "a = b")
    config = make_config(dict([parse_setting("k=2"), parse_setting("eta=0.5"), parse_setting("budget=null")]))
    assert (config.k, config.eta, config.budget) == (2, 0.5, None)
    assert make_config(dict([parse_setting("order=2")])).order == 2
    for text in ("k", "=2", "k=[1"):
        with pytest.raises(ConfigError, match="--set"):
            parse_setting(text)


def test_noise_is_set_by_eta_or_by_a_schedule_of_phi():
    def noise(**values):
        config = SearchConfig(**values).resolved(True, (64, 64), "scenes")
        assert SearchConfig(**config.model_dump()) == config
        return config.eta, config.phi_schedule

    assert noise() == (0.0, None) and noise(algorithm="svdd") == (1.0, None)
    assert noise(phi_schedule="cosine") == noise(algorithm="dts", phi_schedule="cosine") == (None, "cosine")
    assert noise(algorithm="svdd", phi_schedule="constant") == (None, "constant")
    assert noise(algorithm="mcts") == (0.0, "taper") and noise(algorithm="mcts", phi_schedule="linear") == (0.0, "linear")


def test_step_scores_are_what_the_algorithm_needs():
    def resolved(**values):
        return SearchConfig(**values).resolved(True, (64, 64), "scenes").step_reward

    assert resolved(algorithm="psp") == "x0" and resolved() == resolved(algorithm="mcts") == "none"
    assert resolved(algorithm="mcts", step_reward="x0") == "x0"


def test_trajectories_cost_what_their_jumps_say():
    assert SearchConfig(levels=7, k=3).trajectory_nfe == 3
    assert SearchConfig(levels=4, jump="table", jump_table=(1, 1, 2, 2)).trajectory_nfe == 3
    assert SearchConfig(jump="ays").trajectory_nfe == 10
    assert SearchConfig(algorithm="mcts", k=1, rollout_stride=3).trajectory_nfe == 10


def test_rules_of_pruning_come_as_a_list_or_as_one_name():
    assert make_config({"algorithm": "mcts", "prune": "statistical"}).prune == ("statistical",)
    both = make_config(dict([parse_setting('prune=["statistical","stages"]'), parse_setting("algorithm=mcts")]))
    assert both.prune == ("statistical", "stages") and SearchConfig(**both.model_dump()) == both
    for values, sentence in [
        ({"prune": "stages"}, "best-of-n cannot prune by rules"),
        ({"algorithm": "mcts", "prune": "random"}, "prune.0: input should be 'statistical', 'stages', 'gain' or 'memory', not 'random'"),
        ({"algorithm": "mcts", "prune": "gain"}, "set both or neither"),
        ({"algorithm": "mcts", "prune": "stages", "prune_cold": 0.5}, "prune_cold belongs to the rule memory of prune; add it"),
        ({"algorithm": "mcts", "prune": "gain", "prune_gains": [1.0]}, "prune_gains has 1 entries where levels is 30"),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            make_config(values)


def test_what_a_trajectory_by_the_table_of_an_ige_costs_is_known_once_that_is_read():
    """Not 30 NFE, as by single levels; and the dry run counts it so."""
    config = SearchConfig(jump="ige", budget=20)
    assert count(["a red circle"], config, "scenes").decodes == 20 // with_table(config, Config.read("scenes")).trajectory_nfe > 0
    with pytest.raises(ValueError, match="budget 5 is below one trajectory, which needs"):
        check_ige("scenes", SearchConfig(jump="ige", budget=5))
