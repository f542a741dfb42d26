"""Pretrained transformers: where they are, and how they come in without running anybody's code."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple

from heliostat.errors import CheckpointError, Problem, RunError
from heliostat.lineage import checkpoint_of

TOKENIZER, TOKENIZER_CONFIG, MODEL_CONFIG, WEIGHTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "config.json",
    "model.safetensors",
)

_DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("dropout", "attention_dropout", "embedding_dropout", "mlp_dropout"),
    *("resid_pdrop", "attn_pdrop", "embd_pdrop"),
)
"""What transformers' configurations call their dropouts."""


def compared_config(config: Any) -> dict[str, Any]:
    """What a transformer's configuration says of how it answers."""
    others = {*_DROPOUTS, "architectures", "dtype", "transformers_version", "use_cache"}
    return {key: value for key, value in config.to_dict().items() if key not in others and not key.startswith("_")}


class TextFiles(NamedTuple):
    """What is written beside the weights, so that AutoTokenizer and AutoModel read the folder."""

    tokenizer: str
    tokenizer_config: dict[str, Any]
    model_config: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write the three files into `folder`."""
        (folder / TOKENIZER).write_text(self.tokenizer, encoding="utf-8")
        for name, values in ((TOKENIZER_CONFIG, self.tokenizer_config), (MODEL_CONFIG, self.model_config)):
            (folder / name).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def with_dropout(self, rate: float, made: Mapping[str, Any] | None) -> TextFiles:
        """The same with other dropouts: those of `made`, a fresh configuration, or else `rate` for all there are."""
        changed = {name: made[name] if made else rate for name in _DROPOUTS if name in (made or self.model_config)}
        return self._replace(model_config={**self.model_config, **changed})

    @classmethod
    def read(cls, folder: Path) -> TextFiles:
        """Read what `write` wrote. Raises CheckpointError naming a file that is missing or damaged."""
        try:
            texts = [
                (folder / name).read_text(encoding="utf-8") for name in (TOKENIZER, TOKENIZER_CONFIG, MODEL_CONFIG)
            ]
            return cls(texts[0], json.loads(texts[1]), json.loads(texts[2]))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder}: the text encoder cannot be read: {error}") from None


def _problem(address: str, rule: str) -> RunError:
    return RunError([Problem("encoder.pretrained", f"'{address}' {rule}")])


def resolve(address: str) -> str:
    """The folder or hub name behind a model of ours, `package:<package>/<folder>`, a path or a hub name.

    Raises RunError when there is no such folder, or when its weights are a pickle.
    """
    checkpoint = checkpoint_of(address)
    if checkpoint is not None:
        folder = checkpoint / "encoder"
    elif address.startswith("package:"):
        package, _, inside = address.removeprefix("package:").partition("/")
        spec = util.find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise _problem(address, f"needs the package '{package}', which is not installed: pip install {package}.")
        folder = Path(next(iter(spec.submodule_search_locations))) / inside
    else:
        folder = Path(address).expanduser()
        looks_local = address.startswith((".", "/", "~")) or address.count("/") > 1
        if not folder.is_dir() and not looks_local:
            return address
    if not folder.is_dir():
        raise _problem(
            address,
            f"is no folder ({folder}). Give name@alias, a run id, a folder, package:<package>/<folder> or a hub name.",
        )
    if not list(folder.glob("*.safetensors")):
        there = "only a pickle, which may run anybody's code" if list(folder.glob("*.bin")) else "no weights"
        raise _problem(
            address, f"holds {there}; {WEIGHTS} is needed. Convert it with save_pretrained of transformers 5."
        )
    return str(folder)


def fetch_files(address: str, *, max_tokens: int, dropout: float | None) -> TextFiles:
    """The tokenizer and the configuration of a pretrained model, without its weights.

    Raises RunError for an address, a tokenizer or a model that cannot be used.
    """
    from transformers import MODEL_MAPPING, AutoConfig, AutoTokenizer

    source = resolve(address)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _problem(address, f"does not load: {reason}") from None
    if not tokenizer.is_fast:
        raise _problem(address, "has a tokenizer in Python only; one with a tokenizer.json is needed.")
    if type(config) not in MODEL_MAPPING:
        raise _problem(address, f"is a '{config.model_type}', which transformers has no plain model for.")
    _check(address, config, tokenizer, max_tokens)
    config.architectures = [MODEL_MAPPING[type(config)].__name__]
    if dropout is not None:
        known = [name for name in _DROPOUTS if hasattr(config, name)]
        if not known:
            raise RunError([Problem("encoder.dropout", f"has no effect: '{address}' has no dropout to set.")])
        for name in known:
            setattr(config, name, dropout)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        tokenizer_config = json.loads((Path(folder) / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    for key in ("max_length", "is_local", "local_files_only", "truncation_strategy", "stride", "name_or_path"):
        tokenizer_config.pop(key, None)
    tokenizer_config |= {"model_max_length": max_tokens, "split_special_tokens": True}
    return TextFiles(backend.to_str(), tokenizer_config, {**json.loads(config.to_json_string()), "dtype": "float32"})


def _check(address: str, config: Any, tokenizer: Any, max_tokens: int) -> None:
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "vocab_size"):
        raise _problem(address, f"is a '{config.model_type}' model, and a text encoder is needed (BERT, RoBERTa, ...).")
    if len(tokenizer) > config.vocab_size:
        raise _problem(address, f"has {len(tokenizer)} tokens for {config.vocab_size} rows of its embedding.")
    places = getattr(config, "max_position_embeddings", None)
    if places is not None:
        if config.model_type in _BEHIND_PADDING:
            places -= (config.pad_token_id or 0) + 1
        if max_tokens > places:
            rule = f"is {max_tokens}, and '{address}' takes at most {places}. Set encoder.max_tokens={places} or less."
            raise RunError([Problem("encoder.max_tokens", rule)])


_BEHIND_PADDING = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "roberta-prelayernorm",
    "data2vec-text",
    "xmod",
)
"""Models that number positions from behind the padding id, and so have that many fewer."""


def load_transformer(files: TextFiles, address: str | None) -> Any:
    """The transformer that `files` describe: with the weights at `address`, or fresh where there is none.

    Raises RunError when the weights cannot be had, are a pickle, or do not fit the configuration.
    """
    from transformers import AutoConfig, AutoModel

    from heliostat.encoders.attention import UNPADDED

    values = {
        key: value for key, value in files.model_config.items() if key not in {"model_type", "transformers_version"}
    }
    config = AutoConfig.for_model(files.model_config["model_type"], **values)
    config.use_cache = False
    if address is None:
        return AutoModel.from_config(config, attn_implementation=UNPADDED).float()
    try:
        model, report = AutoModel.from_pretrained(
            resolve(address),
            config=config,
            dtype="float32",
            attn_implementation=UNPADDED,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise _problem(address, f"does not load: {str(error).strip().splitlines()[0]}") from None
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise _problem(address, f"lacks {len(missing)} weights of a {type(model).__name__}, as {missing[0]}.")
    return model


def folder_fingerprint(address: str) -> str:
    """A hash of what decides the tokens of a pretrained folder; the name itself for a model of a hub."""
    source = Path(resolve(address))
    if not source.is_dir():
        return address
    files = [source / name for name in (TOKENIZER, TOKENIZER_CONFIG, MODEL_CONFIG) if (source / name).is_file()]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
