"""The commands as a user meets them, against a service on a real port."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mcts_ray import cli
from mcts_ray.service.home import read_state, write_state
from mcts_ray.service.runner import Lost
from mcts_ray.service.settings import LIMITS, Settings

PROMPT = "a red circle left of a blue square"
NAMES = ("up", "down", "status", "submit", "jobs", "watch", "result", "cancel", "resume")


@pytest.fixture
def mcts_ray(capsys, tmp_path, monkeypatch):
    """Run the command line; returns (exit code, what it printed as JSON, stderr)."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def run(*arguments):
        code = cli.run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, json.loads(out) if "--json" in arguments and out else out, err

    return run


def running(live, id):
    deadline = time.monotonic() + 10
    while live.client.job(id).status == "queued" and time.monotonic() < deadline:
        time.sleep(0.01)


def test_every_command_has_help_and_json(mcts_ray):
    for name in NAMES:
        code, out, err = mcts_ray(name, "--help")
        assert code == 0 and f"Usage: mcts-ray {name}" in out and "--json" in out and not err


def test_a_search_by_commands(live, held, mcts_ray):
    code, found, err = mcts_ray("status", "--json")
    assert (code, found["up"], found["models"], err) == (0, True, ["scenes"], "")
    code, job, _ = mcts_ray("submit", PROMPT, "--budget", 60, "--algorithm", "psp", "--set", "eta=0.5", "--json")
    assert (code, job["budget"], job["algorithm"]) == (0, 60, "psp")
    code, out, err = mcts_ray("result", job["id"])
    assert code == 2 and out == "" and "`mcts-ray watch" in err
    running(live, job["id"])
    assert mcts_ray("resume", job["id"], "--add", 30, "--json")[1]["budget"] == 90
    threading.Timer(0.1, held.go.set).start()
    code, job, err = mcts_ray("watch", job["id"], "--json")
    assert (code, job["status"], err) == (0, "done", "")
    code, found, _ = mcts_ray("result", job["id"], "--json")
    assert code == 0 and found == job["result"]
    code, elsewhere, _ = mcts_ray("result", job["id"], "--out", "here", "--json")
    assert code == 0 and elsewhere["images"] == ["here/images/01.png"] and open("here/images/01.png", "rb").read() == b"\x89PNG"
    assert {**elsewhere, "run_dir": found["run_dir"], "images": found["images"]} == found
    assert mcts_ray("result", job["id"], "--out", "here", "--json")[1] == elsewhere  # once more is no mistake
    code, listed, _ = mcts_ray("jobs", "--json")
    assert code == 0 and [one["id"] for one in listed] == [job["id"]]
    assert job["id"] in mcts_ray("jobs")[1] and PROMPT in mcts_ray("watch", job["id"])[1]


def test_many_prompts_from_a_file(live, held, mcts_ray, tmp_path):
    held.go.set()
    (tmp_path / "prompts.txt").write_text(f"# two\n{PROMPT}\n\na cyan cross\n")
    code, jobs, _ = mcts_ray("submit", "--file", tmp_path / "prompts.txt", "--wait", "--key", "k", "--json")
    assert code == 0 and [job["prompt"] for job in jobs] == [PROMPT, "a cyan cross"] and {job["status"] for job in jobs} == {"done"}
    assert [job["id"] for job in jobs] == mcts_ray("submit", "--file", tmp_path / "prompts.txt", "--key", "k")[1].split()
    (tmp_path / "prompts.txt").write_text("a cyan cross\na cyan crocodile\n")
    code, out, err = mcts_ray("submit", "--file", tmp_path / "prompts.txt")
    assert code == 2 and len(out.split()) == 1 and "crocodile" in err and "prompt 2 of 2" in err


def test_cancel_resume_and_failure(live, held, mcts_ray):
    id = mcts_ray("submit", PROMPT, "--json")[1]["id"]
    running(live, id)
    code, job, _ = mcts_ray("cancel", id, "--json")
    assert (code, job["status"]) == (0, "cancelled") and mcts_ray("result", id, "--json")[0] == 0
    held.raises = [Lost("died")] * 3
    assert mcts_ray("resume", id, "--json")[1]["status"] in ("queued", "running")
    code, job, _ = mcts_ray("watch", id, "--json")
    assert (code, job["status"], job["error"]) == (1, "failed", "died")
    code, out, err = mcts_ray("result", id)
    assert code == 0 and "01.png" in out and err == "mcts-ray: died\n"  # what was found before is still there


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("submit",), "give either a PROMPT or --file FILE"),
        (("submit", "a red hexagon"), "hexagon"),
        (("submit", ""), "prompt"),
        (("submit", PROMPT, "--budget", "0"), "budget"),
        (("submit", PROMPT, "--set", "nothing=1"), "there is no field 'nothing'"),
        (("submit", PROMPT, "--model", "/tmp"), "is not served here"),
        (("submit", "--file", "missing.txt"), "cannot be read"),
        (("watch", "unknown"), "there is no search unknown"),
        (("result", "../../etc"), "there is no search '../../etc'"),
        (("cancel", "unknown"), "there is no search unknown"),
        (("resume", "unknown"), "there is no search unknown"),
        (("jobs", "--status", "finished"), "status"),
        (("up",), "a service runs already at http://127.0.0.1:"),
        (("up", "--gpus", "1", "--workers", "2"), "--gpus and --workers say the same thing"),
        (("up", "--models", ","), "--models names no model"),
    ],
)
def test_a_mistake_is_exit_code_2_and_one_sentence(live, mcts_ray, arguments, words):
    code, out, err = mcts_ray(*arguments)
    assert code == 2 and out == "" and err.count("\n") == 1 and words in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--models", "unknown"), "unknown model 'unknown'"),
        (("--store", "nothing://x"), "the store nothing://x cannot be used"),
        (("--allow-reward", "os:nothing"), "module 'os' has no function 'nothing'"),
        (("--reward", "os:nothing"), "module 'os' has no function 'nothing'"),
        (("--reward", "pickscore@nowhere"), "nowhere"),
        (("--reward", ""), "unknown reward ''"),
        (("--set", "max_promt=100"), "there is no limit 'max_promt'; did you mean 'max_prompt'?"),
        (("--set", "models=scenes"), "there is no limit 'models'; known are max_running,"),
        (("--set", "max_body"), "must have the form name=value"),
        (("--set", "max_body=10"), "max_body: input should be greater than or equal to 1024, not '10'"),
        (("--set", "max_side=true"), "max_side: input should be a valid integer"),
        (("--set", "attempts=null"), "attempts: input should be a valid integer, not None"),
        (("--set", "max_seconds=inf"), "max_seconds: input should be a finite number"),
        (("--address", "127.0.0.1:1"), "no Ray cluster answers at 127.0.0.1:1"),
        (("--gpus", "0", "--dtype", "fp16"), "fp16"),
    ],
)
def test_what_is_wrong_with_up_is_said_before_ray_is_started(mcts_ray, monkeypatch, tmp_path, arguments, words):
    monkeypatch.setenv("MCTS_RAY_HOME", str(tmp_path / "home"))
    code, out, err = mcts_ray("up", *arguments)
    assert code == 2 and out == "" and err.count("\n") == 1 and words in err


