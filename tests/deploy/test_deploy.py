"""Everything under deploy/: the schema each file must meet, and that what it names is there."""

import importlib
import importlib.metadata
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import click
import jsonschema
import pytest
import ray.autoscaler
import typer.main
import yaml
from ray.scripts.scripts import cli as ray_cli
from ray.serve.schema import ServeDeploySchema
from ray.serve.scripts import cli as serve_cli

from mcts_ray import cli
from mcts_ray.service.observe import METRICS
from tests.deploy.kuberay import KINDS, cluster_of

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RAY = importlib.metadata.version("ray")
MANIFESTS = sorted((DEPLOY / "kuberay").glob("*.yaml"))


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def resources(path):
    return [KINDS[one["kind"]].model_validate(one) for one in documents(path) if one["apiVersion"].startswith("ray.io")]


def serve_configs():
    yield yaml.safe_load((DEPLOY / "serve" / "config.yaml").read_text())
    for path in MANIFESTS:
        for resource in resources(path):
            if resource.kind == "RayService":
                yield yaml.safe_load(resource.spec.serveConfigV2)


def commands():
    """Every `mcts-ray ...` in any file of deploy, a variable of the shell being a word."""
    for path in sorted(DEPLOY.rglob("*")):
        if not path.is_file():
            continue
        text = path.read_text().replace("\\\n", " ")
        for found in re.finditer(r"(?<![\w/:])mcts-ray ((?:up|down|search|submit|status)\b[^\n`']*)", text):
            yield path.name, shlex.split(found[1])


def code(path):
    """The lines of a file that are for a shell: in Markdown the blocks of code and what is between backticks, else any, comments too."""
    text = path.read_text().replace("\\\n", " ")
    if path.suffix != ".md":
        return text.splitlines()
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()] + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def commands_of_ray():
    """Every `ray ...` and `serve ...` of the documentation and of deploy: the file, and its words."""
    places = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(DEPLOY.rglob("*"))]
    for path in filter(Path.is_file, places):
        for line in code(path):
            found = re.match(r"[#\s-]*(?:srun )?((?:ray|serve) [a-z][\w-]*.*)", line)
            if found:
                words = ["2" if word == "$SLURM_NNODES" else word for word in shlex.split(found[1], comments=True)]
                yield path.name, words[: words.index(">")] if ">" in words else words


def parse_by_click(command, words):
    """As the program would, up to where it would run: an unknown command is a KeyError, another mistake a click.UsageError."""
    while isinstance(command, click.Group):
        command, words = command.commands[words[0]], words[1:]
    with command.make_context(command.name, list(words)):
        pass


def test_the_launcher_file_meets_rays_schema():
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    config = yaml.safe_load((DEPLOY / "ray" / "aws-gpu.yaml").read_text())
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"  # workers need it as the head does
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"] and config["docker"]["image"].startswith(f"rayproject/ray:{RAY}-")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "workers": 1}, schema)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_meet_a_strict_model(path):
    (resource,) = resources(path)
    cluster = cluster_of(resource)
    assert cluster.rayVersion == RAY and cluster.authOptions.mode == "token"
    assert cluster.enableInTreeAutoscaling and cluster.autoscalerOptions.version == "v2"
    claims = {one["metadata"]["name"] for file in MANIFESTS for one in documents(file) if one["kind"] == "PersistentVolumeClaim"}
    for group in (cluster.headGroupSpec, *cluster.workerGroupSpecs):
        pod = group.template.spec
        volumes = {volume.name: volume for volume in pod.volumes}
        assert {mount.name for container in pod.containers for mount in container.volumeMounts} == set(volumes)
        assert {volume.persistentVolumeClaim.claimName for volume in volumes.values() if volume.persistentVolumeClaim} <= claims
        assert all((DEPLOY / "docker" / f"Dockerfile.{c.image.removeprefix('mcts-ray:')}").is_file() for c in pod.containers)
    for workers in cluster.workerGroupSpecs:
        assert 1 <= workers.minReplicas <= workers.replicas <= workers.maxReplicas


def test_serve_configs_name_an_application_that_can_be_built():
    from ray.serve import Application

    configs = list(serve_configs())
    assert len(configs) == 2
    for config in configs:
        (application,) = ServeDeploySchema.model_validate(config).applications
        module, name = application.import_path.split(":")
        built = getattr(importlib.import_module(module), name)(application.args)
        assert isinstance(built, Application)
        assert [deployment.name for deployment in application.deployments] == [built._bound_deployment.name]


def test_every_command_can_be_parsed():
    found = list(commands())
    assert {name for name, _ in found} >= {"README.md", "rayjob.yaml", "raycluster.yaml", "aws-gpu.yaml", "search.sbatch"}
    root = typer.main.get_command(cli.app)
    for name, words in found:
        words = ["2" if word == "$SLURM_NNODES" else word for word in words]
        with root.commands[words[0]].make_context(words[0], words[1:]):
            pass


