"""The keys that a deployment asks for: names with hashes in one file, two a name while one takes over from the other.

{"keys": [{"name": "web", "sha256": "9f86...", "created": "2026-11-23T08:00:00Z", "expires": null}]}

The keys themselves stand nowhere: `new_key` hands one out once.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from heliostat.component import Name, Settings
from heliostat.errors import Problem, RunError, ServeError
from heliostat.home import home
from heliostat.serve.limits import Count
from heliostat.serve.token import digest
from heliostat.yaml12 import parse

log = logging.getLogger(__name__)

LIVE = 2
"""Keys of one name that may be valid at a time: the one in use, and the one that follows it."""
_LOOK_EVERY_S = 1.0


class Key(Settings):
    """One key: who holds it, and the hash by which it is known."""

    name: Name
    """Who holds it, as metrics and logs say it."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """SHA-256 of the key, in hex."""
    created: datetime
    """When it was made."""
    expires: datetime | None = None
    """When it stops being valid; None for never."""
    per_minute: Count | None = None
    """Requests a minute, over all models and replicas; None takes what the deployment says."""

    @field_validator("created", "expires")
    @classmethod
    def _has_zone(cls, value: datetime | None) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value

    def is_live(self, now: datetime) -> bool:
        """Whether it is valid."""
        return self.expires is None or now < self.expires


class KeysFile(Settings):
    """All keys of a deployment."""

    keys: tuple[Key, ...] = ()

    @model_validator(mode="after")
    def _no_more_than_two(self) -> KeysFile:
        now = datetime.now(UTC)
        live = [key.name for key in self.keys if key.is_live(now)]
        if many := next((name for name in live if live.count(name) > LIVE), None):
            sentence = f"'{many}' has {live.count(many)} valid keys, and {LIVE} are the most. Drop the oldest."
            raise PydanticCustomError("too_many_keys", "{sentence}", {"sentence": sentence})
        return self


def keys_path() -> Path:
    """Where keys stand unless a deployment says otherwise."""
    return home() / "keys.json"


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys in a file. Raises RunError with every mistake in it, ServeError when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ServeError(
            f"{path}: no keys can be read there ({type(error).__name__}). Make one with: heliostat serve key new NAME"
        ) from None
    values = parse(text, str(path))
    if not isinstance(values, dict):
        raise RunError([Problem("", 'keys take the form {"keys": [...]}.')], source=str(path))
    try:
        return KeysFile.model_validate(values).keys
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        problems = [Problem(".".join(map(str, detail["loc"])), str(detail["msg"])) for detail in details]
        raise RunError(problems, source=str(path)) from None


def new_key(path: Path, name: str, *, days: int | None = None, per_minute: int | None = None) -> str:
    """Make a key for `name` and store its hash, readable by its owner alone. What it returns is written nowhere.

    Raises ServeError when the name has two valid keys already, RunError for a file or a name with a mistake.
    """
    keys = read_keys(path) if path.exists() else ()
    now = datetime.now(UTC).replace(microsecond=0)
    mine = [key for key in keys if key.name == name and key.is_live(now)]
    if len(mine) >= LIVE:
        raise ServeError(
            f"'{name}' has {LIVE} valid keys already, the one in use and the one to come. Once nobody uses the first "
            f"any more: heliostat serve key drop {name}"
        )
    secret = f"heliostat_{secrets.token_urlsafe(32)}"
    expires = now + timedelta(days=days) if days else None
    made = {"name": name, "sha256": digest(secret), "created": now, "expires": expires, "per_minute": per_minute}
    try:
        key = Key.model_validate(made)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise RunError([Problem(".".join(map(str, first["loc"])), str(first["msg"]))]) from None
    _write(path, [*keys, key])
    return secret


def drop_key(path: Path, name: str) -> int:
    """Take away the oldest key of `name`; how many it has left. Raises ServeError when it has none."""
    keys = read_keys(path)
    mine = sorted((key for key in keys if key.name == name), key=lambda key: key.created)
    if not mine:
        there = ", ".join(sorted({key.name for key in keys})) or "none"
        raise ServeError(f"there is no key of '{name}' in {path}. There are keys of: {there}.")
    _write(path, [key for key in keys if key is not mine[0]])
    return len(mine) - 1


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Put the keys at `path` in one step, readable by their owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps(KeysFile(keys=tuple(keys)).model_dump(mode="json"), indent=2) + "\n"
    with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    staged.replace(path)


class KeyRing:
    """The keys that are valid now. A file is read anew soon after it changes: rotation needs no restart."""

    def __init__(
        self, keys: Sequence[Key], path: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = tuple(keys)
        self._path = path
        self._clock = clock
        self._looked = clock()
        self._seen = self._mark()

    @classmethod
    def at(cls, path: Path) -> KeyRing:
        """The keys of a file. Raises RunError and ServeError as `read_keys` does."""
        ring = cls((), path)  # the file's mark is taken first: who changes it meanwhile is seen at the next look
        ring._keys = read_keys(path)
        return ring

    @classmethod
    def of_token(cls, token_hash: str) -> KeyRing:
        """One key, of the name `token`."""
        return cls([Key(name="token", sha256=token_hash, created=datetime.now(UTC))])

    def holder(self, given: str) -> Key | None:
        """The valid key that this is, or None. It takes the same time whichever it is."""
        self._look()
        found, now, hashed = None, datetime.now(UTC), digest(given)
        for key in self._keys:
            if hmac.compare_digest(hashed, key.sha256) and key.is_live(now):
                found = key
        return found

    def _look(self) -> None:
        """Read the file again when it changed; one that cannot be read leaves the keys as they are."""
        if self._path is None or self._clock() - self._looked < _LOOK_EVERY_S:
            return
        self._looked = self._clock()
        mark = self._mark()
        if mark == self._seen:
            return
        try:
            self._keys = read_keys(self._path)
            self._seen = mark
        except (RunError, ServeError) as error:  # tried again at the next look
            log.error("the keys stay as they were: %s", type(error).__name__)

    def _mark(self) -> Any:
        try:
            status = self._path.stat() if self._path else None
        except OSError:
            return None
        return status and (status.st_ino, status.st_mtime_ns, status.st_size)