def test_every_limit_of_the_service_can_be_set(mcts_ray, monkeypatch):
    started = []
    monkeypatch.setattr("mcts_ray.service.up.up", lambda settings, *_: started.append(settings) or {"url": "there", "address": "here"})
    assert {name for name, field in Settings.model_fields.items() if field.annotation in (int, float | None)} == set(LIMITS)
    values = {name: 2000 + number for number, name in enumerate(LIMITS)}
    code, _, err = mcts_ray("up", "--max-budget", 7, *(word for name in LIMITS for word in ("--set", f"{name}={values[name]}")))
    assert (code, err) == (0, "") and started.pop() == Settings(**values)
    assert mcts_ray("up", "--max-budget", 7, "--reward", "jpeg", "--set", "max-seconds=null")[0] == 0
    assert started == [Settings(max_budget=7, reward="jpeg")]


def test_without_a_service(mcts_ray, monkeypatch, tmp_path):
    monkeypatch.setenv("MCTS_RAY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MCTS_RAY_URL", raising=False)
    for arguments in (("status",), ("submit", PROMPT), ("jobs",), ("watch", "a"), ("down",)):
        code, out, err = mcts_ray(*arguments)
        assert code == 2 and out == "" and "no service is known here" in err
    monkeypatch.setenv("MCTS_RAY_URL", "http://127.0.0.1:1")
    code, found, _ = mcts_ray("status", "--json")
    assert (code, found) == (1, {"up": False, "url": "http://127.0.0.1:1"})
    code, _, err = mcts_ray("submit", PROMPT)
    assert code == 2 and "no service answers at http://127.0.0.1:1" in err


def test_down_keeps_what_it_knows_of_a_service_that_answers_but_cannot_be_ended(live, mcts_ray):
    code, out, err = mcts_ray("down")  # nothing answers at the address of its cluster
    assert code == 1 and out == "" and err.count("\n") == 1 and "still answers, but could not be ended" in err
    assert mcts_ray("status")[0] == 0 and read_state()


def test_down_forgets_a_service_that_has_gone_with_its_cluster(mcts_ray, monkeypatch, tmp_path):
    monkeypatch.setenv("MCTS_RAY_HOME", str(tmp_path / "home"))
    write_state({"url": "http://127.0.0.1:1", "address": "127.0.0.1:1", "session": None})
    code, _, err = mcts_ray("down", "--address", "127.0.0.1:2")
    assert code == 2 and "no Ray cluster answers at 127.0.0.1:2" in err and read_state()
    assert mcts_ray("down")[0] == 0 and not read_state()


def test_a_token_in_the_environment_that_protects_nothing_is_refused(mcts_ray, monkeypatch, tmp_path):
    monkeypatch.setenv("MCTS_RAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MCTS_RAY_TOKEN", "short")
    code, out, err = mcts_ray("up")
    assert code == 2 and out == "" and err.count("\n") == 1 and "MCTS_RAY_TOKEN holds no token" in err


@pytest.fixture
def starting():
    """The URL of a service that is starting."""

    class Starting(BaseHTTPRequestHandler):
        def do_GET(self):
            body = b'{"detail": "the service is starting; try again"}'
            self.send_response(503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Starting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_service_that_is_starting_is_not_up_and_not_gone(starting, mcts_ray, monkeypatch, tmp_path):
    monkeypatch.setenv("MCTS_RAY_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MCTS_RAY_URL", raising=False)
    write_state({"url": starting, "address": "127.0.0.1:1", "session": None})
    code, found, err = mcts_ray("status", "--json")
    assert (code, found, err) == (1, {"up": False, "url": starting}, "")
    code, _, err = mcts_ray("up")
    assert code == 2 and f"a service runs already at {starting}" in err
