"""What every named class of a plugin has in common: frozen settings of its own, and nothing done in its constructor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError
from rapidfuzz import process

Row = dict[str, Any]
"""A raw record, an example, a target or a prediction: field names and plain values."""

Column = Annotated[str, Field(min_length=1), "column"]
"""A setting that names a column of the source; a name that is missing there is answered with a guess."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$")]
"""A name that may become a path, a route and an alias: lower-case letters, digits, `.`, `_`, `-`."""


def closest(word: str, choices: list[str]) -> str | None:
    """The choice that was probably meant, or None when nothing is near."""
    match = process.extractOne(word, choices, score_cutoff=60)
    return match[0] if match else None


class Settings(BaseModel):
    """Frozen, strict settings: an unknown key is an error that names the key which was probably meant."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="wrap")
    @classmethod
    def _explain_unknown_keys(cls, data: Any, handler: Any) -> Self:
        try:
            checked: Self = handler(data)
            return checked
        except ValidationError as error:
            details = [cls._explained(detail) for detail in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, details) from None

    @classmethod
    def _explained(cls, detail: Any) -> InitErrorDetails:
        if detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1:
            error = cls._unknown(str(detail["loc"][0]))
        else:  # what an inner level said keeps its sentence on the way out
            error = PydanticCustomError(detail["type"], "{sentence}", {"sentence": detail["msg"]})
        return InitErrorDetails(type=error, loc=detail["loc"], input=detail["input"])

    @classmethod
    def _unknown(cls, key: str) -> PydanticCustomError:
        names = [field.alias or name for name, field in cls.model_fields.items()]
        guess = closest(key, names)
        hint = f"Did you mean '{guess}'?" if guess else f"There are: {', '.join(names) or 'none'}."
        return PydanticCustomError("unknown_setting", "no such setting. {hint}", {"hint": hint})


class Component:
    """A class that a plugin registers by name. It holds its settings; computing starts when a method is called."""

    class Config(Settings):
        """What a run file may set under this component's key, beside `type`."""

    kind: ClassVar[str] = "component"
    """What the registry calls this sort of component: adapter, encoder, head, baseline, demo."""

    def __init__(self, config: Any = None) -> None:
        self.config: Any = self.Config() if config is None else config

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r})"

    def columns(self) -> dict[str, str]:
        """The settings that name columns of the source, with the names they hold."""
        fields = type(self.config).model_fields.items()
        named = {key: getattr(self.config, key) for key, field in fields if "column" in field.metadata}
        return {key: column for key, column in named.items() if column is not None}


class Fitted(Component):
    """A component that learns something from the train examples (a vocabulary, scales, labels) before training."""

    def save(self, folder: Path) -> None:
        """Write what was fitted into `folder` as JSON or another format that holds no code."""

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote."""
