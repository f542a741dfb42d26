"""A component as a run names it: an address and the settings that the component's own Config checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    SerializeAsAny,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from heliostat.component import Component, Settings
from heliostat.errors import PluginError
from heliostat.plugin import Baseline, DataAdapter, Encoder, TaskHead
from heliostat.registry import find, installed


class ComponentSpec(BaseModel):
    """A component as a run names it: `{type: plugin.name, ...settings}`, checked by the component's own Config."""

    model_config = ConfigDict(frozen=True)
    base: ClassVar[type[Component]] = Component

    type: str
    settings: SerializeAsAny[Settings]

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: Any) -> Any:
        if isinstance(data, cls):
            return data
        if isinstance(data, str):
            data = {"type": data}
        if not isinstance(data, Mapping) or not isinstance(data.get("type"), str):
            example = f"{{type: <plugin>.<{cls.base.kind}>, ...}}"
            raise PydanticCustomError("no_type", "needs a type: {example}.", {"example": example})
        try:
            component = find(data["type"], cls.base)
        except PluginError as error:
            raise PydanticCustomError("component", "{reason}", {"reason": str(error)}) from None
        rest = {key: value for key, value in data.items() if key != "type"}
        return {"type": data["type"], "settings": component.Config.model_validate(rest)}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"type": self.type, **self.settings.model_dump(mode="json")}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """One form for each installed component of the kind: its address as `type`, beside its own settings."""
        components = installed(cls.base)
        forms = [_form(address, component, handler) for address, component in components.items()]
        return {"description": cls.__doc__, "anyOf": [{"enum": sorted(components)}, *forms]}

    def build(self) -> Any:
        """A fresh component with these settings."""
        return find(self.type, self.base)(self.settings)


def _form(address: str, component: type[Component], handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    settings = handler.resolve_ref_schema(handler(component.Config.__pydantic_core_schema__))
    about = (component.__doc__ or "").strip().partition("\n")[0]
    kind = {"const": address, "description": about}
    return {
        **settings,
        "title": address,
        "description": about,
        "properties": {"type": kind, **settings.get("properties", {})},
        "required": ["type", *settings.get("required", [])],
    }


class AdapterSpec(ComponentSpec):
    """The data adapter of a run: raw records -> examples."""

    base = DataAdapter


class EncoderSpec(ComponentSpec):
    """The encoder of a run: examples -> features."""

    base = Encoder


class HeadSpec(ComponentSpec):
    """The head of a run: features -> losses and predictions."""

    base = TaskHead


class BaselineSpec(ComponentSpec):
    """A baseline of a run, set beside the model in the report."""

    base = Baseline
