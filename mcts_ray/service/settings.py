"""What the operator of a service has decided: models, store, limits, who may come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mcts_ray.settings import ConfigError, first_mistake, near, parse_setting

TOKEN = "MCTS_RAY_TOKEN"  # the environment variable in which a pod is given its token
LIMITS = (
    "max_running", "max_queue", "max_budget", "max_seconds", "max_prompt", "max_body", "max_images", "max_side", "attempts", "retry_after",
)  # fmt: skip


class Settings(BaseModel):
    """Settings of a service; in a Serve config they are the `args` of the application."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    models: tuple[str, ...] = Field(("scenes",), min_length=1, description="scenes, hub ids or folders; the first is the default.")
    device: str = Field("auto", description="auto, cpu or cuda.")
    dtype: str = Field("fp32", description="fp32, bf16 or fp16.")
    workers: int | None = Field(None, ge=1, description="Denoisers of each model; None: one for each GPU, at least one.")
    max_workers: int | None = Field(
        None, ge=1, description="Denoisers that each model may have while there is enough to do; None: as many as at the start."
    )
    store: str | None = Field(None, description="Folder or fsspec URL of the jobs; None: the folder `jobs` in MCTS_RAY_HOME.")
    token: bool = Field(True, description="Whether requests must carry the bearer token.")
    rewards: tuple[str, ...] = Field((), description="User reward functions, MODULE:FUNCTION, that clients may name; none by default.")
    reward: str | None = Field(
        None, description="Reward of searches that name none, for models without one of their own; None: such searches are refused."
    )
    max_running: int = Field(16, ge=1, description="Searches that run at once; the others are queued.")
    max_queue: int = Field(1000, ge=1, description="Searches that may be queued.")
    max_budget: int = Field(20_000, ge=1, description="NFE of one search.")
    max_seconds: float | None = Field(None, gt=0, description="Wall time of one search; None: no limit.")
    max_prompt: int = Field(1000, ge=1, description="Characters of a prompt, and of a negative prompt.")
    max_body: int = Field(64 * 1024, ge=1024, description="Bytes of the body of a request.")
    max_images: int = Field(16, ge=1, description="Images that one search may keep.")
    max_side: int = Field(2048, ge=8, description="Pixels of the longer side of an image.")
    attempts: int = Field(3, ge=1, description="How often in a row a search may be lost with its actors and get nowhere; then it fails.")
    retry_after: Annotated[int, Field(ge=1)] = Field(10, description="Seconds that a client is told to wait where the queue is full.")


def make_settings(values: Mapping[str, Any], limits: Sequence[str] = ()) -> Settings:
    """Validate; `limits` are NAME=VALUE and go before `values`. ConfigError with one sentence for the first mistake."""
    given = dict(parse_setting(text) for text in limits)
    for name in given:
        if name not in LIMITS:
            raise ConfigError(f"there is no limit {name!r}; {near(name, LIMITS)}")
    as_text = {name: None if value is None else str(value) for name, value in given.items()}  # true is no number
    try:
        return Settings(**{**values, **as_text})
    except ValidationError as error:
        raise ConfigError(first_mistake(error, Settings.model_fields)) from error
