"""The commands of the service: up, down, status, and what speaks to it: submit, jobs, watch, result, cancel, resume."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from mcts_ray.config import SearchConfig
    from mcts_ray.service.client import Client
    from mcts_ray.service.models import Job

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="The id of a search.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (up, down, status, submit, jobs, watch, result, cancel, resume):
        app.command()(command)


def up(
    address: Annotated[
        Optional[str], typer.Option(metavar="HOST:PORT", help="Ray cluster. [RAY_ADDRESS, else one on this machine, else a new one]")
    ] = None,
    models: Annotated[str, typer.Option(metavar="NAME,NAME...", help="scenes, hub ids or folders; the first is the default.")] = "scenes",
    gpus: Annotated[
        Optional[int], typer.Option(min=0, metavar="N", help="GPUs of each model, one denoiser on each; 0: the CPU. [all there are]")
    ] = None,
    workers: Annotated[
        Optional[int], typer.Option(min=1, metavar="N", help="Denoisers of each model. [one for each GPU, at least 1]")
    ] = None,
    max_workers: Annotated[
        Optional[int], typer.Option(min=1, metavar="N", help="Denoisers of each model while there is enough to do. [as at the start]")
    ] = None,
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    store: Annotated[
        Optional[str], typer.Option(metavar="DIR|URL", help="Where jobs are kept: a folder or any fsspec URL. [MCTS_RAY_HOME/jobs]")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 for the network.")] = "127.0.0.1",
    port: Annotated[Optional[int], typer.Option(min=1, max=65535, help="[8000, or any one that is free]")] = None,
    no_token: Annotated[bool, typer.Option("--no-token", help="Let everybody in who can reach the port.")] = False,
    allow_reward: Annotated[
        Optional[list[str]], typer.Option(metavar="MODULE:FUNCTION", help="A reward function that clients may name.")
    ] = None,
    reward: Annotated[
        Optional[str], typer.Option(help="Of searches that name none, for models without one of their own: a reward by name, or a sum.")
    ] = None,
    max_budget: Annotated[int, typer.Option(min=1, metavar="NFE", help="Of one search.")] = 20_000,
    max_queue: Annotated[int, typer.Option(min=1, help="Searches that may wait.")] = 1000,
    max_running: Annotated[int, typer.Option(min=1, help="Searches that run at once.")] = 16,
    set_: Annotated[
        Optional[list[str]], typer.Option("--set", metavar="NAME=VALUE", help="Any limit: max_prompt, max_body, max_seconds, …")
    ] = None,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="With Ray's dashboard, on a new cluster.")] = False,
    as_json: Json = False,
) -> int:
    """Start the service, and return when it is ready; it goes on running."""
    from mcts_ray.service.settings import make_settings
    from mcts_ray.service.up import up as start

    if gpus and workers not in (None, gpus):
        raise ValueError("--gpus and --workers say the same thing, one denoiser for each GPU; give one of them")
    if max_workers is not None and max_workers < (workers or gpus or 1):
        raise ValueError(f"--max-workers {max_workers} is less than the {workers or gpus} denoisers to begin with; give that many or more")
    device = "auto" if gpus is None else "cuda" if gpus else "cpu"
    names = tuple(dict.fromkeys(name.strip() for name in models.split(",") if name.strip()))
    if not names:
        raise ValueError("--models names no model; try scenes")
    given = dict(
        models=names, device=device, dtype=dtype, workers=workers or gpus or None, store=_absolute(store), token=not no_token,
        rewards=tuple(allow_reward or ()), reward=reward, max_budget=max_budget, max_queue=max_queue, max_running=max_running,
        max_workers=max_workers,
    )  # fmt: skip
    settings = make_settings(given, set_ or ())
    state = start(settings, address, host, port, dashboard)
    _print(state, as_json, f"the service is ready at {state['url']} on the Ray cluster at {state['address']}")
    return 0


def down(
    address: Annotated[
        Optional[str], typer.Option(metavar="HOST:PORT", help="Ray cluster of a service. [that of the service known here]")
    ] = None,
    as_json: Json = False,
) -> int:
    """End the service; unfinished searches go on when it is started again."""
    from mcts_ray.service.up import down as stop

    try:
        state = stop(address)
    except ConnectionError as error:
        _say(str(error))
        return 1
    where = f"at {state['url']}" if state["url"] else f"on the Ray cluster at {state['address']}"
    _print({"down": True, "url": state["url"]}, as_json, f"the service {where} has ended")
    return 0


def status(as_json: Json = False) -> int:
    """Whether the service is up, and how much it has to do. Exit code 1 if it does not answer, or is starting."""
    from mcts_ray.service.errors import Unavailable
    from mcts_ray.service.home import find_service, read_state

    url, _ = find_service()
    with _client() as client:
        try:
            health = client.health()
            models = [model.id for model in client.models().data]
        except (ConnectionError, Unavailable) as error:
            _print({"up": False, "url": url}, as_json, str(error))
            return 1
    found = {"up": True, "url": url, "address": read_state().get("address"), "models": models, **health.model_dump(exclude={"status"})}
    _print(found, as_json, f"up at {url}: {', '.join(models)}; {health.running} searches running, {health.queued} queued")
    return 0


def submit(
    prompt: Annotated[Optional[str], typer.Argument(metavar="PROMPT", help="What to make images of.")] = None,
    file: Annotated[Optional[Path], typer.Option(metavar="FILE", help="Many prompts, one a line.")] = None,
    model: Annotated[Optional[str], typer.Option(help="A model of the service. [its first]")] = None,
    algorithm: Annotated[Optional[str], typer.Option(help="Search algorithm. [best-of-n]")] = None,
    reward: Annotated[Optional[str], typer.Option(help="A reward by name, or a sum.")] = None,
    negative_prompt: Annotated[Optional[str], typer.Option(help="What the images should not show.")] = None,
    budget: Annotated[Optional[int], typer.Option(metavar="NFE", help="Denoiser evaluations per prompt. [8 x levels]")] = None,
    max_seconds: Annotated[Optional[float], typer.Option(help="Wall time per prompt. [no limit]")] = None,
    levels: Annotated[Optional[int], typer.Option(help="T, denoising levels of a full trajectory. [30]")] = None,
    guidance: Annotated[Optional[float], typer.Option(help="Guidance scale.")] = None,
    images: Annotated[Optional[int], typer.Option(metavar="N", help="How many of the best images to keep. [4]")] = None,
    seed: Annotated[Optional[int], typer.Option(help="Seed of all noise. [0]")] = None,
    config: Annotated[Optional[Path], typer.Option(metavar="FILE", help="SearchConfig fields in JSON or TOML.")] = None,
    set_: Annotated[Optional[list[str]], typer.Option("--set", metavar="NAME=VALUE", help="Any SearchConfig field.")] = None,
    key: Annotated[Optional[str], typer.Option(help="Idempotency key: the same again gives the same search.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the searches have ended.")] = False,
    as_json: Json = False,
) -> int:
    """Queue a search for PROMPT, or one for each line of a file."""
    from mcts_ray.settings import load_config, parse_setting
    from mcts_ray.request import read_prompts

    options = dict(algorithm=algorithm, reward=reward, negative_prompt=negative_prompt, budget=budget, max_seconds=max_seconds)
    options |= dict(levels=levels, guidance=guidance, images=images, seed=seed)
    given = {name: value for name, value in options.items() if value is not None}
    search = load_config(config, given | dict(parse_setting(text) for text in set_ or []))
    if (prompt is None) == (file is None):
        raise ValueError("give either a PROMPT or --file FILE")
    prompts = [prompt] if file is None else read_prompts(file)
    keys = [key and (key if file is None else f"{key}-{index}") for index in range(len(prompts))]
    with _client() as client:
        found = _submit_all(client, prompts, keys, search, model)
        if wait:
            found = [client.wait(job.id) for job in found]
    objects = [job.model_dump(mode="json") for job in found]
    _print(objects[0] if file is None else objects, as_json, "\n".join(job.id for job in found))
    return int(any(job.status == "failed" for job in found))


def jobs(
    status: Annotated[Optional[str], typer.Option(help="Only those: queued, running, done, failed or cancelled.")] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="The newest so many.")] = 20,
    as_json: Json = False,
) -> int:
    """List searches, the newest first."""
    with _client() as client:
        found = list(client.jobs(status, limit))
    _print([job.model_dump(mode="json") for job in found], as_json, "\n".join(_line(job) for job in found) or "there are no searches")
    return 0


def watch(id: Id, as_json: Json = False) -> int:
    """Follow a search, and return when it has ended; exit code 1 if it has failed."""
    from mcts_ray.report.terminal import live

    with _client() as client, live(quiet=as_json) as show:
        job = client.wait(id, show and _shown(show))
    _print(job.model_dump(mode="json"), as_json, _line(job))
    return int(job.status == "failed")


def result(
    id: Id,
    out: Annotated[
        Optional[Path], typer.Option(metavar="DIR", help="Fetch images, report, tree and result into DIR. [runs/ID, if not on this machine]")
    ] = None,
    as_json: Json = False,
) -> int:
    """Print what a search has found, as `search` does."""
    from mcts_ray.service.fetch import fetch

    with _client() as client:
        job = client.job(id)
        if not job.has_ended and job.result is None:
            raise ValueError(f"search {id} is {job.status}; `mcts-ray watch {id}` returns when it has ended")
        if job.result is None:
            _say(job.error or f"search {id} was {job.status} before it had found anything")
            return 1
        found = job.result
        if out is not None or not Path(found["run_dir"]).is_dir():
            found = fetch(client, job, out or Path("runs") / id)
    _print(found, as_json, _found(found))
    if not job.has_ended:
        _say(f"search {id} is {job.status} once more; this is what it had found before")
    elif job.error or not found["images"]:
        _say(job.error or f"search {id} was {job.status} before it had found an image")
    return int(not found["images"])


def cancel(id: Id, as_json: Json = False) -> int:
    """End a search; what it has found is kept."""
    with _client() as client:
        job = client.cancel(id)
    _print(job.model_dump(mode="json"), as_json, _line(job))
    return 0


def resume(
    run: Annotated[str, typer.Argument(metavar="RUN|ID", help="A run directory, or the id of a search of the service.")],
    nfe: Annotated[int, typer.Option("--add", min=0, metavar="NFE", help="Budget to add.")] = 0,
    executor: Annotated[str, typer.Option(help="Of a run directory: ray, by actors, or local, in this process.")] = "ray",
    workers: Annotated[Optional[int], typer.Option(min=1, metavar="N", help="Of a run directory: denoisers.")] = None,
    address: Annotated[Optional[str], typer.Option(metavar="HOST:PORT", help="Of a run directory: the Ray cluster.")] = None,
    as_json: Json = False,
) -> int:
    """Go on with a search: from its run directory, where it was stopped, or in the service, where it was cancelled or has failed.

    With --add also one that has ended.
    """
    path = Path(run)
    if path.exists() or path.name != run:
        return _resume_run(path, nfe, executor, workers, address, as_json)
    if (executor, workers, address) != ("ray", None, None):
        raise ValueError(f"there is no run directory {run}; --executor, --workers and --address are not for searches of the service")
    with _client() as client:
        job = client.extend(run, nfe)
    _print(job.model_dump(mode="json"), as_json, _line(job))
    return 0


def _resume_run(path: Path, nfe: int, executor: str, workers: int | None, address: str | None, as_json: bool) -> int:
    from mcts_ray.report.run import summary
    from mcts_ray.report.terminal import live, result_text
    from mcts_ray.result import SearchInterrupted
    from mcts_ray.resume import check, open_searcher

    request = check(path, nfe, executor, workers, address)
    interrupted = False
    with open_searcher(request) as searcher, live() as on_progress:
        try:
            result = searcher.resume(path, on_progress, request.budget)
        except SearchInterrupted as interrupt:
            interrupted, result = True, interrupt.results[0]
    _print(summary(result), as_json, result_text(result))
    if interrupted:
        _say(f"interrupted; what was found is in {path}, and `mcts-ray resume {path}` goes on")
    elif result.failure:
        _say(result.failure)
    return int(interrupted or bool(result.failure))


@contextmanager
def _client() -> Iterator[Client]:
    """A client; what is wrong with a request is the user's mistake, and said as such."""
    from mcts_ray.service.client import Client
    from mcts_ray.service.errors import ServiceError
    from mcts_ray.service.home import find_service, token_source

    url, token = find_service()
    with Client(url, token) as client:
        try:
            yield client
        except ConnectionError as error:
            raise ValueError(f"{error}; start it with `mcts-ray up`") from None
        except ServiceError as error:
            if error.status == 401:
                raise ValueError(f"the service at {url} does not take the token of {token_source()}") from None
            if 400 <= error.status < 429:
                raise ValueError(str(error)) from None
            raise


