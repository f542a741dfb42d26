"""What an update takes on many workers, by arithmetic over measured costs (`scale.py` measures them).

Everything is in seconds, bytes and tokens. What is assumed stands in `GPU`, `NETWORK`, `JITTER` and `HIDDEN`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

GPU: dict[str, float] = {
    "products_per_s": 989e12,  # an H100's dense bf16 products, by its data sheet
    "efficiency": 0.35,  # of them, in a training; 0.35 to 0.5 are published for encoders of this size
    "update_s": 0.004,  # launching kernels and the optimiser, an update
    "per_machine": 8,
    "link_bytes_per_s": 350e9,  # between GPUs of a machine, NVLink, a ring's
    "tokens": 16384,  # a GPU and update
    "parameters": 110e6,  # BERT-base
    "flops_per_token": 6 * 86e6 + 12 * 12 * 768 * 128 * 2,  # six a weight of its layers; attention over 128 tokens
    "gradient_bytes": 4 * 110e6,
}
NETWORK: dict[str, tuple[float, float]] = {
    # bytes a second of one machine, and seconds until a message arrives
    "400 GB/s (8 cards of 400 Gbit/s)": (400e9, 20e-6),
    "12.5 GB/s (100 Gbit/s)": (12.5e9, 30e-6),
}
JITTER = 0.02
"""How much the seconds of a worker's update vary (assumed): of many, all wait for the slowest."""
HIDDEN = 0.7
"""Share of backward, itself two thirds of the computing, behind which DDP's buckets can travel (assumed)."""
WORLDS = (8, 64, 256, 1024)


class Costs(NamedTuple):
    """Seconds, of one worker."""

    token_s: float
    """Computing, a token."""
    update_s: float
    """Whatever an update costs however few tokens it has: the optimiser, bookkeeping."""
    ingest_s: float
    """Making batches, a token."""
    gradient_bytes: float
    latency_s: float
    """Of a message."""
    bytes_per_s: float
    """Between two workers."""
    beside: float = 1.0
    """How many times longer computing takes beside other workers on the same machine."""
    uneven: float = 1.0
    """The largest share of a batch over the mean one."""
    ray: float = 0.0
    """What Ray's own processes take of the cores of workers, where those have no others: cores."""


def all_reduce_s(num_bytes: float, world: int, bytes_per_s: float, latency_s: float) -> float:
    """A ring's: 2 (W - 1) messages, and 2 (W - 1) / W of the bytes through each worker (Patarasuk and Yuan 2009)."""
    return 0.0 if world == 1 else 2 * (world - 1) * (latency_s + num_bytes / world / bytes_per_s)


def tree_s(num_bytes: float, machines: int, bytes_per_s: float, latency_s: float) -> float:
    """Between machines, where a ring of hundreds would wait for latencies: a double tree's (Sanders et al. 2009)."""
    if machines == 1:
        return 0.0
    return 2 * (num_bytes / bytes_per_s + latency_s * (machines - 1).bit_length())


def update_s(costs: Costs, tokens: float, world: int, *, exchange_s: float, hidden: float = 0.0) -> float:
    """Seconds of an update of `tokens` over all workers; bytes travel behind the share `hidden` of backward."""
    mine = tokens / world * (costs.uneven if world > 1 else 1.0)
    compute = mine * costs.token_s * (costs.beside if world > 1 else 1.0)
    exposed = max(0.0, exchange_s - hidden * compute * 2 / 3)
    # Who loses some of a core lets the others wait.
    return (compute + exposed + costs.update_s + mine * costs.ingest_s) * (1 + costs.ray if world > 1 else 1.0)


def two_workers(costs: Costs, tokens: float) -> tuple[float, float]:
    """Tokens a second that the simulation expects of one worker and of two, on this machine."""
    exchange = all_reduce_s(costs.gradient_bytes, 2, costs.bytes_per_s, costs.latency_s)
    return tokens / update_s(costs, tokens, 1, exchange_s=0.0), tokens / update_s(costs, tokens, 2, exchange_s=exchange)


def gpus(costs: Costs, world: int, network: tuple[float, float]) -> tuple[float, float]:
    """Tokens a second on so many GPUs, each with the same tokens, and the share of `world` times one GPU."""
    token_s = GPU["flops_per_token"] / (GPU["products_per_s"] * GPU["efficiency"])
    one = costs._replace(token_s=token_s, update_s=GPU["update_s"], beside=1.0, ray=0.0)
    tokens = GPU["tokens"] * world
    inside = min(world, int(GPU["per_machine"]))
    exchange = all_reduce_s(GPU["gradient_bytes"], inside, GPU["link_bytes_per_s"], 5e-6)
    exchange += tree_s(GPU["gradient_bytes"], world // inside, *network)
    alone = GPU["tokens"] / update_s(one, GPU["tokens"], 1, exchange_s=0.0)
    slowest = 1 + JITTER * math.sqrt(2 * math.log(world))  # the largest of so many normal draws, about
    together = tokens / (slowest * update_s(one, tokens, world, exchange_s=exchange, hidden=HIDDEN))
    return together, together / (world * alone)
