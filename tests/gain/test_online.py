"""The replay buffer, versions, roll-back, and that held-out data stay held out."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mcts_ray.gain.choose import Transition
from mcts_ray.gain.folder import Config, begin_online, weights
from mcts_ray.gain.online import OnlineTrainer, ReplayBuffer


def transitions(ige, count, difference=0.3):
    features = Config.read(ige).features
    rng = np.random.default_rng(0)
    return [Transition(rng.normal(size=features).astype(np.float16).tobytes(), 6, 2, 1, difference) for _ in range(count)]


def test_the_buffer_is_bounded_and_comes_back(tmp_path, ige):
    buffer = ReplayBuffer(4)
    rows = [replace(row, difference=float(i)) for i, row in enumerate(transitions(ige, 6))]
    buffer.add(rows)
    assert len(buffer) == 4 and buffer.total == 6
    assert {row.difference for row in buffer.sample(np.random.default_rng(0), 100)} == {2.0, 3.0, 4.0, 5.0}
    buffer.save(tmp_path / "b.safetensors")
    again = ReplayBuffer.load(tmp_path / "b.safetensors", 4)
    assert list(again._rows) == rows[2:] and again.total == 6
    assert ReplayBuffer.load(tmp_path / "none.safetensors").total == 0


def test_versions_are_kept_or_rolled_back_and_logged(ige, tmp_path, monkeypatch):
    folder = begin_online(str(ige), str(tmp_path / "online"))
    held_out = (tmp_path / "online" / "held_out.safetensors").read_bytes()
    trainer = OnlineTrainer(folder, every=4, steps=3, batch=8, lr=1e-3)
    trainer.add(transitions(ige, 3))
    assert not trainer.due
    trainer.add([*transitions(ige, 1), replace(transitions(ige, 1)[0], k=3)])  # a jump that it does not know
    assert trainer.due and len(trainer.buffer) == 4
    before = {name: value.clone() for name, value in trainer._state.items()}
    monkeypatch.setattr(trainer, "_judge", lambda state: trainer.loss + 1)
    assert trainer.learn() is None and not trainer.due and trainer.version == 0
    assert all(torch.equal(before[name], trainer._state[name]) for name in before) and weights(folder)[0] == 0
    monkeypatch.setattr(trainer, "_judge", lambda state: trainer.loss - 1)
    version = trainer.learn()
    assert version.number == 2 and weights(folder) == (2, tmp_path / "online" / "versions" / "00002.safetensors")
    saved = load_file(weights(folder)[1])
    assert all(torch.equal(saved[name], torch.from_numpy(value)) for name, value in version.state.items())
    log = [json.loads(line) for line in (tmp_path / "online" / "online.jsonl").read_text().splitlines()]
    assert [(line["version"], line["kept"]) for line in log] == [(1, False), (2, True)] and log[0]["held_out"] == log[0]["before"] + 1
    assert (tmp_path / "online" / "held_out.safetensors").read_bytes() == held_out
    again = OnlineTrainer(folder, every=4)
    assert again.version == 2 and again.attempts == 2 and len(again.buffer) == 4 and not again.due


def test_what_short_searches_bring_adds_up(ige, tmp_path):
    """Three searches that bring less than is needed, in processes of their own and by two at once."""
    folder = begin_online(str(ige), str(tmp_path / "online"))
    for number in range(3):
        trainers = [OnlineTrainer(folder, every=12) for _ in range(2)]
        for trainer in trainers:
            trainer.add(transitions(ige, 2))
        assert trainers[1].due is (number == 2) and trainers[1].buffer.total == 4 * (number + 1)
    assert OnlineTrainer(folder, every=12).due and len(ReplayBuffer.load(tmp_path / "online" / "buffer.safetensors")) == 12


def test_a_line_that_was_cut_off_is_no_attempt(ige, tmp_path):
    folder = begin_online(str(ige), str(tmp_path / "online"))
    (tmp_path / "online" / "online.jsonl").write_text('{"version": 1, "kept": fal')
    trainer = OnlineTrainer(folder, every=2, steps=1, batch=2)
    trainer.add(transitions(ige, 2))
    assert trainer.due and trainer.attempts == 0
    trainer.learn()
    lines = (tmp_path / "online" / "online.jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[1])["version"] == 1 and OnlineTrainer(folder).attempts == 1


def test_two_trainers_take_turns_at_a_folder(ige, tmp_path, monkeypatch):
    """The second goes on from what the first has made meanwhile, and under the next number."""
    folder = begin_online(str(ige), str(tmp_path / "online"))
    one, other = (OnlineTrainer(folder, every=2, steps=2, batch=4, lr=1e-3) for _ in range(2))
    for trainer in (one, other):
        trainer.add(transitions(ige, 2))
        monkeypatch.setattr(trainer, "_judge", lambda state: 1.0)
        trainer.loss = 1.0
    first, second = one.learn(), other.learn()
    assert (first.number, second.number) == (1, 2) and weights(folder)[0] == 2
    started = {name: torch.from_numpy(value).float() for name, value in first.state.items()}
    other._state = started
    other.attempts = 2
    again = {name: value.half().float() for name, value in other._tuned().items()}
    assert all(torch.equal(again[name], torch.from_numpy(value).float()) for name, value in second.state.items())


def test_fine_tuning_learns_the_difference(ige, tmp_path):
    """State after state says that 2 is worth .3 more than 1; what is predicted of other targets stays where it was."""
    from mcts_ray.gain.evaluator import make_network, predict

    trainer = OnlineTrainer(begin_online(str(ige), str(tmp_path / "online")), steps=60, batch=8, lr=1e-2)
    rows = transitions(ige, 8)
    trainer.add(rows)
    features = torch.from_numpy(np.stack([np.frombuffer(row.features, np.float16) for row in rows])).float()
    means = []
    for state in (trainer._state, trainer._tuned()):
        network = make_network(trainer.config)
        network.load_state_dict(state)
        with torch.no_grad():
            means.append(predict(network.eval(), trainer.config, features, [6] * 8)[0][:, 1])
    value, similarity = (trainer.config.targets.index(name) for name in ("value", "similarity"))
    assert means[1][:, value].mean() == pytest.approx(0.3, abs=0.1) and abs(means[0][:, value].mean() - 0.3) > 0.15
    assert torch.equal(means[1][:, similarity], means[0][:, similarity])


def test_a_folder_for_versions(ige, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(ValueError, match="holds something else than an IGE; choose another folder"):
        begin_online(str(ige), str(tmp_path / "full"))
    taken = begin_online(str(ige), str(tmp_path / "taken"))
    assert begin_online(str(ige), taken) == begin_online(taken, taken) == taken
    (tmp_path / "taken" / "model.safetensors").write_bytes(b"another")
    with pytest.raises(ValueError, match="goes on from another IGE than ige_model"):
        begin_online(str(ige), taken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "ige", "taken"]  # nothing is left of the making
    (tmp_path / "file").write_text("")
    for place in ("file", "file/x"):
        with pytest.raises(ValueError, match=f"ige_online .*{place} cannot be written"):
            begin_online(str(ige), str(tmp_path / place))
    (ige / "held_out.safetensors").unlink()
    with pytest.raises(ValueError, match="has no held_out.safetensors by which later versions could be judged"):
        begin_online(str(ige), str(tmp_path / "online"))
    with pytest.raises(ValueError, match="has no version 7; it has 0"):
        weights(str(ige), 7)
    (ige / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no version 0"):
        begin_online(str(ige), str(tmp_path / "online"))


def test_two_begin_at_once(ige, tmp_path, monkeypatch):
    """One finds that the other has just made the folder."""
    copy = shutil.copyfile

    def slowly(source, target):
        monkeypatch.setattr(shutil, "copyfile", copy)
        begin_online(str(ige), str(tmp_path / "online"))
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", slowly)
    assert begin_online(str(ige), str(tmp_path / "online")) == str(tmp_path / "online")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ige", "online"]
