"""Text -> token ids and back: train a vocabulary, read one, and say which tokens start a word."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from heliostat.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

PAD, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")

_MIN_FREQUENCY = 2
"""A pair of tokens that was seen once is noise."""


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, lower_case: bool, form: Literal["NFC", "NFKC"] = "NFKC"
) -> Tokenizer:
    """A byte-level BPE vocabulary (Sennrich et al. 2016) of at most `vocab_size` tokens; no text is unknown to it.

    `form` is the Unicode form that texts are read in: NFKC where widths and ligatures say nothing, NFC where a text is
    to be written as it was. The same texts give the same vocabulary, which WordPiece training does not promise. Raises
    DataError without texts.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    steps = [
        normalizers.NFC() if form == "NFC" else normalizers.NFKC(),
        *([normalizers.Lowercase()] if lower_case else []),
    ]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=_MIN_FREQUENCY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    seen = 0

    def counted() -> Iterable[str]:
        nonlocal seen
        for text in texts:
            seen += 1
            yield text

    tokenizer.train_from_iterator(counted(), trainer=trainer)
    if not seen:
        raise DataError("the train split has no example to learn a vocabulary from.")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (CLS, SEP)],
    )
    return tokenizer


def tokenizer_config(max_tokens: int) -> dict[str, Any]:
    """The `tokenizer_config.json` by which AutoTokenizer reads a vocabulary of `train_tokenizer`."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_tokens,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        "pad_token": PAD,
        "cls_token": CLS,
        "sep_token": SEP,
        "mask_token": MASK,
    }


def read_tokenizer(text: str, max_tokens: int) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`: it cuts at `max_tokens`, pads nothing, takes `[SEP]` in a text as text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_texts(
    tokenizer: Tokenizer, texts: Sequence[str | tuple[str, ...]], blank: Blank | None = None
) -> list[Encoding]:
    """One encoding a text or pair, in order. Raises DataError for a text that is no Unicode."""
    try:
        encodings = list(tokenizer.encode_batch_fast(list(texts)))
        for place, text in enumerate(texts) if blank else ():
            parts = (text,) if isinstance(text, str) else text
            if blank and any(blank.written in part for part in parts):
                filled = [_with_blanks(tokenizer, part, blank) for part in parts]
                encodings[place] = tokenizer.post_process(filled[0], filled[1] if len(filled) > 1 else None)
        return encodings
    except (TypeError, UnicodeEncodeError):
        for place, text in enumerate(texts):
            for part in (text,) if isinstance(text, str) else text:
                try:
                    part.encode("utf-8")
                except UnicodeEncodeError:
                    raise DataError(f"text {place} of these holds half a character (a lone surrogate).") from None
        raise


class Blank(NamedTuple):
    """What is written in a text where a token is left out, and the mask token that then stands there."""

    written: str
    mask: str


def _with_blanks(tokenizer: Tokenizer, text: str, blank: Blank) -> Encoding:
    """The tokens of a text without special ones, and the mask for each blank."""
    from tokenizers import Encoding

    tokenizer.encode_special_tokens = False
    try:
        mask = tokenizer.encode(blank.mask, add_special_tokens=False)
    finally:
        tokenizer.encode_special_tokens = True
    parts: list[Encoding] = []
    for place, part in enumerate(text.split(blank.written)):
        parts += [mask] if place else []
        parts += [tokenizer.encode(part, add_special_tokens=False)] if part.strip() else []
    return Encoding.merge(parts, True)


def second_start(encoding: Encoding) -> int:
    """Where the second text of an encoded pair begins; behind the last token when nothing is left of it."""
    for told in (encoding.type_ids, encoding.sequence_ids):  # the first where the model tells its texts apart
        if 1 in told:
            return int(told.index(1))
    return len(encoding.ids)


class TextVocabulary:
    """What a head may know of a tokenizer's tokens."""

    def __init__(self, tokenizer: Tokenizer, size: int, mask: str | None) -> None:
        self.size = size
        self.mask_id: int | None = None if mask is None else tokenizer.token_to_id(mask)
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids: tuple[int, ...] = tuple(sorted(place for place, token in added.items() if token.special))
        self._tokenizer = tokenizer

    def ids(self, text: str) -> list[int]:
        """The ids of a text, without special ones."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, ids: Sequence[int]) -> str:
        """The text that these ids stand for, special ids left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def halves(self) -> list[tuple[int, int]]:
        """For each id, the two that it was merged from, or itself and -1: [size]."""
        model = json.loads(self._tokenizer.to_str())["model"]
        numbers, found = self._tokenizer.get_vocab(), [(place, -1) for place in range(self.size)]
        for merge in model.get("merges", ()):
            first, second = merge.split(" ") if isinstance(merge, str) else merge
            found[numbers[first + second]] = (numbers[first], numbers[second])
        return found

    def starts_word(self) -> list[bool]:
        """For each id, whether it starts a word: [size]. A special id does; an id that stands for nothing does not."""
        starts = _word_start(json.loads(self._tokenizer.to_str()))
        special = set(self.special_ids)
        tokens = (self._tokenizer.id_to_token(place) for place in range(self.size))
        return [bool(token) and (place in special or starts(token)) for place, token in enumerate(tokens)]


def _word_start(description: dict[str, Any]) -> Any:
    """How the tokens of this tokenizer show that they start a word."""
    if description["model"]["type"] == "WordPiece":
        prefix = description["model"]["continuing_subword_prefix"]
        return lambda token: not token.startswith(prefix)
    around = json.dumps([description["pre_tokenizer"], description["decoder"]])
    if '"Metaspace"' in around:
        return lambda token: token.startswith("▁")
    if '"ByteLevel"' in around:  # "Ġ" is its space; what is neither letter nor digit was cut from the word before it
        return lambda token: token.startswith("Ġ") or not token[0].isalnum()
    return lambda token: True
