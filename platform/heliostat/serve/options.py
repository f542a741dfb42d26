"""What Ray Serve is told of every deployment of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OVERLOAD = 8
"""Serve hands a replica this many times what its queue holds, so that the replica itself says 503, in our shape."""
_HEALTH_S = 2.0
"""How often Serve looks after a replica: one that died is replaced after about that long."""


def options(limits: Mapping[str, Any]) -> dict[str, Any]:
    """What Serve is told of every deployment that answers for models, with the values of a Limits."""
    return {
        "name": "Replica",
        "max_ongoing_requests": _OVERLOAD * limits["max_waiting"],
        "max_queued_requests": limits["max_waiting"],
        "health_check_period_s": _HEALTH_S,
        "graceful_shutdown_wait_loop_s": 0.2,
        "graceful_shutdown_timeout_s": limits["timeout_s"],
        "logging_config": quiet(),
    }


def quiet() -> dict[str, Any]:
    """What Serve logs of our applications: warnings, no request."""
    return {"log_level": "WARNING", "enable_access_log": False}


def versioned(deployment: Any, code: str) -> Any:
    """With a version of ours: else Serve would start every replica anew at each call, whatever changed."""
    return deployment.options(version=code, _internal=True)