def _submit_all(client: Client, prompts: list[str], keys: list[str | None], search: SearchConfig, model: str | None) -> list[Job]:
    """Submit in turn. Where one is refused, the ids of those before it are printed, since they are queued."""
    from mcts_ray.service.errors import Invalid

    found: list[Job] = []
    for prompt, key in zip(prompts, keys):
        try:
            found.append(_patiently(lambda: client.submit(prompt, search, model, key)))
        except Invalid as error:
            for job in found:
                typer.echo(job.id)
            queued = f"; the {len(found)} before it are queued, leave them out when you repeat this" if found else ""
            raise Invalid(f"prompt {len(found) + 1} of {len(prompts)}: {error}{queued}" if len(prompts) > 1 else str(error)) from None
    return found


def _patiently(submit: Callable[[], Job]) -> Job:
    """Submit, and where the queue is full wait for as long as the service says; Ctrl-C ends it."""
    from mcts_ray.service.errors import Busy

    while True:
        try:
            return submit()
        except Busy as busy:
            _say(f"{busy}; waiting {busy.retry_after or 10} s")
            time.sleep(busy.retry_after or 10)


def _shown(show: Callable[[Any], None]) -> Callable[[Any], None]:
    """Events as the progress line of `search`."""
    from mcts_ray.executor.base import Progress

    def on_event(event: Any) -> None:
        if event.name == "progress":
            now = event.data
            show(Progress(now.nfe, now.budget, now.seconds, (now.best,), now.images, now.failed, 1))

    return on_event


def _line(job: Job) -> str:
    best = f", best {job.result['reward']['best']:.3f}" if job.result and job.result["reward"]["best"] is not None else ""
    spent = job.progress.nfe if job.progress else 0
    return f"{job.id}  {job.status:<9}  {spent}/{job.budget} NFE{best}  {job.prompt}{f'  ({job.error})' if job.error else ''}"


def _found(found: dict[str, Any]) -> str:
    reward, ledger = found["reward"], found["ledger"]
    lines = [found["prompt"]]
    if reward["best"] is not None:
        gold = "" if found["gold"] is None else f" · gold {found['gold']:.2f}"
        lines.append(f"  {reward['name']} {reward['best']:.3f} best, {reward['mean']:.3f} mean of {ledger['decodes']} images{gold}")
    return "\n".join([*lines, f"  {ledger['nfe']} NFE in {ledger['seconds']:.1f} s", *(f"  {path}" for path in found["images"])])


def _absolute(store: str | None) -> str | None:
    return store if store is None or "://" in store else str(Path(store).expanduser().absolute())


def _print(value: Any, as_json: bool, text: str) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False) if as_json else text)


def _say(sentence: str) -> None:
    print(f"mcts-ray: {sentence}", file=sys.stderr)
