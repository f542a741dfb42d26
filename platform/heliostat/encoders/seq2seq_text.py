"""The sequence-to-sequence text encoder: an encoder that reads and a decoder that writes, with one vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from heliostat.component import Row, no_effect
from heliostat.encoders.presets import PRESETS, Architecture, Preset, SpecialIds
from heliostat.encoders.pretrained import WEIGHTS, TextFiles, resolve
from heliostat.encoders.text import TextEncoder
from heliostat.encoders.tokenizer import CLS, PAD, SEP, SPECIAL, read_tokenizer, tokenizer_config, train_tokenizer
from heliostat.errors import CheckpointError, DataError, Problem, RunError
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
        """Settings of an encoder with a decoder: a `preset`, or a `pretrained` one, as core.denoising trains it."""

        target: Annotated[str, Field(min_length=1)] | None = None
        """The field of an example that the decoder learns to write. A preset learns its vocabulary from it, too."""
        decoder_layers: Annotated[int, Field(ge=1, le=48)] | None = None
        """Layers of the decoder; None takes as many as the encoder has. Of a preset."""
        long: Literal["cut", "refuse"] = "cut"
        """What becomes of a text of more than `max_tokens`: it is cut, or refused, as half a text is no translation."""

        @model_validator(mode="after")
        def _as_it_was_made(self) -> Self:
            if self.pretrained is not None:
                for key in ("target", "decoder_layers", "adapter"):
                    if getattr(self, key) is not None:
                        beside = "encoder.pretrained, whose vocabulary and layers are all learned on"
                        raise no_effect(key, beside, "take encoder.preset")
            return self

    gives: ClassVar[type[TokenFeatures]] = Seq2SeqFeatures
    architecture: ClassVar[Architecture] = staticmethod(mbart_config)

    def fit(self, examples: Iterable[Row]) -> None:
        """Learn a vocabulary from the train examples, or take over that of the pretrained model.

        Raises RunError when the pretrained model is none of this encoder, DataError when an example lacks a field.
        """
        if self.config.preset:
            super().fit(examples)
            return
        self._take(_files_of(self.config.pretrained, self.config.max_tokens, self.config.dropout))
        self._weights_follow = False

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
        """The encoder and the decoder, pretrained where the run says so, unless the weights of a checkpoint follow.

        Raises CheckpointError when the pretrained weights are missing or do not fit.
        """
        from heliostat.encoders.seq2seq_text_module import Seq2SeqTextModule

        module = Seq2SeqTextModule(self._fitted()[0].model_config, SPECIAL.index(CLS), SPECIAL.index(SEP))
        if self.config.pretrained and not self._weights_follow:
            self.load_weights(module, Path(resolve(self.config.pretrained)))
        return module

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


def _files_of(address: str, max_tokens: int, dropout: float | None) -> TextFiles:
    """What a model of this encoder is made of. Raises RunError for another model, or one of shorter texts."""
    try:
        files = TextFiles.read(Path(resolve(address)))
    except CheckpointError:
        files = TextFiles("", {}, {})
    config = files.model_config
    is_ours = config.get("model_type") == "mbart" and config.get("activation_function") == "relu"
    if not is_ours or list(map(read_tokenizer(files.tokenizer, max_tokens).token_to_id, SPECIAL)) != [*range(4)]:
        rule = (
            f"'{address}' is no model of core.seq2seq_text, and the decoder of another does not fit. Give the "
            "name@alias, the run id or the folder of one, as core.denoising trains it, or set encoder.preset."
        )
        raise RunError([Problem("encoder.pretrained", rule)])
    if max_tokens > config["max_position_embeddings"]:
        most = config["max_position_embeddings"]
        rule = f"is {max_tokens}, and '{address}' takes at most {most}. Set encoder.max_tokens={most} or less."
        raise RunError([Problem("encoder.max_tokens", rule)])
    files = files._replace(tokenizer_config={**files.tokenizer_config, "model_max_length": max_tokens})
    return files if dropout is None else files.with_dropout(dropout, None)
