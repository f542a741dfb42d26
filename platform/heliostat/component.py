"""What every named class of a plugin has in common: frozen settings of its own, and nothing done in its constructor."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError
from rapidfuzz import process

Row = dict[str, Any]
"""A raw record, an example, a target or a prediction: field names and plain values."""

Column = Annotated[str, Field(min_length=1), "column"]
"""A setting that names a column of the source; a name that is missing there is answered with a guess."""

LATER = "later"
"""Beside the type of a setting, in its `Annotated`: it shapes training or answers, and nothing that is prepared.

Runs that differ in such settings alone share their prepared data: nothing that `fit`, `encode` or `read` does may
depend on one, and `load` must leave to the run what it says.
"""
LATER_ONCE_SET = "later once set"
"""The same of a setting that may be None, where what is fitted says what None stands for."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


def _plain_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        rule = "may hold lower-case letters, digits, '.', '_' and '-', begins and ends with a letter or digit"
        raise PydanticCustomError(
            "name", f"{rule}, and has 64 characters at most; found {{name}}.", {"name": _shown(name)}
        )
    return name


Name = Annotated[str, AfterValidator(_plain_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})]
"""A name that may become a path, a route and an alias: lower-case letters, digits, `.`, `_`, `-`."""


def as_class(value: Any) -> Any:
    """What a class is called whose cell holds a number or a truth: `1` (of 1 and of 1.0), `0.5`, `true`; else itself.

    A column of whole numbers becomes one of fractions when a cell is missing, and its classes keep their names.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    return value


ClassName = Annotated[str, BeforeValidator(as_class)]
"""The name of a class in settings, where `1` and `true` may be written without quotes."""


def closest(word: str, choices: list[str]) -> str | None:
    """The choice that was probably meant, or None when nothing is near."""
    match = process.extractOne(word, choices, score_cutoff=60)
    return match[0] if match else None


def no_effect(key: str, beside: str, way_out: str) -> PydanticCustomError:
    """What a validator raises for a setting that would change nothing beside another one."""
    sentence = f"{key} has no effect beside {beside}: leave it out, or {way_out}."
    return PydanticCustomError("no_effect", "{sentence}", {"sentence": sentence})


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    return "a mapping" if isinstance(value, dict) else "a list"


def _numbers_are_numbers(schema: Any) -> Any:
    """The same core schema, in which `true` is no number and a quoted number is text."""
    if isinstance(schema, list):
        return [_numbers_are_numbers(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: value if key in ("default", "metadata") else _numbers_are_numbers(value) for key, value in schema.items()
    }
    return {**kept, "strict": True} if schema.get("type") in ("int", "float", "bool") else kept


class Settings(BaseModel):
    """Frozen, strict settings: an unknown key is an error that names the key which was probably meant."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), use_attribute_docstrings=True
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema of pydantic, with numbers that are taken as they stand."""
        schema: CoreSchema = _numbers_are_numbers(handler(source))
        return schema

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, handler: Any) -> Self:
        try:
            checked: Self = handler(data)
            return checked
        except ValidationError as error:
            details = [cls._explained(detail) for detail in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(cls.__name__, details) from None

    @classmethod
    def _explained(cls, detail: Any) -> InitErrorDetails:
        kind, location = detail["type"], detail["loc"]
        if kind == "extra_forbidden" and len(location) == 1:
            sentence = cls._unknown(str(location[0]))
        elif "ctx" in detail and set(detail["ctx"]) == {"sentence"}:  # what an inner level said stays as it is
            sentence = detail["msg"]
        else:
            sentence = cls._rule(detail)
        error = PydanticCustomError(kind, "{sentence}", {"sentence": sentence})
        return InitErrorDetails(type=error, loc=location, input=detail["input"])

    @classmethod
    def _unknown(cls, key: str) -> str:
        names = [field.alias or name for name, field in cls.model_fields.items()]
        guess = closest(key, names)
        hint = f"Did you mean '{guess}'?" if guess else f"There are: {', '.join(names) or 'none'}."
        return f"no such setting. {hint}"

    @classmethod
    def _rule(cls, detail: Any) -> str:
        message, location = str(detail["msg"]), detail["loc"]
        field = cls.model_fields.get(str(location[0])) if len(location) == 1 else None
        if detail["type"] == "missing":
            about = f" It holds: {field.description}" if field and field.description else ""
            return f"is required and has no default.{about}" if field else "is missing."
        if detail["type"] in ("model_type", "model_attributes_type", "dict_type"):
            return f"is a section with settings of its own (key: value); found {_shown(detail['input'])}."
        match = re.match(r"(Input|String|Tuple|List|Value) should (be a valid string$)?", message)
        if not match:
            return message.removeprefix("Value error, ")
        rule = "should be text" if match[2] else f"should {message[match.end() :]}"
        default = field.get_default() if field and not field.is_required() else None
        mend = f" Its default is {_shown(default)}." if isinstance(default, (int, float, str)) else ""
        return f"{rule}; found {_shown(detail['input'])}.{mend}"


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
        named = {key: getattr(self.config, key) for key, field in fields if _is_marked(field, "column")}
        return {key: column for key, column in named.items() if column is not None}


def shaping(settings: Settings) -> dict[str, Any]:
    """The plain values of a component's settings without those that are LATER: what prepared data depend on."""
    values = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if _is_marked(field, LATER) or (value is not None and _is_marked(field, LATER_ONCE_SET)):
            del values[name]
        elif isinstance(value, Settings):
            values[name] = shaping(value)
    return values


def _is_marked(field: FieldInfo, mark: str) -> bool:
    """Whether a mark stands beside a setting's type, or inside its union with None."""
    options = (field, *get_args(field.annotation))
    return any(mark in getattr(option, name, ()) for option in options for name in ("metadata", "__metadata__"))


class Fitted(Component):
    """A component that learns something from the train examples (a vocabulary, scales, labels) before training."""

    def save(self, folder: Path) -> None:
        """Write what was fitted into `folder` as JSON or another format that holds no code."""

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote."""
