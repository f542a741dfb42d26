"""The file that says what a deployment is: its address, its keys, its models. Strict like a run file.

keys: keys.json
models:
  - sentiment@champion
  - {model: medical-chapters@champion, replicas: 2, canary: {version: 4, percent: 10}}
  - tone@champion
  - topic@champion
shared: [tone, topic]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, ValidationError, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from heliostat.component import Settings
from heliostat.errors import Problem, RunError
from heliostat.run import nested, read
from heliostat.serve.limits import Count, Limits, Seconds
from heliostat.serve.request_log import RequestLog
from heliostat.serve.switch import Sticky

Percent = Annotated[float, Field(gt=0.0, le=100.0)]
VersionText = Annotated[
    str, BeforeValidator(lambda value: str(value) if type(value) is int else value), Field(min_length=1)
]


def _broken(kind: str, sentence: str) -> PydanticCustomError:
    return PydanticCustomError(kind, "{sentence}", {"sentence": sentence})


class ReplicaRange(Settings):
    """How many processes answer for a model: `2`, or as many as the load asks for, as in `{min: 1, max: 4}`."""

    min: Count = 1
    """Replicas that are always there."""
    max: Count
    """Replicas that there may be."""
    target: Count = 16
    """Requests that each replica has at hand before another one is started."""

    @model_validator(mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        if type(value) is not int:
            return value
        if value < 1:
            raise _broken("range", f"needs one replica or more; found {value}.")
        return {"min": value, "max": value}

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.min > self.max:
            raise _broken("range", f"needs min <= max; found {self.min} and {self.max}.")
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "integer", "minimum": 1}, handler.resolve_ref_schema(handler(schema))]}


class CanarySettings(Settings):
    """A version that answers a share of the requests."""

    version: VersionText
    """A version of the model, as `4`, or an alias, as `next`."""
    percent: Percent
    """How many of a hundred requests it answers."""
    by: Sticky = "client"
    """What keeps a request with its version: the header X-Client-ID (`client`; the content where there is none), the
    name of the key (`key`), or the records (`content`)."""


class ShadowSettings(Settings):
    """A version that answers a share of the requests once more, for comparison: nobody gets its answers."""

    version: VersionText
    """A version of the model, as `4`, or an alias, as `next`."""
    percent: Percent = 100.0
    """How many of a hundred requests it gets."""


class ModelSettings(Settings):
    """One model: `sentiment@champion`, or that under `model` beside settings."""

    model: Annotated[str, Field(min_length=1)]
    """`sentiment@champion`, `sentiment:3`, `sentiment` (the newest), or the folder of a checkpoint."""
    replicas: ReplicaRange = ReplicaRange(max=1)
    """Processes that answer: a number, or {min, max}."""
    threads: Count | None = None
    """CPU threads a replica; None shares the cores out."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the matrix products. auto: bf16 where the machine has units for it and golden answers agree."""
    limits: Limits = Limits()
    """What a request may weigh; what is not set here is as in the deployment's `limits`."""
    canary: CanarySettings | None = None
    """A version that answers a share of the requests."""
    shadow: ShadowSettings | None = None
    """A version that answers for comparison only."""

    @model_validator(mode="before")
    @classmethod
    def _reference(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler.resolve_ref_schema(handler(schema))]}


class SharedSettings(Settings):
    """Models that stand on one pretrained encoder and share it: one process holds it once and reads for all of them."""

    models: Annotated[tuple[str, ...], Field(min_length=2)]
    """Names of theirs, as [tone, topic]. Each keeps its own route, alias, limits and canary."""
    replicas: ReplicaRange = ReplicaRange(max=1)
    """Processes that answer for all of them: a number, or {min, max}."""
    threads: Count | None = None
    """CPU threads a replica; None shares the cores out."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the matrix products. auto: bf16 where the machine has units for it and golden answers agree."""

    @model_validator(mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return {"models": value}
        if not isinstance(value, (Mapping, Settings)):
            raise _broken("names", "takes the names of two models or more, as [tone, topic].")
        return value

    @field_validator("models")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise _broken("twice", f"names {twice} twice.")
        return names

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        names = {"type": "array", "items": {"type": "string"}, "minItems": 2}
        return {"anyOf": [names, handler.resolve_ref_schema(handler(schema))]}


class DeploySettings(Settings):
    """A deployment: models behind one address."""

    models: tuple[ModelSettings, ...]
    """The models, each as `sentiment@champion` or as a section."""
    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs `keys`."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    hosts: tuple[str, ...] = ()
    """Names under which others reach it (the Host header), beside its own."""
    keys: Path | None = None
    """The file with the hashes of keys, beside this file; `heliostat serve key new NAME` makes it."""
    per_minute: Count | None = None
    """Requests a minute that each key may send; None for any number."""
    limits: Limits = Limits()
    """What a request may weigh."""
    requests: RequestLog = RequestLog()
    """What is noted of requests: a line each without any text, and records where `keep` says so."""
    keep_previous: bool = False
    """Keep the version before an update loaded, in processes of its own, so that `rollback` takes effect at once."""
    startup_timeout_s: Seconds = 180.0
    """Seconds after which a model that does not answer yet has failed to start."""
    shared: SharedSettings | None = None
    """Models with adapters on the same base, which share a process and one pass, as [tone, topic]."""
    gallery: bool = True
    """A page with a tab a model, at /gallery, where `heliostat serve` serves it; it asks for a key where models do."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if not self.models:
            raise _broken("no_models", "models names none; it takes the form [sentiment@champion, ...].")
        if self.per_minute is not None and self.keys is None:
            sentence = "per_minute has no effect without keys: leave it out, or set keys."
            raise _broken("no_effect", sentence)
        return self

    def limits_of(self, model: ModelSettings) -> Limits:
        """The limits of a model: its own, and the deployment's where it sets none."""
        own = {name: getattr(model.limits, name) for name in model.limits.model_fields_set}
        return self.limits.model_copy(update=own)


def check_deployment(values: Any, *, source: str = "") -> DeploySettings:
    """Frozen settings from plain values. Raises RunError with every mistake at once."""
    if not isinstance(values, dict):
        raise RunError([Problem("", "a deployment is a mapping with the key models.")], source=source)
    try:
        return DeploySettings.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = [Problem(".".join(map(str, detail["loc"])), str(detail["msg"])) for detail in details]
        raise RunError(problems, source=source) from None


def load_deployment(
    path: Path, overrides: Sequence[str] = (), above: Mapping[str, Any] | None = None
) -> DeploySettings:
    """The deployment of a file, with `key=value` overrides and then `above` laid over it. Paths are beside the file.

    Raises RunError with every mistake at once.
    """
    values = read(path)
    if isinstance(values, dict):
        values = _merged(_merged(deepcopy(values), nested(overrides)), dict(above or {}))
    settings = check_deployment(values, source=str(path))
    if settings.keys is None:
        return settings
    return settings.model_copy(update={"keys": path.expanduser().absolute().parent / settings.keys.expanduser()})


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        below[key] = _merged(below[key], value) if both else value
    return below
