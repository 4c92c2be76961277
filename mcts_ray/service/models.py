"""What goes over HTTP: shared by the application, the clients and the command line, so that the OpenAPI document is exact."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mcts_ray.config import SearchConfig

Status = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")
ID = r"^[0-9a-z-]{1,64}$"
SIZE = r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$"
EXAMPLE = "a red circle left of a blue square"


def _means(value: Any) -> Any:
    """What a value of JSON means in Python: an array is a tuple, and 60.0 an integer."""
    if isinstance(value, list):
        return tuple(map(_means, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read(cls, values: Any) -> Any:
    return {name: _means(value) for name, value in values.items()} if isinstance(values, dict) else values


class Body(BaseModel):
    """The body of a request: nothing in it that is not known, and every value of the type that the document says."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)
    _read = model_validator(mode="before")(_read)


class SearchRequest(SearchConfig):
    """A search: a prompt, a model of the service (None: its first) and any field of SearchConfig."""

    model_config = ConfigDict(strict=True)  # "60" is no number and true no 1: so the document says
    _read = model_validator(mode="before")(_read)

    prompt: str = Field(
        min_length=1, description="What to make images of; the model scenes reads its own grammar only.", examples=[EXAMPLE]
    )
    model: str | None = Field(None, description="A model of the service, see /v1/models; None: its first.")

    def config(self) -> SearchConfig:
        """The configuration alone."""
        return SearchConfig(**self.model_dump(exclude={"prompt", "model"}))


class Extension(Body):
    """More budget for a search."""

    nfe: int = Field(
        ge=0,
        description="NFE to add. A search that has ended goes on with the sum; 0 does that for one that was cancelled or failed.",
    )


class JobProgress(BaseModel):
    """Where a search stands; `nfe` counts units under way too, `best` is the best reward so far. paused: why it waits, if it does."""

    nfe: int
    budget: int
    seconds: float
    best: float | None = None
    images: int = 0
    failed: int = 0
    paused: str | None = None


class Job(BaseModel):
    """A search of the service."""

    id: str
    status: Status
    prompt: str
    model: str
    algorithm: str
    budget: int = Field(description="NFE that may be spent, extensions included.")
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    attempt: int = Field(0, description="How often it has been begun.")
    cancelling: bool = Field(False, description="Whether it was cancelled and is about to end.")
    progress: JobProgress | None = None
    error: str | None = Field(None, description="Why it has failed, in one sentence.")
    result: dict[str, Any] | None = Field(
        None, description="The object that `mcts-ray search --json` prints, once there is one; while more is searched, that of before."
    )

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.status in ENDED


class JobList(BaseModel):
    """Searches, the newest first. next: the id after which to ask on, None at the end."""

    searches: list[Job]
    next: str | None = None


class Best(BaseModel):
    """The best image so far: its reward and a small JPEG as a data URI."""

    reward: float
    thumbnail: str


class Change(BaseModel):
    """The state of a search with its version, which grows with every change, and its best image so far."""

    version: int
    job: Job
    best: Best | None = None


class ModelInfo(BaseModel):
    """A model of the service: its name, and the size of its images and the reward unless others are asked for."""

    id: str
    object: Literal["model"] = "model"
    owned_by: str = "mcts-ray"
    height: int
    width: int
    reward: str | None = Field(None, description="None: a search must name one.")


class ModelList(BaseModel):
    """The models of the service, the default first."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


class Health(BaseModel):
    """Whether the service is up, and how much it has to do."""

    status: Literal["ok"] = "ok"
    version: str
    queued: int
    running: int


class Problem(BaseModel):
    """Why a request was refused, in one sentence."""

    detail: str


class Fault(BaseModel):
    """What OpenAI's clients read of an error: a sentence, its kind, the field at fault if it is one, and a word for it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ImageProblem(BaseModel):
    """Why no images were made, in the form of OpenAI."""

    error: Fault


class ImageRequest(Body):
    """The body of OpenAI's POST /v1/images/generations, as far as it means something here.

    `budget`, `algorithm`, `reward` and `seed` are ours. Other fields of that form (user, quality, style, background, ...) are passed
    over; null is as good as leaving a field out.
    """

    model_config = ConfigDict(extra="ignore")

    prompt: str = Field(min_length=1, description="What to make images of.", examples=[EXAMPLE])
    model: str | None = Field(None, description="A model of the service; None: its first.")
    n: int | None = Field(1, ge=1, le=10, description="How many images.")
    size: str | None = Field(None, description="WIDTHxHEIGHT in pixels, or auto.", json_schema_extra={"pattern": SIZE})
    response_format: Literal["b64_json", "url"] | None = Field("b64_json", description="The images themselves, or where they are.")
    budget: int | None = Field(None, ge=1, description="NFE, enough for n trajectories; None: as for searches, or as many as n needs.")
    algorithm: str | None = Field(None, description="Search algorithm; None: as for searches.")
    reward: str | None = Field(None, description="A reward by name, or a sum; None: that of the model, see /v1/models.")
    seed: int | None = Field(0, ge=0, description="Seed of all noise.")

    @field_validator("size")
    @classmethod
    def _known_size(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(SIZE, value):
            raise ValueError("size must be auto or WIDTHxHEIGHT in pixels, as in 512x512")
        return value

    def search(self) -> SearchRequest:
        """The search that answers it."""
        size = {}
        if self.size not in (None, "auto"):
            size = dict(zip(("width", "height"), map(int, self.size.split("x"))))
        given = {name: value for name in ("budget", "algorithm", "reward") if (value := getattr(self, name)) is not None}
        search = SearchRequest(prompt=self.prompt, model=self.model, images=self.n or 1, seed=self.seed or 0, **size, **given)
        least = search.images * search.levels
        if self.budget is not None and self.budget < least:
            raise ValueError(f"budget {self.budget} is below {search.images} images of {search.levels} NFE; give at least {least}")
        return search if search.spendable >= least else search.model_copy(update={"budget": least})


class ImageData(BaseModel):
    """One image: as base64 of its PNG, or the URL of it on this service."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class ImageResponse(BaseModel):
    """Images, best first. search: the id of the search that found them."""

    created: int
    data: list[ImageData]
    search: str