def test_every_command_of_ray_and_serve_can_be_parsed():
    found = list(commands_of_ray())
    files = {"README.md", "aws-gpu.yaml", "search.sbatch", "config.yaml"}
    assert {name for name, _ in found} >= files and {words[0] for _, words in found} == {"ray", "serve"}
    assert {words[1] for _, words in found} >= {"start", "stop", "up", "exec", "attach", "job", "symmetric-run", "get-auth-token", "run"}
    for _, (program, *words) in found:
        group = {"ray": ray_cli, "serve": serve_cli}[program]
        if len(words) == 1:  # the text speaks of it
            assert words[0] in group.commands, words
        else:
            parse_by_click(group, words)


@pytest.mark.parametrize("line", ["ray begin", "ray start --heads", "ray job send -- ls", "serve run", "ray attach --port-forward x FILE"])
def test_a_command_that_there_is_not_is_found(line):
    program, *words = shlex.split(line)
    with pytest.raises((KeyError, click.UsageError)):
        parse_by_click({"ray": ray_cli, "serve": serve_cli}[program], words)


def test_every_file_that_is_named_exists():
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            for name in re.findall(r"(?<![\w/])deploy/[\w./-]+\w", path.read_text()):
                assert (ROOT / name).exists(), (path, name)


def test_dockerfiles_copy_what_there_is_and_use_this_ray():
    for path in (DEPLOY / "docker").glob("Dockerfile.*"):
        text = path.read_text()
        assert f"FROM rayproject/ray:{RAY}-" in text and "RAY_AUTH_MODE=token" in text
        for line in re.findall(r"^COPY (?:--\S+ )?(.*) \S+$", text, re.MULTILINE):
            assert all((ROOT / name).exists() for name in line.split())


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_there_are():
    dashboard = json.loads((DEPLOY / "grafana" / "mcts-ray.json").read_text())
    asked = {name for panel in dashboard["panels"] for target in panel["targets"] for name in re.findall(r"mcts_ray_\w+", target["expr"])}
    there = {
        name + end for name, (kind, *_) in METRICS.items() for end in {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket"]}[kind]
    }
    assert asked <= there and len(asked) >= 10
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert [job["job_name"] for job in scrape["scrape_configs"]] == ["mcts-ray", "ray"]


def test_the_shell_script_is_one():
    assert subprocess.run(["bash", "-n", str(DEPLOY / "slurm" / "search.sbatch")], capture_output=True).returncode == 0


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def home_of_its_own(tmp_path):
    """The environment of a user who knows no cluster and no token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MCTS_RAY_"))}
    temporary = Path("/tmp") / f"mv{os.getpid()}"
    temporary.mkdir(exist_ok=True)
    binaries = str(Path(sys.executable).parent)
    path = f"{binaries}{os.pathsep}{kept['PATH']}"
    return {**kept, "HOME": str(tmp_path), "RAY_TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "PATH": path}


@pytest.mark.slow
def test_a_search_runs_as_a_ray_job(tmp_path):
    """`ray job submit -- mcts-ray search …` on a cluster with Ray's token authentication."""
    env, port = {**home_of_its_own(tmp_path), "RAY_AUTH_MODE": "token"}, free_port()

    def ray(*words):
        done = subprocess.run(["ray", *words], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        return done.stdout + done.stderr

    ray("get-auth-token", "--generate")
    start = ["ray", "start", "--head", "--block", "--port", str(free_port()), "--num-cpus", "2"]
    head = subprocess.Popen(
        [*start, "--include-dashboard", "true", "--dashboard-port", str(port)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        search = ["mcts-ray", "search", "a cyan cross", "--levels", "4", "--budget", "8", "--out", str(tmp_path / "run"), "--json"]
        deadline, said = time.monotonic() + 150, ""
        while "succeeded" not in said:  # the head and its agent of jobs take some seconds
            assert time.monotonic() < deadline and "failed" not in said, said
            said = ray("job", "submit", "--address", f"http://127.0.0.1:{port}", "--", *search)
        assert json.loads((tmp_path / "run" / "job.json").read_text()) and list((tmp_path / "run" / "images").iterdir())
    finally:
        head.terminate()
        head.wait(60)


@pytest.mark.slow
def test_the_serve_config_really_starts(tmp_path, tiny_folder):
    """By `serve run`, in a home of its own, with another port and model."""
    port = free_port()
    config = yaml.safe_load((DEPLOY / "serve" / "config.yaml").read_text())
    config["http_options"]["port"] = port
    config["applications"][0]["args"] |= {"models": [str(tiny_folder)], "device": "cpu", "store": str(tmp_path / "jobs")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    env = {**home_of_its_own(tmp_path), "MCTS_RAY_TOKEN": "t" * 20}
    command = [str(Path(sys.executable).with_name("serve")), "run", str(tmp_path / "config.yaml")]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log)
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models", headers={"Authorization": "Bearer " + "t" * 20})
        deadline = time.monotonic() + 240
        models = None
        while models is None and time.monotonic() < deadline and process.poll() is None:
            try:
                models = json.load(urllib.request.urlopen(request, timeout=60))
            except OSError:
                time.sleep(0.5)
        assert models and models["data"][0]["id"] == str(tiny_folder), (tmp_path / "log").read_text()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
