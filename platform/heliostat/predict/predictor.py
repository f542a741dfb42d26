"""A model ready to answer: the same encoder as in training, examples checked, batches packed, order kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np

from heliostat.batch import Batch, Encoded
from heliostat.component import Row
from heliostat.data.clean import NOTHING_LEFT, Cleaner
from heliostat.data.encode import inputs_of
from heliostat.errors import CheckpointError, DataError, ExampleProblem, HeliostatError, PredictError
from heliostat.features import PooledFeatures
from heliostat.plugin import Encoder, HeadModule, TaskHead
from heliostat.predict.record import check_answers, check_examples, from_encoder
from heliostat.predict.replay import Replay, first_mismatch

if TYPE_CHECKING:
    from heliostat.checkpoint import Loaded
    from heliostat.run import Run

Precision = Literal["fp32", "bf16"]

GOLDEN_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "bf16": 3e-2}
"""How far a number of a golden answer may lie from the checkpoint's, which trained in either precision."""


class Predictor:
    """A checkpoint in memory that answers examples. Not thread-safe: one caller at a time."""

    def __init__(self, loaded: Loaded, device: str = "cpu", precision: Precision = "fp32") -> None:
        self.folder = loaded.folder
        self.run: Run = loaded.run
        self.encoder: Encoder = loaded.parts.encoder
        self.head: TaskHead = loaded.parts.head
        self.model = loaded.model
        self.device = device
        self.precision: Precision = precision
        self._cleaner = Cleaner.of(self.run)

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None, precision: Precision = "fp32") -> Self:
        """Read and verify a checkpoint; it computes on a GPU where there is one.

        `threads` sets how many CPU threads this *process* computes with. Raises CheckpointError, or PluginError when
        the plugin of the checkpoint is not installed; DataError when a library that texts are cleaned with is not.
        """
        import torch

        from heliostat import checkpoint
        from heliostat.encoders.text_module import lighten

        if precision not in GOLDEN_TOLERANCE:
            raise ValueError(f"precision is one of {', '.join(GOLDEN_TOLERANCE)}; found {precision!r}.")
        if threads is not None:
            torch.set_num_threads(threads)
        loaded = checkpoint.load(Path(folder))
        if cleaner := Cleaner.of(loaded.run):
            cleaner.require()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded.model.eval().requires_grad_(False).to(device)
        if precision == "bf16" and device == "cpu":
            lighten(loaded.model)
        return cls(loaded, device, precision)

    def __repr__(self) -> str:
        return f"Predictor({self.run.name!r}, {str(self.folder)!r}, {self.device}, {self.precision})"

    def predict(self, examples: Sequence[Row], *, max_tokens: int = 8192) -> list[Row]:
        """One prediction an example, in order, with the fields of the head's record.

        Micro-batches hold up to `max_tokens` tokens, which bounds memory and changes no answer. Raises PredictError
        with the place, field and rule of every example that breaks the head's record.
        """
        encoded = self.encoded(examples)
        return self._in_batches(encoded, max_tokens, self._answer) if encoded else []

    def encoded(self, examples: Sequence[Row]) -> list[Encoded]:
        """What the model reads of each example, checked and cleaned, in order. Raises PredictError."""
        rows = self.cleaned(check_examples(examples, self.head.takes))
        return self._encode(rows) if rows else []

    def stream(self, example: Row) -> Iterator[str | Row]:
        """The answer to one example while it is being written: pieces of text, and last the whole row.

        For heads that `streams`; the search is greedy. Between two pieces the predictor may answer others. Raises
        PredictError as `predict` does, at the first piece, and HeliostatError for a head that gives its answers whole.
        """
        import torch

        from heliostat.data.collate import collate

        rows = self.cleaned(check_examples([example], self.head.takes))
        batch = collate(self._encode(rows), np.zeros(1, dtype=np.uint64)).to(self.device)
        bits = self.model.stream(batch)
        while True:
            # Entered anew for each piece: what runs in this thread in between must not find itself in our context.
            with torch.inference_mode(), self.autocast():
                bit = next(bits, None)
            if bit is None:
                return
            if not isinstance(bit, str):
                check_answers([bit], 1, self.head.gives, self.run.head.type)
            yield bit

    def cleaned(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with their texts as the run's `data.clean` has them: what the model was trained on.

        Raises PredictError for one of which nothing is left.
        """
        if self._cleaner is None:
            return list(rows)
        found = [self._cleaner(row).values for row in rows]
        pairs = enumerate(zip(rows, found, strict=True))
        empty = [(index, self._cleaner.emptied(before, after)) for index, (before, after) in pairs]
        problems = [ExampleProblem(index, field, f"{NOTHING_LEFT}.") for index, field in empty if field]
        if problems:
            raise PredictError(problems)
        return found

    def _encode(self, rows: list[Row]) -> list[Encoded]:
        try:
            return inputs_of(self.encoder, self.head, rows)
        except DataError:
            for index, row in enumerate(rows):  # one by one, to name the example that cannot be encoded
                try:
                    inputs_of(self.encoder, self.head, [row])
                except DataError as error:
                    raise from_encoder(error, index, row) from None
            raise

    def _answer(self, batch: Batch) -> list[Row]:
        return self.answers(self.model.encoder(batch), batch)

    def answers(self, features: Any, batch: Batch) -> list[Row]:
        """One prediction an example, from what the encoder gives for them. Called within `autocast`.

        A head computes in fp32 where the encoder hands it numbers alone: its products are small, and what they round
        off decides between classes that are nearly as probable. What reads on in the encoder stays in its format.
        """
        import torch

        is_fp32 = all(map(_is_fp32, vars(features).values()))
        with torch.autocast(self.device, enabled=False) if is_fp32 else nullcontext():
            answers = cast(HeadModule, self.model.head).predict(features, batch)
        check_answers(answers, len(batch), self.head.gives, self.run.head.type)
        return answers

    def _in_batches(self, encoded: list[Encoded], max_tokens: int, work: Callable[[Batch], Sequence[Any]]) -> list[Any]:
        """What `work` makes of each example, in order, by micro-batches of examples of similar lengths."""
        import torch

        from heliostat.data.collate import collate
        from heliostat.data.plan import micro_batches

        lengths = np.array([length_of(each) for each in encoded], dtype=np.int32)
        by_length = np.argsort(-lengths, kind="stable")
        done: list[Any] = [None] * len(encoded)
        with torch.inference_mode(), self.autocast():
            for rows in micro_batches(by_length, lengths, max_tokens):
                # One id for all: an answer may depend on nothing but its example.
                batch = collate([encoded[row] for row in rows], np.zeros(len(rows), dtype=np.uint64))
                for row, each in zip(rows, work(batch.to(self.device)), strict=True):
                    done[row] = each
        return done

    @property
    def saved_at(self) -> int:
        """When the checkpoint was completed, in seconds since 1970."""
        from heliostat import checkpoint

        return int((self.folder / checkpoint.MANIFEST).stat().st_mtime)

    @property
    def embeds(self) -> str | None:
        """The field whose text `embed` reads; None for a model that does not turn one text into one vector."""
        required = [name for name, field in self.head.takes.model_fields.items() if field.is_required()]
        is_one_text = len(required) == 1 and self.head.takes.model_fields[required[0]].annotation is str
        has_words = self.encoder.spec().vocabulary is not None and issubclass(self.encoder.gives, PooledFeatures)
        return required[0] if is_one_text and has_words else None

    def embed(self, examples: Sequence[Row], *, max_tokens: int = 8192) -> list[Row]:
        """For each example the pooled `vector` of its encoder, of length 1, and how many `tokens` were read, in order.

        Checks and cleans as `predict` does. Raises HeliostatError for a model that has no such vectors (`embeds`).
        """
        if self.embeds is None:
            raise HeliostatError(f"{self.run.name} gives no vectors of texts: it does not read one text a record.")
        encoded = self.encoded(examples)
        vectors = self._in_batches(encoded, max_tokens, self._pooled)
        return [{"vector": each, "tokens": length_of(one)} for each, one in zip(vectors, encoded, strict=True)]

    def _pooled(self, batch: Batch) -> list[list[float]]:
        import torch

        vectors = torch.nn.functional.normalize(self.model.encoder(batch).pooled.float(), dim=1)
        return vectors.tolist()  # type: ignore[no-any-return]

    def autocast(self) -> AbstractContextManager[Any]:
        """The number format of its products, to be entered."""
        import torch

        return torch.autocast(self.device, dtype=torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def golden(self) -> list[tuple[Row, Row]]:
        """The sample records of the checkpoint, each with the answer it gave when it was written."""
        from heliostat import checkpoint

        return checkpoint.golden(self.folder)

    def check_golden(self, tolerance: float | None = None) -> Replay:
        """Answer the golden requests again and compare: labels must be equal, numbers within `tolerance`.

        None takes the tolerance of the precision. Two labels whose probabilities lie within the tolerance of each other
        count as equal. Raises CheckpointError naming the first difference.
        """
        golden = self.golden()
        allowed = GOLDEN_TOLERANCE[self.precision] if tolerance is None else tolerance
        try:
            answers = self.predict([example for example, _ in golden])
        except PredictError as error:
            raise CheckpointError(f"checkpoint {self.folder}: a golden request is refused: {error}") from error
        replay, place, mismatch = first_mismatch(golden, answers, allowed)
        if mismatch:
            raise CheckpointError(
                f"checkpoint {self.folder} does not answer golden request {place} as when it was written: {mismatch}. "
                "Its plugin or a library may have changed since: install the versions that trained it, or train anew."
            )
        return replay


def _is_fp32(value: Any) -> bool:
    """Whether a field of features is no way into the encoder, and no tensor of another format."""
    import torch

    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or value.dtype is torch.float32
    return not callable(value)


def length_of(encoded: Encoded) -> int:
    """Tokens of an example: the values of its ragged columns, and 1 at least."""
    return max(1, sum(len(value) for value in encoded.values() if isinstance(value, np.ndarray)))


def load(reference: str | Path, *, threads: int | None = None, precision: Precision = "fp32") -> Predictor:
    """The model at `sentiment@champion`, `sentiment:3`, `sentiment` (the newest version), of a run, or in a folder.

    What holds a `/` or starts with a `.` or `~` is the folder of a checkpoint or a run; a name that the store lacks may
    be the id of a run. Raises StoreError or CheckpointError.
    """
    return Predictor.load(locate(reference), threads=threads, precision=precision)


def locate(reference: str | Path) -> Path:
    """The checkpoint folder that a reference stands for. Raises StoreError naming what was probably meant."""
    from heliostat.home import home
    from heliostat.models import ModelStore

    if isinstance(reference, Path) or "/" in reference or reference.startswith((".", "~")):
        folder = Path(reference).expanduser()
        return _of_run(folder) if (folder / "metrics.jsonl").is_file() else folder
    run = home() / "runs" / reference
    return _of_run(run) if (run / "run.json").is_file() else ModelStore().resolve(reference).folder


def _of_run(run: Path) -> Path:
    """What a run ended with: its best checkpoint, with the decision that was fitted where its head fits one."""
    from heliostat import checkpoint

    outcome = run / "outcome.json"
    if not outcome.is_file():
        raise CheckpointError(
            f"the run '{run.name}' has not ended. Continue it with: heliostat train --resume {run.name}; or name one "
            f"of {run / 'checkpoints'}."
        )
    model = run / "model"
    best = int(json.loads(outcome.read_text(encoding="utf-8"))["best"][0])
    is_fitted = (model / checkpoint.MANIFEST).is_file()
    return model if is_fitted else checkpoint.step_folder(run / "checkpoints", best)
