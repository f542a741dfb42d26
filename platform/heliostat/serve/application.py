"""One model as an application of Ray Serve, built from plain values: what a Serve config file names.

import_path: heliostat.serve.application:application
args: {model: sentiment@champion, token_file: /etc/heliostat-token/token}
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

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
    keys_file: Path | None = None
    """In place of a token: a file that `heliostat keys` writes, at the same path on every node."""
    per_minute: Annotated[int, Field(ge=1)] | None = None
    """Requests a minute that each key may send; None for any number."""
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.token_file and self.keys_file:
            raise PydanticCustomError("access", "token_file and keys_file exclude each other. Keep one of them.")
        return self

    def access(self) -> Access:
        """Who may ask. Raises RunError and ServeError for a file that holds no token or keys."""
        if self.keys_file is None:
            return Access(digest(read_token(self.token_file)) if self.token_file else None)
        access = Access(keys_file=str(self.keys_file), per_minute=self.per_minute)
        access.ring()
        return access


def application(arguments: dict[str, Any]) -> Any:
    """The application of one model, bound.

    Raises ServeError for unknown arguments, StoreError for no model, RunError for a file of keys that is none.
    """
    from ray import serve as ray_serve

    from heliostat.serve.options import options
    from heliostat.serve.plans import ReplicaPlan, resolve
    from heliostat.serve.replica import Replica

    try:
        asked = Arguments.model_validate(arguments)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise ServeError(f"args of the application: {told}") from None
    served, folder = resolve(asked.model)
    limits = asked.limits.model_dump()
    plan = ReplicaPlan(served, str(folder), asked.threads, asked.precision, limits, asked.access())
    return ray_serve.deployment(Replica, **options(limits)).bind(plan)
