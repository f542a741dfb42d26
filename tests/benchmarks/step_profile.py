"""Where the time of a fine-tuning step goes: `make profile`, or with other settings

    python tests/benchmarks/step_profile.py --threads 1 --steps 6 sentiment/pretrained train.precision=fp32

One worker's step on the packed batches of a run's real data, first alone (tokens a second, MFU), then under
torch.profiler: shares of the step by kind of work and by pass. An operation in backward that says nothing by its name
counts as what the forward operation was whose gradient it computes. (Not `profile.py`: the standard library has that.)
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import best_product_flops, clocked, cores, fix_threads, in_words, machine

PASSES = ("forward", "backward", "optimiser")
KINDS: dict[str, tuple[str, ...]] = {
    "linear products": ("mm", "addmm", "linear", "linear_backward", "mkldnn_linear", "_linear_pointwise"),
    "attention products": ("bmm", "baddbmm", "matmul"),
    "attention, other": ("softmax", "_softmax", "_softmax_backward_data", "masked_fill", "_attention"),
    "dropout": ("dropout", "dropout_", "native_dropout", "native_dropout_backward", "bernoulli_", "bernoulli"),
    "casts": ("to", "_to_copy", "_autocast_to_reduced_precision", "type_as"),
    "norms": ("layer_norm", "native_layer_norm", "native_layer_norm_backward", "rms_norm", "_fused_rms_norm"),
    "activations": ("gelu", "gelu_backward", "silu", "silu_backward", "tanh", "tanh_backward", "relu"),
    "embedding, gathers": (
        *("embedding", "embedding_backward", "embedding_dense_backward", "index_select", "index_select_backward"),
        *("index_add_", "index_put_", "_index_put_impl_", "index", "gather", "scatter_add_"),
    ),
    "loss": (
        *("cross_entropy_loss", "log_softmax", "_log_softmax", "_log_softmax_backward_data", "nll_loss"),
        *("nll_loss_nd", "nll_loss_forward", "nll_loss_backward"),
    ),
    "sums over rows (biases)": ("sum",),
    "adding gradients": ("AccumulateGrad",),
    "copies": ("copy_", "clone", "contiguous", "cat", "split", "stack", "transpose", "expand", "fill_", "zero_"),
    "elementwise": ("add", "add_", "mul", "mul_", "div", "div_", "sub", "neg", "pow", "sqrt", "rsub", "mean"),
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
OWN = {"attention": "attention, other", "dropout": "dropout", "norm": "norms", "gelu": "activations"}
"""Words in the names of functions that are not torch's own, and of their gradients."""
DECIDING = {"dropout", "casts", "norms", "activations", "embedding, gathers", "loss", "attention, other"}
"""Kinds that also claim what an operation of theirs calls, as `aten::dropout` calls `aten::mul`."""
PRODUCTS = ("linear products", "attention products")
GLUE = "python, numpy, freeing"
"""Outside of any operation: batches, bookkeeping; in backward what the engine itself does, as giving memory back."""


def own_kind(name: str) -> str | None:
    """The kind of an operation by its name alone."""
    short = name.removeprefix("aten::").removeprefix("mkldnn::").removeprefix("torch::autograd::")
    if "scaled_dot_product" in short or "flash_attention" in short:
        return "attention, other"
    own = next((kind for word, kind in OWN.items() if word in name.lower()), None) if "::" not in name else None
    return KIND_OF.get(short, own)


def ancestors(event: Any) -> Iterator[Any]:
    """The event itself, then what called it, outwards."""
    while event is not None:
        yield event
        event = event.cpu_parent


def pass_of(event: Any) -> str:
    """Which pass an event belongs to."""
    names = [each.name for each in ancestors(event)]
    if any(name.startswith("autograd::engine") for name in names):
        return "backward"
    optimiser = ("Optimizer.", "aten::_foreach", "aten::_fused_adam", "aten::linalg_vector_norm", "aten::lerp_")
    return "optimiser" if any(name.startswith(optimiser) for name in names) else "forward"


def kind_of(event: Any, forward_kinds: dict[int, str]) -> str:
    """The kind of work of an event."""
    chain = list(ancestors(event))
    if pass_of(event) == "optimiser":
        return "optimiser"
    if event.name == "step" or event.name.startswith("autograd::engine"):
        return GLUE
    claims = [own_kind(each.name) for each in chain]
    nearest = next((kind for kind in claims if kind in PRODUCTS), None)
    if claims[0] in PRODUCTS or (nearest and claims[0] is None):
        return str(claims[0] or nearest)
    outer = next((kind for kind in claims if kind in DECIDING), None)
    if outer:
        return outer
    inherited = None
    for each in chain:
        if each.name.startswith("autograd::engine") and each.sequence_nr >= 0:
            inherited = forward_kinds.get(each.sequence_nr)
    plain = next((kind for kind in claims if kind), None)
    if inherited in DECIDING and plain in {"elementwise", "copies", None}:
        return str(inherited)
    return plain or inherited or "other"


def shares(events: list[Any]) -> dict[str, dict[str, float]]:
    """Microseconds of this thread by kind and pass."""
    forward_kinds: dict[int, str] = {}
    for event in events:
        if event.sequence_nr >= 0 and pass_of(event) == "forward":
            # Of several with one number the last begun made the node, and events come in the order of their beginning.
            forward_kinds[event.sequence_nr] = kind_of(event, {})
    table: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(PASSES, 0.0))
    for event in events:
        if next((each for each in ancestors(event) if each.name == "step"), None) is not None:
            table[kind_of(event, forward_kinds)][pass_of(event)] += event.self_cpu_time_total
    return table


