"""The sequence-to-sequence text encoder: an encoder that reads and a decoder that writes, with one vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from heliostat.component import Row
from heliostat.encoders.presets import PRESETS, Architecture, Preset, SpecialIds
from heliostat.encoders.pretrained import WEIGHTS, TextFiles
from heliostat.encoders.text import TextEncoder
from heliostat.encoders.tokenizer import CLS, PAD, SEP, SPECIAL, tokenizer_config, train_tokenizer
from heliostat.errors import CheckpointError, DataError
from heliostat.features import FeatureSpec, Seq2SeqFeatures, TokenFeatures
from heliostat.plugin import Encoded

if TYPE_CHECKING:
    from torch import Tensor, nn

_PREFIX = "transformer."
_ON_DISK = "model."
"""What transformers' MBartForConditionalGeneration calls the same."""


def mbart_config(
    preset: Preset, *, vocab_size: int, special_ids: SpecialIds, max_tokens: int, dropout: float | None
) -> dict[str, Any]:
    """An mBART (Liu et al. 2020): norms first, one table for both sides; ReLU, which costs a CPU least."""
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("layers", preset.layers), ("attention_heads", preset.heads), ("ffn_dim", preset.inner))
    }
    return {
        "architectures": ["MBartForConditionalGeneration"],
        "model_type": "mbart",
        "is_encoder_decoder": True,
        "vocab_size": vocab_size,
        "d_model": preset.dim,
        **sides,
        "activation_function": "relu",
        "dropout": 0.1 if dropout is None else dropout,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "scale_embedding": True,
        "max_position_embeddings": max_tokens,
        "tie_word_embeddings": True,
        "pad_token_id": special_ids.pad,
        "bos_token_id": special_ids.begin,
        "decoder_start_token_id": special_ids.begin,
        "eos_token_id": special_ids.end,
        "forced_eos_token_id": None,
        "dtype": "float32",
    }


class Seq2SeqTextEncoder(TextEncoder):
    """A text -> one vector a token, with a decoder that reads them and writes tokens of the same vocabulary."""

    class Config(TextEncoder.Config):
        """Settings of an encoder with a decoder; it starts from nothing, by `preset`."""

        target: Annotated[str, Field(min_length=1)] | None = None
        """The field of an example that the decoder learns to write; the vocabulary is learned from it, too."""
        decoder_layers: Annotated[int, Field(ge=1, le=48)] | None = None
        """Layers of the decoder; None takes as many as the encoder has."""
        long: Literal["cut", "refuse"] = "cut"
        """What becomes of a text of more than `max_tokens`: it is cut, or refused, as half a text is no translation."""

        @model_validator(mode="after")
        def _from_nothing(self) -> Self:
            if self.pretrained is not None:
                rule = "pretrained encoders bring no decoder that fits here: set encoder.preset instead."
                raise PydanticCustomError("no_decoder", "{rule}", {"rule": rule})
            return self

    gives: ClassVar[type[TokenFeatures]] = Seq2SeqFeatures
    architecture: ClassVar[Architecture] = staticmethod(mbart_config)

    def _learn(self, examples: Iterable[Row]) -> TextFiles:
        settings = self.config
        preset = PRESETS[settings.preset]
        fields = (*settings.fields, *([settings.target] if settings.target else []))
        texts = (part for example in examples for part in self._texts(example, fields))
        size = settings.vocab_size or preset.vocab_size
        tokenizer = train_tokenizer(texts, size, lower_case=settings.lower_case is True, form="NFC")
        config = self.architecture(
            preset,
            vocab_size=tokenizer.get_vocab_size(),
            special_ids=SpecialIds(*(SPECIAL.index(name) for name in (PAD, CLS, SEP))),
            max_tokens=settings.max_tokens,
            dropout=settings.dropout,
        )
        config["decoder_layers"] = settings.decoder_layers or preset.layers
        return TextFiles(tokenizer.to_str(), tokenizer_config(settings.max_tokens), config)

    def encode(self, examples: Sequence[Row]) -> list[Encoded]:
        """`input_ids` of each example, special tokens included. Raises DataError for one without text, or too long."""
        before = self.truncated
        rows = super().encode(examples)
        if self.config.long == "refuse" and self.truncated > before:
            raise DataError(f"a text has more than {self.config.max_tokens} tokens: shorten it, or send its sentences.")
        return rows

    def spec(self) -> FeatureSpec:
        """Width of the states, and one vocabulary for both sides."""
        spec = super().spec()
        return replace(spec, target_vocabulary=spec.vocabulary)

    def module(self) -> nn.Module:
        """The encoder and the decoder."""
        from heliostat.encoders.seq2seq_text_module import Seq2SeqTextModule

        return Seq2SeqTextModule(self._fitted()[0].model_config, SPECIAL.index(CLS), SPECIAL.index(SEP))

    def save_weights(self, module: nn.Module, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write `weights` to `folder/model.safetensors`, named as transformers names them."""
        from safetensors.torch import save_file

        named = {_ON_DISK + name.removeprefix(_PREFIX): tensor.contiguous() for name, tensor in weights.items()}
        save_file(named, folder / WEIGHTS, metadata={"format": "pt"})

    def load_weights(self, module: nn.Module, folder: Path) -> None:
        """Read what `save_weights` wrote. Raises CheckpointError when it is missing or does not fit."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            weights = load_file(folder / WEIGHTS)
            named = {name.removeprefix(_ON_DISK): tensor for name, tensor in weights.items()}
            module.get_submodule("transformer").load_state_dict(named)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"{folder / WEIGHTS} does not fit the model: {error}") from None
