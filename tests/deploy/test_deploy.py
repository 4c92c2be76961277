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
from ray.autoscaler.v2.schema import ClusterStatus, NodeInfo, ResourceUsage
from ray.autoscaler.v2.utils import ClusterStatusFormatter
from ray.scripts.scripts import cli as ray_cli
from ray.serve.schema import ServeDeploySchema
from ray.serve.scripts import cli as serve_cli

from mcts_ray import cli
from mcts_ray.service.observe import METRICS
from tests.deploy.kuberay import KINDS, Metadata, cluster_of

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


def header(path):
    """The commands that a file begins with, as its comments give them."""
    lines = path.read_text().splitlines()
    comments = lines[: next(at for at, line in enumerate(lines) if not line.startswith("#"))]
    return [line[1:].strip() for line in comments if line.startswith("#   ")]


def place(lines, pattern):
    """Which of the lines holds this."""
    (found,) = [at for at, line in enumerate(lines) if re.search(pattern, line)]
    return found


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
    verb = "create" if resource.metadata.generateName else "apply"  # `apply` wants a name
    assert f"kubectl {verb} -f deploy/kuberay/{path.name}" in header(path)


@pytest.mark.parametrize("names", [{}, {"name": "a", "generateName": "a-"}], ids=["none", "both"])
def test_a_manifest_has_one_name(names):
    with pytest.raises(ValueError, match="one of name and generateName"):
        Metadata.model_validate(names)


def test_the_volume_claim_can_be_made_alone():
    for path in (DEPLOY / "kuberay" / name for name in ("rayjob.yaml", "rayservice.yaml")):
        lines = header(path)
        at = place(lines, r"\| kubectl apply -f -$")
        made = subprocess.run(["bash", "-c", lines[at].partition(" | ")[0]], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        (claim,) = yaml.safe_load_all(made)
        assert (claim["kind"], claim["metadata"]["name"]) == ("PersistentVolumeClaim", "mcts-ray-data")
        assert at < place(lines, rf"kubectl (apply|create) -f deploy/kuberay/{path.name}")


def test_each_job_has_a_run_directory_of_its_own_on_the_volume():
    (job,) = resources(DEPLOY / "kuberay" / "rayjob.yaml")
    (mount,) = job.spec.rayClusterSpec.headGroupSpec.template.spec.containers[0].volumeMounts

    def out(id):
        """As KubeRay has it submitted: the entrypoint goes into a shell that knows the id."""
        env = {**os.environ, "RAY_JOB_SUBMISSION_ID": id}
        said = subprocess.run(["bash", "-c", f"printf '%s\\n' {job.spec.entrypoint}"], env=env, capture_output=True, text=True, check=True)
        program, *words = said.stdout.splitlines()
        assert program == "mcts-ray"
        with typer.main.get_command(cli.app).commands[words[0]].make_context(words[0], words[1:]) as context:
            return context.params["out"]

    one, other = out("a-1"), out("b-2")
    assert one != other and all(Path(mount.mountPath) in Path(path).parents for path in (one, other))


def ups():
    """The options of `mcts-ray up` in each file, by its name."""
    command = typer.main.get_command(cli.app).commands["up"]
    for name, (verb, *words) in commands():
        if verb == "up":
            with command.make_context("up", words) as context:
                yield name, context.params


def test_a_service_may_grow_as_far_as_its_cluster():
    asked = {name: params["max_workers"] for name, params in ups() if name.endswith("yaml") and params["max_workers"]}
    launcher = yaml.safe_load((DEPLOY / "ray" / "aws-gpu.yaml").read_text())
    groups = {path.name: cluster_of(resource).workerGroupSpecs for path in MANIFESTS for resource in resources(path)}
    assert asked == {"raycluster.yaml": groups["raycluster.yaml"][0].maxReplicas, "aws-gpu.yaml": launcher["max_workers"]}
    assert launcher["available_node_types"]["gpu"]["max_workers"] == launcher["max_workers"]
    (service,) = resources(DEPLOY / "kuberay" / "rayservice.yaml")
    (application,) = yaml.safe_load(service.spec.serveConfigV2)["applications"]
    assert application["args"]["max_workers"] == groups["rayservice.yaml"][0].maxReplicas


def test_on_kubernetes_up_waits_for_the_pods():
    """By a condition that KubeRay sets once all pods are ready; a wait for pods would fail where there are none yet."""
    path = DEPLOY / "kuberay" / "raycluster.yaml"
    (resource,) = resources(path)
    lines = header(path)
    made, up = place(lines, "kubectl apply"), place(lines, "mcts-ray up")
    wait = place(lines, rf"kubectl wait --for=condition=RayClusterProvisioned --timeout=\d+m raycluster/{resource.metadata.name}$")
    assert made < wait < up and resource.spec.workerGroupSpecs[0].minReplicas >= 1


def status_of(*resources):
    """What `ray status` prints for a cluster with a pending node and, by Ray's own formatter, these totals."""
    node = NodeInfo(instance_type_name="g6.2xlarge", ray_node_type_name="gpu", instance_id="i-1", ip_address="", details="setting-up")
    usage = [ResourceUsage(resource_name=name, total=total, used=0.0) for name, total in resources]
    return ClusterStatusFormatter.format(ClusterStatus(pending_nodes=[node], cluster_resource_usage=usage))


def test_on_aws_up_waits_for_a_gpu(tmp_path):
    path = DEPLOY / "ray" / "aws-gpu.yaml"
    lines = header(path)
    wait = place(lines, "ray status")
    assert place(lines, "^ray up ") < wait < place(lines, "mcts-ray up")
    assert yaml.safe_load(path.read_text())["available_node_types"]["gpu"]["min_workers"] >= 1
    *_, loop = shlex.split(lines[wait])
    (tmp_path / "1").write_text(status_of(("CPU", 4.0), ("memory", 2.0**33)))
    (tmp_path / "2").write_text(status_of(("CPU", 12.0), ("GPU", 1.0)))
    fakes = "ray() { echo $* >> asked; cat $(wc -l < asked); }; sleep() { :; }; "
    done = subprocess.run(["bash", "-c", fakes + loop], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, ["0.0/1.0", "GPU"])
    assert (tmp_path / "asked").read_text().splitlines() == ["status"] * 2


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
