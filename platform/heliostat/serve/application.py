"""One model as an application of Ray Serve, built from plain values: what a Serve config file names.

import_path: heliostat.serve.application:application
args: {model: sentiment@champion, token_file: /etc/heliostat-token/token}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from heliostat.component import Settings
from heliostat.errors import ServeError
from heliostat.serve.guard import Access
from heliostat.serve.limits import Limits
from heliostat.serve.token import digest, read_token


class Arguments(Settings):
    """What the builder of an application is given."""

    model: str
    """`sentiment@champion`, `sentiment:3`, or the folder of a checkpoint, at the same path on every node."""
    threads: int = 2
    """CPU threads of a replica."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    token_file: Path | None = None
    """A file with the bearer token that requests need; None asks for none."""
    limits: Limits = Limits()


def application(arguments: dict[str, Any]) -> Any:
    """The application of one model, bound. Raises ServeError for unknown arguments, StoreError for no model."""
    from ray import serve as ray_serve

    from heliostat.serve.applications import OVERLOAD, quiet
    from heliostat.serve.plans import ReplicaPlan, resolve
    from heliostat.serve.replica import Replica

    try:
        asked = Arguments.model_validate(arguments)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise ServeError(f"args of the application: {told}") from None
    served, folder = resolve(asked.model)
    access = Access(digest(read_token(asked.token_file)) if asked.token_file else None)
    plan = ReplicaPlan(served, str(folder), asked.threads, asked.precision, asked.limits.model_dump(), access)
    deployment = ray_serve.deployment(
        Replica,
        name="Replica",
        max_ongoing_requests=OVERLOAD * asked.limits.max_waiting,
        max_queued_requests=asked.limits.max_waiting,
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=asked.limits.timeout_s,
        logging_config=quiet(),
    )
    return deployment.bind(plan)
