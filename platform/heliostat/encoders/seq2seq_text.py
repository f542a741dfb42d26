"""The sequence-to-sequence text encoder: a BERT that reads, and a decoder of the same size that writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from heliostat.encoders.text import TextEncoder
from heliostat.encoders.tokenizer import CLS, SEP, SPECIAL
from heliostat.errors import CheckpointError
from heliostat.features import FeatureSpec, Seq2SeqFeatures, TokenFeatures

if TYPE_CHECKING:
    from torch import Tensor, nn

_DECODER = "decoder."
_DECODER_WEIGHTS = "decoder.safetensors"


class Seq2SeqTextEncoder(TextEncoder):
    """A text -> one vector a token, with a decoder that reads them and writes tokens of the same vocabulary."""

    class Config(TextEncoder.Config):
        """Settings of an encoder with a decoder; it starts from nothing, by `preset`."""

        @model_validator(mode="after")
        def _from_nothing(self) -> Self:
            if self.pretrained is not None:
                rule = "pretrained encoders bring no decoder that fits here: set encoder.preset instead."
                raise PydanticCustomError("no_decoder", "{rule}", {"rule": rule})
            return self

    gives: ClassVar[type[TokenFeatures]] = Seq2SeqFeatures

    def spec(self) -> FeatureSpec:
        """Width of the states, and one vocabulary for both sides."""
        spec = super().spec()
        return replace(spec, target_vocabulary=spec.vocabulary)

    def module(self) -> nn.Module:
        """The encoder and the decoder."""
        from heliostat.encoders.pretrained import load_transformer
        from heliostat.encoders.seq2seq_text_module import Seq2SeqTextModule

        transformer = load_transformer(self._fitted()[0], None)
        start_id, end_id = SPECIAL.index(CLS), SPECIAL.index(SEP)
        return Seq2SeqTextModule(transformer, self.config.pooling, start_id, end_id)

    def save_weights(self, module: nn.Module, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """The encoder's weights as AutoModel names them, and the decoder's in a file beside them."""
        from safetensors.torch import save_file

        decoder = {name: tensor.contiguous() for name, tensor in weights.items() if name.startswith(_DECODER)}
        save_file(decoder, folder / _DECODER_WEIGHTS)
        super().save_weights(module, folder, {name: each for name, each in weights.items() if name not in decoder})

    def load_weights(self, module: nn.Module, folder: Path) -> None:
        """Read what `save_weights` wrote. Raises CheckpointError when it is missing or does not fit."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        super().load_weights(module, folder)
        try:
            decoder = load_file(folder / _DECODER_WEIGHTS)
            module.get_submodule("decoder").load_state_dict(
                {name.removeprefix(_DECODER): tensor for name, tensor in decoder.items()}
            )
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"{folder / _DECODER_WEIGHTS} does not fit the decoder: {error}") from None
