"""The text encoder: any transformers encoder, trained from nothing or pretrained, over batches without padding."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from heliostat.component import LATER_ONCE_SET, Row, Settings
from heliostat.encoders.adapter import ADAPTER, AdapterSettings
from heliostat.encoders.presets import PRESETS, Architecture, SpecialIds, bert_config
from heliostat.encoders.pretrained import WEIGHTS, TextFiles, fetch_files, folder_fingerprint
from heliostat.encoders.reading import TextReader
from heliostat.encoders.tokenizer import (
    CLS,
    PAD,
    SEP,
    SPECIAL,
    Blank,
    TextVocabulary,
    read_tokenizer,
    tokenizer_config,
    train_tokenizer,
)
from heliostat.errors import CheckpointError, DataError, Problem, RunError
from heliostat.features import FeatureSpec, TokenFeatures
from heliostat.plugin import Encoded, Encoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor, nn

    from heliostat.encoders.adapted import Adapted
    from heliostat.encoders.base import Base
    from heliostat.encoders.text_module import TextModule

PAIR_START = "pair_start"
"""The column that says where the second text of a pair begins in its example; absent where there is one text."""

_PREFIX = "transformer."
"""Where the transformer stands in the module; on disk its weights have the names that transformers gives them."""
_LAYER = re.compile(r"^transformer\..*?\b(?:layers?|h)\.(\d+)\.")
_EMBEDDING = re.compile(r"\.(?:embeddings\w*|embed_tokens|wte|wpe)\b")


class TextEncoder(Encoder):
    """One text, or a pair of texts -> one vector a token and one an example."""

    class Config(Settings):
        """Settings of a text encoder: a `preset` to train from nothing, or a `pretrained` model to go on from."""

        preset: Literal["tiny", "mini", "small", "base"] | None = None
        """Size of a fresh model: 32 wide with 2 layers (for tests), 256 x 4, 384 x 6, 768 x 12."""
        pretrained: Annotated[str, Field(min_length=1)] | None = None
        """A model of the store (`name@champion`, `name:3`), a run id, a folder, `package:<package>/...`, a hub name."""
        fields: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)] = ("text",)
        """The field of an example that is read; two are read as a pair."""
        blank: Annotated[str, Field(min_length=1)] | None = None
        """What is written for a masked token, as `[MASK]`, so that a model may fill it; None: all text is text."""
        max_tokens: Annotated[int, Field(ge=8, le=8192)] = 256
        """Tokens at which a text (or a pair) is cut, special ones included."""
        pooling: Literal["mean", "first", "last"] = "mean"
        """The vector of an example: the mean over its tokens, its first token, or its last."""
        dropout: Annotated[Annotated[float, Field(ge=0.0, lt=1.0)] | None, LATER_ONCE_SET] = None
        """Of states and attention; None takes the model's own."""
        vocab_size: Annotated[int, Field(ge=300)] | None = None
        """The most tokens that a preset learns; None takes the preset's: 2, 8, 16 or 32 thousand."""
        lower_case: bool | None = None
        """Whether a preset reads `A` as `a`; None does."""
        adapter: AdapterSettings | None = None
        """Keeps a pretrained model and trains few parameters beside it: lora, adalora, bottleneck; None trains all."""

        @field_validator("vocab_size", "lower_case")
        @classmethod
        def _only_with_a_preset(cls, value: Any, info: ValidationInfo) -> Any:
            if value is not None and info.data.get("pretrained") is not None:
                rule = "has no effect with encoder.pretrained, which brings its own vocabulary. Leave it out."
                raise PydanticCustomError("no_effect", "{rule}", {"rule": rule})
            return value

        @field_validator("adapter")
        @classmethod
        def _only_with_a_base(cls, value: Any, info: ValidationInfo) -> Any:
            if value is not None and info.data.get("pretrained") is None:
                rule = "needs encoder.pretrained: a preset starts from nothing and has nothing to keep. Leave it out."
                raise PydanticCustomError("no_effect", "{rule}", {"rule": rule})
            return value

        @model_validator(mode="after")
        def _one_beginning(self) -> Self:
            if (self.preset is None) == (self.pretrained is None):
                found = "both are" if self.preset else "neither is"
                names = ", ".join(PRESETS)
                rule = f"needs exactly one of preset ({names}) and pretrained (a folder or a name); {found} set."
                raise PydanticCustomError("beginning", "{rule}", {"rule": rule})
            return self

    gives: ClassVar[type[TokenFeatures]] = TokenFeatures
    architecture: ClassVar[Architecture] = staticmethod(bert_config)
    """What a preset is built as."""

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self.truncated = 0
        """Texts that this encoder has cut at `max_tokens` so far."""
        self._files: TextFiles | None = None
        self._tokenizer: Tokenizer | None = None
        self._read: TextReader
        self._weights_follow = False
        self._base: Base | None = None

    def fingerprint(self) -> str:
        """The hash of a pretrained model's tokenizer and configuration, where it lies in a folder."""
        return folder_fingerprint(self.config.pretrained) if self.config.pretrained else ""

    def fit(self, examples: Iterable[Row]) -> None:
        """Learn a vocabulary from the train examples, or take over that of the pretrained model.

        Raises RunError when the pretrained model cannot be used, DataError when an example lacks a field.
        """
        if self.config.preset:
            self._take(self._learn(examples))
        else:
            settings = self.config
            self._take(fetch_files(settings.pretrained, max_tokens=settings.max_tokens, dropout=settings.dropout))
        self._weights_follow = False

    def _learn(self, examples: Iterable[Row]) -> TextFiles:
        settings = self.config
        preset = PRESETS[settings.preset]
        texts = (part for example in examples for part in self._parts(example))
        tokenizer = train_tokenizer(
            texts, settings.vocab_size or preset.vocab_size, lower_case=settings.lower_case is not False
        )
        config = self._config(tokenizer.get_vocab_size())
        return TextFiles(tokenizer.to_str(), tokenizer_config(settings.max_tokens), config)

    def _config(self, vocab_size: int) -> dict[str, Any]:
        ids, settings = SpecialIds(*(SPECIAL.index(name) for name in (PAD, CLS, SEP))), self.config
        shared: dict[str, Any] = {"special_ids": ids, "max_tokens": settings.max_tokens, "dropout": settings.dropout}
        return self.architecture(PRESETS[settings.preset], vocab_size=vocab_size, **shared)

    def _take(self, files: TextFiles) -> None:
        self._files = files
        self._tokenizer = read_tokenizer(files.tokenizer, self.config.max_tokens)
        self._read = TextReader(self._tokenizer)

    def _fitted(self) -> tuple[TextFiles, Tokenizer]:
        if self._files is None or self._tokenizer is None:
            raise DataError("this text encoder has no vocabulary yet: call fit(train examples) or load(folder) first.")
        return self._files, self._tokenizer

    def save(self, folder: Path) -> None:
        """Write what AutoTokenizer and AutoConfig read: `tokenizer.json`, `tokenizer_config.json`, `config.json`."""
        self._fitted()[0].write(folder)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Where weights lie beside it (a checkpoint), nothing else will be asked for."""
        files = TextFiles.read(folder)
        if self.config.dropout is not None:  # another run may have prepared these data, with a dropout of its own
            made = self._config(files.model_config["vocab_size"]) if self.config.preset else None
            files = files.with_dropout(self.config.dropout, made)
        self._take(files)
        self._weights_follow = (folder / WEIGHTS).is_file()
        self._base = None
        if (folder / ADAPTER).is_file():  # an adapter that is kept apart: its base is asked for again
            from heliostat.encoders.base import Base

            self._base = Base.read(folder)

    def encode(self, examples: Sequence[Row]) -> list[Encoded]:
        """`input_ids` of each example, special tokens included; of pairs also `pair_start`, where the second begins.

        Raises DataError for an example without such a text.
        """
        self._fitted()
        texts = [parts if len(parts) > 1 else parts[0] for parts in map(self._parts, examples)]
        read = self._read(texts, self._blank())
        self.truncated += sum(tokens.is_cut for tokens in read)
        if not all(len(tokens.ids) for tokens in read):
            raise DataError(f"an example has no token in {' and '.join(self.config.fields)}.")
        rows: list[dict[str, Any]] = [{"input_ids": tokens.ids} for tokens in read]
        if len(self.config.fields) > 1:
            for row, tokens in zip(rows, read, strict=True):
                row[PAIR_START] = tokens.second
        return list(rows)

    def _parts(self, example: Row) -> tuple[str, ...]:
        return self._texts(example, self.config.fields)

    def _texts(self, example: Row, fields: Sequence[str]) -> tuple[str, ...]:
        for field in fields:
            if not isinstance(example.get(field), str):
                there = (
                    f"a {type(example[field]).__name__}"
                    if field in example
                    else f"only {', '.join(example) or 'nothing'}"
                )
                raise DataError(f"encoder.fields names '{field}', which must be a text; the example has {there}.")
        return tuple(example[field] for field in fields)

    def spec(self) -> FeatureSpec:
        """Width of the states, and the vocabulary."""
        files, tokenizer = self._fitted()
        config = files.model_config
        dim = next(config[key] for key in ("hidden_size", "dim", "d_model", "n_embd") if key in config)
        return FeatureSpec(
            dim,
            TextVocabulary(tokenizer, config["vocab_size"], self._mask()),
            "input_ids",
            pair_column=PAIR_START if len(self.config.fields) > 1 else None,
            max_tokens=self.config.max_tokens,
        )

    def _mask(self) -> str | None:
        """The mask token, where the vocabulary has one."""
        mask = self._fitted()[0].tokenizer_config.get("mask_token")
        return mask["content"] if isinstance(mask, dict) else mask

    def _blank(self) -> Blank | None:
        if self.config.blank is None:
            return None
        mask = self._mask()
        if mask is None:
            rule = "has no effect: the vocabulary has no mask token. Leave it out."
            raise RunError([Problem("encoder.blank", rule)])
        return Blank(self.config.blank, mask)

    def module(self) -> nn.Module:
        """A TextModule: pretrained where the run says so, unless the weights of a checkpoint follow.

        Raises RunError when the pretrained weights cannot be had, HeliostatError for a model that needs padding, and
        CheckpointError when the base of a checkpoint's adapter is gone or another.
        """
        from heliostat.encoders.pretrained import load_transformer
        from heliostat.encoders.text_module import prove

        if self._base:
            self._base.verify()
        address = None if self._weights_follow else self._base.address if self._base else self.config.pretrained
        module = self.module_type()(load_transformer(self._fitted()[0], address), self.config.pooling, self.gives)
        prove(module)
        if self.config.adapter and address:  # weights that follow have it merged
            from heliostat.encoders.adapted import adapt
            from heliostat.encoders.base import Base

            module.adapter = adapt(module.transformer, self.config.adapter, self._base or Base.of(address))
        return module

    def module_type(self) -> type[TextModule]:
        """What computes; a subclass may give more than the features of a text."""
        from heliostat.encoders.text_module import TextModule

        return TextModule

    def depth_of(self, parameter: str) -> int | None:
        """0 for embeddings, k for the k-th layer, by the names that transformers gives them."""
        layer = _LAYER.search(parameter)
        return int(layer[1]) + 1 if layer else 0 if _EMBEDDING.search(parameter) else None

    def save_weights(self, module: nn.Module, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write `weights` to `folder/model.safetensors`, named as AutoModel names them.

        Of an adapter that is not merged, the adapter is written, and the address and hash of its base.
        """
        from safetensors.torch import save_file

        named = {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items()}
        adapter: Adapted | None = module.adapter  # type: ignore[assignment]
        if adapter and not adapter.merges:
            adapter.save(folder, named)
            return
        if adapter:
            adapter.base.write(folder)
            named = adapter.merged(named)
        named = {name: tensor.contiguous() for name, tensor in named.items()}
        save_file(named, folder / WEIGHTS, metadata={"format": "pt"})

    def load_weights(self, module: nn.Module, folder: Path) -> None:
        """Read into `module` what `save_weights` wrote. Raises CheckpointError when it is missing or does not fit."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        adapter: Adapted | None = module.adapter  # type: ignore[assignment]
        if adapter:
            adapter.load(folder)
            return
        path = folder / WEIGHTS
        if not path.is_file():
            pickle = list(folder.glob("*.bin"))
            found = f"; {pickle[0].name} is a pickle, which may run anybody's code, and is not read" if pickle else ""
            raise CheckpointError(f"{path} is missing{found}.")
        try:
            module.get_submodule("transformer").load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"{path} does not fit the encoder: {error}") from None