def model_flops(model: Any, lengths: list[int]) -> float:
    """Operations of a step that the model's mathematics asks for, on examples of these lengths.

    Two a weight of a product and token forward, twice that backward; attention 4 dim a pair of tokens and layer (and
    twice that backward). Embeddings are looked up and cost none.
    """
    from torch import nn

    transformer = model.encoder.transformer
    products = [each for each in transformer.modules() if isinstance(each, nn.Linear) and each.weight.requires_grad]
    config = transformer.config
    dense: float = 2.0 * sum(each.weight.numel() for each in products) * sum(lengths)
    pairs: float = 4.0 * config.hidden_size * config.num_hidden_layers * sum(length**2 for length in lengths)
    return 3.0 * (dense + pairs)


def trainee_of(reference: str, overrides: list[str], folder: Path) -> Any:
    """One worker in this process, ready to train."""
    from heliostat.ingest import prepare
    from heliostat.run import load
    from heliostat.train.trainee import Trainee
    from heliostat.train.worker import LocalWorker

    fixed = ["scaling.num_workers=1", "train.trackers=[]"]
    run = load(reference, [*fixed, *overrides])
    return Trainee.build(run, prepare(run), LocalWorker(), folder)


def steps(trainee: Any, count: int, lr: float = 1e-5, losses: list[float] | None = None) -> Iterator[list[int]]:
    """Make `count` updates; the lengths of the examples of each. Their losses go into `losses`."""
    import torch

    from heliostat.train.progress import Position
    from heliostat.train.update import update

    at = trainee.position
    batches = trainee.plan.batches(at.epoch, at.batch)
    for _ in range(count):
        at = trainee.position
        rows = next(batches, None)
        if rows is None:
            at = Position(at.step, at.epoch + 1, 0)
            batches = trainee.plan.batches(at.epoch)
            rows = next(batches)
        with torch.profiler.record_function("step"):
            made = update(trainee, rows, at, lr)
        if losses is not None:
            losses.append(made.sums["loss"] / made.counts["loss"])
        trainee.position = Position(at.step + 1, at.epoch, at.batch + 1)
        yield trainee.train.lengths[rows].tolist()


def show(table: dict[str, dict[str, float]], num_steps: int) -> None:
    """The table: milliseconds a step by kind and pass, and the share of each kind."""
    total = sum(sum(row.values()) for row in table.values())
    print(f"{'kind':26}{'forward':>10}{'backward':>10}{'optimiser':>10}{'all ms':>10}{'share':>8}")
    for kind, row in sorted(table.items(), key=lambda item: -sum(item[1].values())):
        cells = [row[each] / 1e3 / num_steps for each in PASSES]
        print(f"{kind:26}" + "".join(f"{cell:10.1f}" for cell in (*cells, sum(cells))), end="")
        print(f"{sum(row.values()) / total:8.1%}")
    cells = [sum(row[each] for row in table.values()) / 1e3 / num_steps for each in PASSES]
    print(f"{'all':26}" + "".join(f"{cell:10.1f}" for cell in (*cells, sum(cells))) + f"{1:8.1%}")
    products = sum(sum(table[kind].values()) for kind in PRODUCTS if kind in table)
    print(f"matrix products: {products / total:.1%} of the step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="sentiment/pretrained")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--threads", type=int, default=cores(), help="as a training has them: all, unless you say")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument(
        "--operations", type=int, default=0, help="also the N most expensive operations, unsorted by kind"
    )
    parser.add_argument("--json", type=Path, help="write the shares there, too")
    asked = parser.parse_args()
    fix_threads(asked.threads)
    from torch.profiler import ProfilerActivity, profile

    from heliostat.train.memory import keep_memory

    keep_memory()
    print(in_words(machine()))
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("HELIOSTAT_HOME", str(Path.home() / ".cache" / "heliostat-benchmarks"))
        trainee = trainee_of(asked.run, asked.overrides, Path(folder))
        list(steps(trainee, 6))
        before = resource.getrusage(resource.RUSAGE_SELF)
        with clocked() as clock:
            made = list(steps(trainee, asked.steps))
        after = resource.getrusage(resource.RUSAGE_SELF)
        tokens, flops = sum(map(sum, made)), sum(model_flops(trainee.model, each) for each in made)
        best = best_product_flops(trainee.run.train.precision)
        mfu = flops / clock.wall_s / best
        print(
            f"{asked.steps} steps, {asked.threads} threads: {clock.wall_s / asked.steps * 1e3:.0f} ms a step, "
            f"{tokens / clock.wall_s:,.0f} tokens/s, {tokens / clock.cpu_s:,.0f} tokens/CPU-s; "
            f"MFU {mfu:.1%} of {best / 1e9:,.0f} GF/s "
            f"({flops / clock.cpu_s * asked.threads / best:.1%} by CPU time)\n"
            f"in the kernel: {(after.ru_stime - before.ru_stime) / clock.cpu_s:.1%} of the CPU time, "
            f"{(after.ru_minflt - before.ru_minflt) / asked.steps:,.0f} page faults a step"
        )
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            list(steps(trainee, asked.steps))
        table = shares(list(profiler.events()))
    show(table, asked.steps)
    if asked.operations:
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=asked.operations))
    if asked.json:
        facts = {"machine": machine(), "tokens_per_s": tokens / clock.wall_s, "mfu": mfu, "shares": table}
        asked.json.write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
