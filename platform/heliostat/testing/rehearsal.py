"""A plugin's tiny run, prepared and trained once, for all checks to look at."""

from __future__ import annotations

from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from heliostat.component import Row
from heliostat.errors import HeliostatError
from heliostat.run import Parts, Run

if TYPE_CHECKING:
    from heliostat.batch import Batch
    from heliostat.data.prepared import Prepared
    from heliostat.model import Model
    from heliostat.predict import Predictor
    from heliostat.train.launch import TrainResult

MOST_EXAMPLES = 64
"""Examples that a check looks at."""


class Fault(HeliostatError):
    """A promise that a plugin breaks; its message says which, and how to keep it."""


class Rehearsal:
    """One plugin on one small run, on one worker in this process."""

    def __init__(self, plugin: str, run: Run) -> None:
        self.plugin = plugin
        self.run = run

    @cached_property
    def prepared(self) -> Prepared:
        """The prepared data of the run."""
        from heliostat.ingest import prepare

        return prepare(self.run)

    @cached_property
    def parts(self) -> Parts:
        """Components with what was fitted."""
        return self.prepared.parts(self.run)

    @cached_property
    def trained(self) -> TrainResult:
        """The run, trained to its end."""
        from heliostat.train.launch import train

        return train(self.run)

    @cached_property
    def predictor(self) -> Predictor:
        """The best checkpoint of the trained run."""
        from heliostat.predict import Predictor

        return Predictor.load(self.trained.checkpoint)

    @cached_property
    def questions(self) -> list[Row]:
        """Records to ask: the head's samples, then test (or else train) examples without their targets."""
        head = self.parts.head
        split: Any = "test" if self.prepared.counts["test"] else "train"
        examples = islice(self.prepared.examples(split), MOST_EXAMPLES)
        fields = set(type(head).takes.model_fields)
        asked = [{name: value for name, value in example.items() if name in fields} for example in examples]
        return [*map(dict, head.samples), *asked]

    def fresh_model(self) -> Model:
        """A model as training starts from."""
        import torch

        from heliostat.model import build_model

        torch.manual_seed(self.run.train.seed)
        return build_model(self.parts.encoder, self.parts.head)

    def batch(self, first: int = 0, last: int | None = None) -> Batch:
        """Some train examples as training sees them in its first epoch."""
        import numpy as np

        from heliostat.batch import Draws
        from heliostat.data.drawn import drawn

        shards = self.prepared.shards("train")
        rows = np.arange(len(shards))[first : MOST_EXAMPLES if last is None else last]
        draws = Draws(self.run.train.seed, 0)
        return drawn(shards, rows, self.parts.head, draws, self.parts.encoder.spec())

    def loss(self, model: Model) -> float:
        """The weighted loss over those examples, without dropout."""
        import torch

        batch, head = self.batch(), self.parts.head
        counts, weights = head.counts(batch), head.weights()
        model.eval()
        with torch.no_grad():
            terms = model(batch)
        return sum(weights.get(name, 1.0) * float(value) / max(counts[name], 1e-9) for name, value in terms.items())
