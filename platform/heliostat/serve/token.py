"""The bearer token that guards a deployment: kept in a file, compared by hash, never shown."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from heliostat.errors import ServeError
from heliostat.home import home

MIN_LENGTH = 16


def digest(token: str) -> str:
    """The SHA-256 of a token or key, in hex: all that a replica knows of it."""
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def read_token(path: Path) -> str:
    """The token in a file. Raises ServeError when there is none or it is short enough to guess."""
    try:
        token = path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ServeError(f"{path}: no token can be read there ({type(error).__name__}).") from None
    if len(token) < MIN_LENGTH or not token.isascii() or any(sign.isspace() for sign in token):
        raise ServeError(f"{path}: a token is one word of {MIN_LENGTH} or more ASCII characters, alone in its file.")
    return token


def own_token() -> Path:
    """The file `token` in Heliostat's home; a fresh one is written, readable by its owner alone, when it is missing."""
    path = home() / "token"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path
    with os.fdopen(file, "w") as out:
        out.write(secrets.token_urlsafe(32) + "\n")
    return path


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_address(host: str, *, has_token: bool) -> None:
    """Refuse to listen where others can reach a model without a key. Raises ServeError."""
    if not is_loopback(host) and not has_token:
        raise ServeError(
            f"host {host}: other machines could ask this model, so it needs keys. Make one with 'heliostat serve key "
            f"new NAME' and give --keys (`keys:` in a file), or a token with --token-file PATH, or --new-token for one "
            f"in {home() / 'token'}; or stay on 127.0.0.1."
        )


def allowed_hosts(host: str, more: Sequence[str] = ()) -> frozenset[str] | None:
    """The names in a Host header that a deployment on `host` answers to; None for any.

    A page on another site that points its own name at this machine (DNS rebinding) carries its own name here. `more`
    are the names under which others reach it; without them one that listens on every address answers to any.
    """
    is_wide = host.strip("[]") in {"0.0.0.0", "::", ""}
    if is_wide and not more:  # the key, which such a page lacks, guards these
        return None
    bound = f"[{host}]" if ":" in host and not host.startswith("[") else host
    own = {"localhost", "127.0.0.1", "[::1]", *([] if is_wide else [bound.lower()])}
    return frozenset(own | {name.lower() for name in more})
