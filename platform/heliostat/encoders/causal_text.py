"""The causal text encoder: a transformers decoder whose tokens see nothing but those before them in the same text."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from heliostat.encoders.presets import Architecture, llama_config
from heliostat.encoders.text import TextEncoder
from heliostat.features import CausalFeatures, TokenFeatures

if TYPE_CHECKING:
    from torch import nn


class CausalTextEncoder(TextEncoder):
    """A text -> one vector a token, made of it and those before it in the same text."""

    class Config(TextEncoder.Config):
        """Settings of a causal encoder: a `preset` is a Llama, a `pretrained` model GPT-2, Llama or another decoder."""

        pooling: Literal["mean", "first", "last"] = "last"
        """The vector of an example: its last token, which has seen all others, their mean, or its first."""

    gives: ClassVar[type[TokenFeatures]] = CausalFeatures
    architecture: ClassVar[Architecture] = staticmethod(llama_config)

    def module(self) -> nn.Module:
        """A TextModule. Raises HeliostatError for a model that looks ahead, and as TextEncoder.module does."""
        from heliostat.encoders.text_module import TextModule, prove_causal

        module = super().module()
        assert isinstance(module, TextModule)
        prove_causal(module)
        return module
