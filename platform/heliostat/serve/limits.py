"""What a request may weigh, how many may wait, and for how long."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from heliostat.component import Settings

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0.0, le=3600.0)]


class Limits(Settings):
    """Bounds on every input of a deployed model; nothing is accepted without one and nothing waits for ever."""

    max_body_bytes: Count = 1 << 20
    """Bytes of a request's body; a larger one is answered 413 while it still arrives."""
    max_instances: Count = 256
    """Records in one request; more are answered 413."""
    max_waiting: Count = 128
    """Requests in the queue; when it is full, the next one is answered 503 with Retry-After."""
    max_tokens_per_batch: Count = 8192
    """Estimated tokens (a quarter of the characters) that are predicted together."""
    timeout_s: Seconds = 10.0
    """Seconds from the request's arrival to its answer; a later one is answered 504."""
    body_timeout_s: Seconds = 10.0
    """Seconds that a body may take to arrive; a slower one is answered 408."""
    max_streams: Count = 16
    """Answers that are written piece by piece at the same time (`:stream`); the next one is answered 503."""
    max_wait_ms: Annotated[float, Field(ge=0.0, le=1000.0)] = 0.0
    """Milliseconds that a request which finds the queue empty waits for others, to be predicted with them."""
