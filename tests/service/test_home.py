"""Where URL and token lie, and who may read them."""

import stat

import pytest

from mcts_ray.service.home import find_service, given_token, home, keep_token, make_token, read_state, write_state


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("MCTS_RAY_HOME", str(tmp_path / "home"))
    for name in ("MCTS_RAY_URL", "MCTS_RAY_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def test_the_token_is_made_once_and_is_private():
    token = make_token()
    assert len(token) >= 32 and make_token() == token
    assert stat.S_IMODE((home() / "token").stat().st_mode) == 0o600


@pytest.mark.parametrize(("mode", "text", "words"), [(0o644, "x" * 32, "can be read by others"), (0o600, "short", "holds no token")])
def test_a_token_that_protects_nothing_is_refused(mode, text, words):
    home().mkdir()
    (home() / "token").write_text(text)
    (home() / "token").chmod(mode)
    with pytest.raises(ValueError, match=words):
        make_token()


def test_the_operators_token_is_kept_in_place_of_the_one_there(monkeypatch):
    make_token()
    monkeypatch.setenv("MCTS_RAY_TOKEN", "the-operators-token\n")
    keep_token(given_token())
    assert make_token() == "the-operators-token"
    assert stat.S_IMODE((home() / "token").stat().st_mode) == 0o600 and [file.name for file in home().iterdir()] == ["token"]
    monkeypatch.setenv("MCTS_RAY_TOKEN", "short")
    with pytest.raises(ValueError, match="MCTS_RAY_TOKEN holds no token of at least 16 characters"):
        given_token()


def test_the_environment_goes_before_the_files(monkeypatch):
    with pytest.raises(ValueError, match="no service is known here"):
        find_service()
    token = make_token()
    write_state({"url": "http://127.0.0.1:8000", "address": "127.0.0.1:1", "session": None})
    assert find_service() == ("http://127.0.0.1:8000", token) and (home() / "url").read_text() == "http://127.0.0.1:8000\n"
    monkeypatch.setenv("MCTS_RAY_URL", "searches")
    with pytest.raises(ValueError, match="MCTS_RAY_URL 'searches' is no address"):
        find_service()
    monkeypatch.setenv("MCTS_RAY_URL", "https://searches/")
    for text in ("other", "other\n"):  # as a file that is read into the environment ends
        monkeypatch.setenv("MCTS_RAY_TOKEN", text)
        assert find_service() == ("https://searches", "other")
    monkeypatch.setenv("MCTS_RAY_TOKEN", " ")
    assert find_service() == ("https://searches", token)
    write_state(None)
    assert read_state() == {} and not (home() / "url").exists()


def test_the_default_is_the_users_data_folder(monkeypatch):
    monkeypatch.delenv("MCTS_RAY_HOME")
    monkeypatch.setenv("HOME", "/somebody")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert home().name == "mcts-ray" and home().is_absolute()
