"""The model in training with all that moves along with it: optimiser, average, journal, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heliostat import checkpoint
from heliostat.data.augment import Augmenter
from heliostat.data.plan import BatchPlan
from heliostat.data.prepared import Prepared
from heliostat.data.shards import Shards
from heliostat.encoders.adapted import Adapted
from heliostat.encoders.base import Base
from heliostat.encoders.ranks import RankSchedule
from heliostat.errors import TrainError
from heliostat.features import FeatureSpec
from heliostat.lineage import Entry, entry_of
from heliostat.model import Model, build_model
from heliostat.run import Parts, Run
from heliostat.train.acceleration import compile_layers, set_matmul_precision
from heliostat.train.activations import checkpoint_activations
from heliostat.train.ancestry import fitted_parts, read_ancestors
from heliostat.train.apart import Aside
from heliostat.train.ema import MovingAverage
from heliostat.train.golden import Golden
from heliostat.train.journal import Journal
from heliostat.train.optimizer import build_optimizer, load_optimizer_tensors, optimizer_tensors
from heliostat.train.policy import Judged, Validation, best
from heliostat.train.progress import START, Position, Timetable
from heliostat.train.saver import Saver
from heliostat.train.sharded import Whole
from heliostat.train.tracking import Ending, require_trackers
from heliostat.train.truth import Seen
from heliostat.train.update import Update, told
from heliostat.train.validate import validate
from heliostat.train.worker import Worker, memory_mb, state_of_effect


@dataclass
class Trainee:
    """One worker's side of a training. `loop.fit` says when its methods are called."""

    run: Run
    parts: Parts
    worker: Worker
    folder: Path
    train: Shards
    valid: Shards
    plan: BatchPlan
    data_key: str
    spec: FeatureSpec
    model: Model
    whole: Whole
    """The model in one piece."""
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    journal: Journal
    saver: Saver
    golden: Golden
    position: Position = START
    tokens: float = 0.0
    """Tokens that the run has learned from so far, over all workers."""
    ancestors: Sequence[Entry] = ()
    pending: list[Update] = field(default_factory=list)
    """Updates since the last row of the journal."""
    seen: Seen = field(default_factory=Seen)
    left_out: set[int] = field(default_factory=set)
    """Updates that were not made, or will not be, because a gradient was not finite (`train.on_nan`)."""
    since: float = field(default_factory=time.monotonic)
    aside: Aside | None = None
    """What validates checkpoints apart from the training; None where the workers do it themselves."""
    augmenter: Augmenter | None = None

    @classmethod
    def build(cls, run: Run, prepared: Prepared, worker: Worker, folder: Path) -> Trainee:
        """A fresh trainee; the same weights on every worker, from the run's seed."""
        parts, settings = fitted_parts(run, prepared, folder), run.train
        require_trackers(settings.trackers)
        set_matmul_precision(settings.precision, worker.device)
        torch.manual_seed(settings.seed)
        model = build_model(parts.encoder, parts.head)
        if settings.activation_checkpointing:
            checkpoint_activations(model)
        whole = Whole(model, is_sharded=worker.is_sharded)
        if settings.compile:
            compile_layers(model, worker.device)
        wrapped = worker.wrap(model)
        train, spec = prepared.joined(settings.learns_from), parts.encoder.spec()
        plan = BatchPlan(train.lengths, tokens_per_batch=settings.tokens_per_batch, seed=settings.seed)
        journal = Journal(folder, run, is_writer=worker.rank == 0)
        aside = None
        if settings.validation == "apart":
            aside = Aside(run, prepared.folder, folder, worker, journal, Timetable.of(settings, plan))
        return cls(
            run=run,
            parts=parts,
            worker=worker,
            folder=folder,
            train=train,
            valid=prepared.shards("valid"),
            plan=plan,
            spec=spec,
            model=model,
            whole=whole,
            wrapped=wrapped,
            optimizer=build_optimizer(model, settings, parts.encoder.depth_of),
            average=MovingAverage(model, settings.ema) if settings.ema else None,
            ancestors=read_ancestors(folder),
            data_key=prepared.key,
            journal=journal,
            saver=Saver(
                folder / "checkpoints",
                settings.keep_checkpoints,
                is_writer=worker.rank == 0,
                needed=aside.needed if aside else frozenset,
                mirror=settings.mirror,
            ),
            golden=Golden.of(parts, run),
            aside=aside,
            augmenter=Augmenter(settings.augment, spec) if settings.augment else None,
        )

    @property
    def adapter(self) -> Adapted | None:
        """What trains in place of the encoder; None where the encoder trains."""
        return getattr(self.model.encoder, "adapter", None)

    @property
    def ranks(self) -> RankSchedule | None:
        """What gives out AdaLoRA's ranks; None without."""
        return self.adapter.ranks if self.adapter else None

    def restore(self, at_most: int | None = None) -> tuple[Position, list[Validation]]:
        """Go on from the newest whole checkpoint of the run, if there is one: where it stood and its validations.

        A rollback names the step that it goes back to with `at_most`.
        """
        self.pending, self.since = [], time.monotonic()
        self.seen.clear()
        path = checkpoint.newest(self.folder / "checkpoints", at_most=at_most)
        if path is None:
            return self.position, []
        state = self.take(path)
        load_optimizer_tensors(self.optimizer, self.model, state.optimizer)
        self.position, self.tokens = Position(*state.trainer["position"]), state.trainer.get("tokens", 0.0)
        self.left_out |= set(state.trainer.get("left_out", ()))
        return self.position, [Validation(*row) for row in state.trainer["history"]]

    def take(self, path: Path) -> checkpoint.TrainingState:
        """Put the weights of a checkpoint in place, those of the average too. Every worker calls it."""
        state = checkpoint.load_state(path)
        if self.adapter:
            self._restore_adapter(self.adapter, path, state)
        else:
            self.whole.load("encoder", lambda encoder: self.parts.encoder.load_weights(encoder, path / "encoder"))
        tensors = checkpoint.read_tensors(path / "head" / "model.safetensors")
        self.whole.load("head", lambda head: head.load_state_dict(tensors))
        if self.average:
            self.average.load(self.model)
        if state.weights is not None:
            self.whole.put(state.weights)
        return state

    def _restore_adapter(self, adapter: Adapted, path: Path, state: checkpoint.TrainingState) -> None:
        """The checkpoint holds the adapter alone, or merged: its own weights come from the state, its base is there."""
        Base.read(path / "encoder").match(adapter.base)
        kept = state.adapter or {}
        self.whole.put(checkpoint.below(kept, "weights/"))
        if adapter.ranks:
            adapter.ranks.load_state(checkpoint.below(kept, "ranks/"))

    def _adapter_state(self, served: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """What a checkpoint keeps of an adapter beside what is served."""
        if self.adapter is None:
            return None
        moving = self.whole.moving(served).items()
        weights = {f"weights/{name}": tensor for name, tensor in moving if name.startswith("encoder.")}
        ranks = self.ranks.state() if self.ranks else {}
        return {**weights, **{f"ranks/{name}": tensor for name, tensor in ranks.items()}}

    def log(self, update: Update | None, after: Position, lr: float, num_steps: int) -> None:
        """Write a row to the journal each `train.log_every` updates.

        `update` is None, or not finite, for one that was left out: it counts in no sum.
        """
        self.position = after
        if update and math.isfinite(update.grad_norm):
            self.pending.append(update)
            self.tokens += update.tokens
        is_due = after.step % self.run.train.log_every == 0 or after.step in {1, num_steps}
        if not is_due or not self.pending:
            return
        if self.aside:
            self.aside.hand_on()
        row = {"lr": lr, **told(self.pending, self.worker, self.run.train.tokens_per_micro_batch)}
        now = time.monotonic()
        row["tokens_per_s"] = sum(each.tokens for each in self.pending) / max(1e-9, now - self.since)
        row["memory_mb"] = memory_mb(self.worker.device)
        if self.left_out:
            row["left_out"] = sum(step < after.step for step in self.left_out)
        self.journal.write({"step": after.step, "epoch": after.epoch, "progress": after.step / num_steps, **row})
        self.pending, self.since = [], now

    def validate(self, after: Position, timetable: Timetable) -> Judged:
        """Loss and scores on the valid split, shared over the workers, in the journal."""
        row, validation = self.scored(after)
        self.journal.write(row)
        self.since = time.monotonic()
        return Judged(validation, after.step / timetable.num_steps, timetable.epochs(after), row)

    def scored(self, after: Position) -> tuple[dict[str, float], Validation]:
        """What the journal is told of the weights as they are, and how good they are.

        Where weights are averaged, the average is what counts (`valid/...`) and the weights themselves are scored
        beside it (`valid_raw/...`), so that the curves say whether averaging pays. Where the valid split is learned
        from there is no score: the newest weights count as the best.
        """
        if self.run.train.learns_from != "train":
            return {"step": after.step, "epoch": after.epoch}, Validation(after.step, float(after.step))
        with self._served():
            scores = validate(self)
        row = {f"valid/{name}": value for name, value in scores.items()}
        if self.average:
            row |= {f"valid_raw/{name}": value for name, value in validate(self).items()}
        name = self.run.train.select or self.parts.head.selects
        if name not in scores:
            raise TrainError(f"train.select: there is no validation score '{name}'. There are: {', '.join(scores)}.")
        is_error = self.parts.head.is_error(name)
        validation = Validation(after.step, -scores[name] if is_error else scores[name])
        return {"step": after.step, "epoch": after.epoch, **row}, validation

    def save(self, after: Position, history: list[Validation]) -> None:
        """Copy what a checkpoint holds and let a background thread write it; rank 0 writes, others go on.

        Every worker calls it: where the model is sharded, each gives its part.
        """
        if self.worker.rank != 0 and not self.worker.is_sharded:
            return
        leader = best(history)
        trainer: dict[str, Any] = {
            "position": list(after),
            "tokens": self.tokens,
            "history": [list(row) for row in history],
            "best_step": leader.step if leader else None,
            "left_out": sorted(self.left_out),
            "in_effect": state_of_effect(self.worker, self.model, self.run.train.precision),
        }
        self.saver.settle()  # what is copied now takes the memory of the last checkpoint's copies
        with self._served():
            served = self.whole.copies()
        weights = self.whole.moving(self.whole.copies("own")) if self.average else None
        optimizer = optimizer_tensors(self.optimizer, self.model, self.whole.staging)
        state = checkpoint.TrainingState(trainer, optimizer, weights, self._adapter_state(served))
        snapshot = checkpoint.Snapshot(
            self.run, self.parts, self.model, served, partial(self._golden, served), state, self._lineage()
        )
        self.saver.write(after.step, snapshot, best_step=trainer["best_step"])

    def _lineage(self) -> list[Entry]:
        facts = {"steps": self.position.step, "tokens": int(self.tokens), "data_key": self.data_key}
        return [*self.ancestors, entry_of(self.run.dump(), run_id=self.folder.name, **facts)]

    def _golden(self, served: dict[str, Tensor]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        with self.whole.holding(served) as model:  # in the thread that writes
            return self.golden.answers(model)

    def settle(self) -> None:
        """Return when the checkpoints of all workers are on the disk: every worker calls it."""
        self.saver.settle()
        self.worker.gather(0.0)

    def should_stop(self) -> bool:
        """Whether this worker wishes that all of them save and end."""
        return self.worker.should_stop() or bool(self.aside and self.aside.refusal)

    def close(self, ending: Ending) -> None:
        """Wait for what is still being written, and tell the trackers how the training ended."""
        how: Ending = "failed"
        try:
            self.saver.close()
            how = ending
        finally:
            if self.aside:
                self.aside.close()
            self.journal.close(how)

    def _served(self) -> Any:
        return self.average.in_place(self.model) if self.average else nullcontext()
