"""The optimiser of a run, each with the settings that have an effect on it and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler, WrapValidator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from heliostat.component import Settings, closest

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class AdamW(Settings):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    type: Literal["adamw"] = "adamw"
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decays of the running means of the gradient and of its square."""
    eps: Positive = 1e-8


class Sgd(Settings):
    """Stochastic gradient descent with momentum; it wants a `train.lr` some hundred times that of AdamW."""

    type: Literal["sgd"]
    momentum: Fraction = 0.9
    nesterov: bool = False
    """Whether the gradient is looked at one step ahead (Sutskever et al. 2013)."""


class RmsProp(Settings):
    """Gradients divided by the root of a running mean of their squares (Tieleman and Hinton 2012)."""

    type: Literal["rmsprop"]
    alpha: Fraction = 0.99
    """Decay of the running mean of squares."""
    momentum: Fraction = 0.0
    eps: Positive = 1e-8


class Muon(Settings):
    """Orthogonalised momentum for hidden matrices (Jordan et al. 2024), AdamW for embeddings, heads and vectors.

    `train.lr` is the peak of the AdamW part; both parts follow the one schedule.
    """

    type: Literal["muon"]
    lr: Positive = 0.02
    """Peak learning rate of the hidden matrices: the spectral norm of one update of a square matrix."""
    momentum: Fraction = 0.95
    nesterov: bool = True
    newton_schulz_steps: Annotated[int, Field(ge=1, le=20)] = 5
    """Iterations that bring the singular values of the momentum near 1."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Of the AdamW part."""
    eps: Positive = 1e-8
    """Of the AdamW part."""


_OPTIMIZERS: dict[str, type[Settings]] = {"adamw": AdamW, "sgd": Sgd, "rmsprop": RmsProp, "muon": Muon}


def _optimizer(data: Any) -> Any:
    if isinstance(data, Settings):
        return data
    values = {"type": data} if isinstance(data, str) else data
    kind = values.get("type", "adamw") if isinstance(values, Mapping) else values
    if not isinstance(values, Mapping) or kind not in _OPTIMIZERS:
        guess = closest(str(kind), list(_OPTIMIZERS))
        hint = f" Did you mean '{guess}'?" if guess else ""
        text = f"is one of {', '.join(_OPTIMIZERS)}, or {{type: <one of them>, ...}}; found {kind!r}.{hint}"
        raise PydanticCustomError("optimizer", "{sentence}", {"sentence": text})
    return _OPTIMIZERS[kind].model_validate(values)


class _ShortForm:
    """Says in the JSON Schema that the name alone will do."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The schema of the long forms, or one of the names."""
        return {"anyOf": [{"enum": list(_OPTIMIZERS)}, handler(schema)]}


OptimizerSettings = Annotated[AdamW | Sgd | RmsProp | Muon, WrapValidator(lambda data, _: _optimizer(data)), _ShortForm]
"""`adamw`, `{type: muon, momentum: 0.95}`: a name, or a name with the settings of that optimiser."""
