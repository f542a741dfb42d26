"""The peer's side: transformers' Trainer, with a clock that leaves out the first steps."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from measure import Clock

BEST_FLAGS = {"bf16": True, "train_sampling_strategy": "group_by_length"}
"""What its documentation names for speed on a CPU. (`torch_compile` took longer: lengths differ in every batch.)"""


class MeanPooled(nn.Module):
    """A transformer, the mean of its states over the tokens, and one linear layer: the model that Heliostat trains."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.transformer = model.encoder.transformer
        self.transformer.set_attn_implementation("sdpa")
        self.linear = model.head.linear
        self.dropout = model.head.dropout
        self.losses: list[float] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        kept = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * kept).sum(1) / kept.sum(1)
        logits = self.linear(self.dropout(pooled)).float()
        loss = nn.functional.cross_entropy(logits, labels)
        if self.training:
            self.losses.append(float(loss.detach()))
        return {"loss": loss, "logits": logits}


class Timer(TrainerCallback):  # type: ignore[misc]
    """Wall and CPU seconds from the end of step `warm` to the last; tokens that were none of padding."""

    def __init__(self, warm: int) -> None:
        self.warm, self.clock = warm, Clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step not in (self.warm, state.max_steps):
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if state.global_step == self.warm:
            self.clock.start()
        else:
            self.clock.stop()


class SameBatches(Trainer):  # type: ignore[misc]
    """A Trainer whose minibatches are given: the rows of each step."""

    batches: Sequence[list[int]]

    def get_train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(
            self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator
        )


def train(
    model: nn.Module,
    examples: Any,
    collator: Callable[[Any], Any],
    *,
    warm: int,
    batches: Sequence[list[int]] | None = None,
    callbacks: Sequence[Any] = (),
    **arguments: Any,
) -> Clock:
    """Train with the arguments given, and the Trainer's own for all others."""
    with tempfile.TemporaryDirectory() as folder:
        quiet = {
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": not torch.cuda.is_available(),
        }
        settings = TrainingArguments(output_dir=folder, remove_unused_columns=False, **quiet, **arguments)
        timer = Timer(warm)
        kind = Trainer if batches is None else SameBatches
        trainer = kind(
            model=model, args=settings, train_dataset=examples, data_collator=collator, callbacks=[timer, *callbacks]
        )
        if batches is not None:
            trainer.batches = batches  # type: ignore[attr-defined]
        trainer.train()
        return timer.clock


def padder(pad_id: int) -> Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]:
    """What DataCollatorWithPadding does, from ids: pads to the longest of the batch."""

    def pad(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        ids = [torch.as_tensor(row["input_ids"]) for row in rows]
        padded = nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad_id)
        places = torch.arange(padded.shape[1])
        mask = (places[None, :] < torch.tensor([len(each) for each in ids])[:, None]).long()
        batch = {"input_ids": padded, "attention_mask": mask}
        if "labels" in rows[0]:
            batch["labels"] = torch.tensor([row["labels"] for row in rows])
        return batch

    return pad


def rows_of(shards: Any, target: str | None = "target") -> list[dict[str, Any]]:
    """The examples of a split as plain rows: the ids that our side trains on, so that both are tokenised alike."""
    import numpy as np

    batch = shards.batch(np.arange(len(shards)))
    ids = batch.ragged("input_ids").split()
    targets: Iterable[int] = batch.dense(target).tolist() if target else ()
    if target:
        return [{"input_ids": each.tolist(), "labels": label} for each, label in zip(ids, targets, strict=True)]
    return [{"input_ids": each.tolist()} for each in ids]


@torch.no_grad()
def mean_loss(
    model: nn.Module, rows: Sequence[dict[str, Any]], collator: Callable[[Any], Any], size: int = 64
) -> float:
    """The mean loss over examples, without dropout."""
    model.eval()
    ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
    total = 0.0
    for start in range(0, len(ordered), size):
        piece = ordered[start : start + size]
        total += float(model(**collator(piece))["loss"]) * len(piece)
    return total / len(ordered)
