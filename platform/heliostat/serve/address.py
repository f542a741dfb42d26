"""Where a deployment listens: a port that is free, and the name under which this machine reaches it."""

from __future__ import annotations

import contextlib
import socket

from heliostat.errors import ServeError


def free_port(host: str, port: int) -> int:
    """`port`, or a free one for 0. Serve would share a taken port without a word, so it is tried here first."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
            probe.listen(1)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ServeError(
                f"{host}:{port} cannot be used: {reason}. Give another --port (0 takes a free one)."
            ) from None
        return int(probe.getsockname()[1])


def reachable(host: str) -> str:
    """A host under which this machine reaches itself."""
    wide = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
    bare = host.strip("[]")
    return wide.get(bare, f"[{bare}]" if ":" in bare else bare)


def is_ready(url: str) -> bool:
    """Whether what listens there takes requests."""
    import httpx

    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/readyz", timeout=2.0, trust_env=False).status_code == 200
    return False
