"""Which models may share an encoder: what the deployment says of them, and what their checkpoints stand on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat.errors import ServeError
from heliostat.serve.deploy_file import ModelSettings, SharedSettings
from heliostat.serve.schema import Served

if TYPE_CHECKING:
    from heliostat.encoders.base import Base

_OF_THE_PROCESS = ("replicas", "threads", "precision")
_OF_THE_QUEUE = ("max_tokens_per_batch", "max_wait_ms")


def check_shared(shared: SharedSettings, models: Mapping[str, ModelSettings]) -> None:
    """Hold `shared` against the models of the deployment. Raises ServeError."""
    for name in shared.models:
        if name not in models:
            there = ", ".join(models)
            raise ServeError(f"shared: there is no model '{name}' here; give names as they stand in a route: {there}.")
        if own := [key for key in _OF_THE_PROCESS if key in models[name].model_fields_set]:
            raise ServeError(
                f"{name}: {own[0]} has no effect, as it shares a process with others. Set it for all of them: "
                f"shared: {{models: [{', '.join(shared.models)}], {own[0]}: ...}}."
            )
        if own := [key for key in _OF_THE_QUEUE if key in models[name].limits.model_fields_set]:
            raise ServeError(
                f"{name}: limits.{own[0]} has no effect, as it shares a queue with others. Set it in the limits of the "
                "whole deployment."
            )


def check_bases(members: Sequence[tuple[Served, Path]]) -> None:
    """Raises ServeError for models that cannot share an encoder, as far as their checkpoints tell without torch.

    A model without an adapter is held against the others once its weights are read.
    """
    found = [(served, base) for served, folder in members if (base := _base(served, folder))]
    for served, base in found[1:]:
        first, its = found[0]
        if base.files != its.files:
            raise ServeError(
                f"{served.name} (version {served.version}) stands on another base than {first.name} (version "
                f"{first.version}): {base.address} and {its.address}. Take it out of shared, or train it on that base."
            )


def _base(served: Served, folder: Path) -> Base | None:
    from heliostat.encoders.adapter import ADAPTER
    from heliostat.encoders.base import BASE, Base

    encoder = folder / "encoder"
    if not (encoder / BASE).is_file():
        return None
    if not (encoder / ADAPTER).is_file():
        raise ServeError(
            f"{served.name} (version {served.version}) holds its adapter merged into its weights, and so shares none. "
            "Take it out of shared, or train it with encoder.adapter.merge=false."
        )
    return Base.read(encoder)
