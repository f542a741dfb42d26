"""What the benchmarks of pretraining share on the peer's side: padded, masked and joined batches, and losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

IGNORED = -100
"""A label that counts nothing, to transformers."""


class Recorded(nn.Module):
    """A language model that notes its loss at each step of training."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.losses: list[float] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        answer = self.model(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
        if self.training:
            self.losses.append(float(answer.loss.detach()))
        return {"loss": answer.loss, "logits": answer.logits}


def padded(ids: Sequence[Tensor], labels: Sequence[Tensor], pad_id: int) -> dict[str, Tensor]:
    """A batch as a collator of transformers gives it: padded to its longest."""
    lengths = torch.tensor([len(each) for each in ids])
    whole = nn.utils.rnn.pad_sequence(list(ids), batch_first=True, padding_value=pad_id)
    return {
        "input_ids": whole,
        "attention_mask": (torch.arange(whole.shape[1])[None, :] < lengths[:, None]).long(),
        "labels": nn.utils.rnn.pad_sequence(list(labels), batch_first=True, padding_value=IGNORED),
    }


def masked_batch(prepared: Any, run: Any, split: str, rows: Any, draws: Any) -> dict[str, Tensor]:
    """The rows with the masks that our side draws for them, padded."""
    from heliostat.data.drawn import drawn
    from heliostat.heads.masking import PLACES, TARGETS

    parts = prepared.parts(run)
    batch = drawn(prepared.shards(split), rows, parts.head, draws, parts.encoder.spec())
    tokens = batch.ragged("input_ids")
    labels = torch.full_like(tokens.values, IGNORED)
    labels[batch.ragged(PLACES).values] = batch.ragged(TARGETS).values
    return padded(tokens.split(), tokens.with_values(labels).split(), 0)


def masking(mask_id: int, size: int, num_special: int, rate: float) -> Callable[[Sequence[Any]], dict[str, Tensor]]:
    """What DataCollatorForLanguageModeling does: 15 % of the tokens, 80/10/10, drawn for each batch anew."""

    def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        ids = [torch.as_tensor(row["input_ids"]) for row in rows]
        batch = padded(ids, ids, 0)
        inputs, labels = batch["input_ids"].clone(), batch["labels"].clone()
        chosen = (torch.rand(labels.shape) < rate) & (inputs >= num_special)
        labels[~chosen] = IGNORED
        fate = torch.rand(labels.shape)
        inputs[chosen & (fate < 0.8)] = mask_id
        random = chosen & (fate >= 0.8) & (fate < 0.9)
        inputs[random] = torch.randint(num_special, size, labels.shape)[random]
        return {**batch, "input_ids": inputs, "labels": labels}

    return collate


def causal(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """What DataCollatorForLanguageModeling gives without masks: the model itself shifts the labels."""
    ids = [torch.as_tensor(row["input_ids"]) for row in rows]
    return padded(ids, ids, 0)


def blocks(rows: Sequence[dict[str, Any]], size: int) -> list[dict[str, Any]]:
    """The texts joined and cut into blocks, as transformers' own run_mlm and run_clm do: no padding at all."""
    flat = np.concatenate([np.asarray(row["input_ids"], dtype=np.int64) for row in rows])
    return [{"input_ids": each.tolist()} for each in flat[: len(flat) // size * size].reshape(-1, size)]


@torch.no_grad()
def mean_loss(model: Recorded, batches: Iterator[dict[str, Tensor]], shift: int = 0) -> float:
    """The mean loss of a token with a label, without dropout; `shift` is 1 where the model shifts the labels."""
    was_training = model.training
    model.eval()
    total, count = 0.0, 0
    for batch in batches:
        labels = int((batch["labels"][:, shift:] != IGNORED).sum())
        total += float(model(**batch)["loss"]) * labels
        count += labels
    model.train(was_training)
    return total / count


def pieces(shards: Any, size: int = 64) -> Iterator[Any]:
    """The rows of a split by length, some at a time."""
    order = np.argsort(shards.lengths, kind="stable")
    return (order[start : start + size] for start in range(0, len(order), size))
