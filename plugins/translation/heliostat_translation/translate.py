"""The head: `core.seq2seq` for one pair of languages, which prefers translations that lose no mark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import create_model

from heliostat.plugin import Demo, Field, Metric, Record, Row, Seq2Seq, Settings
from heliostat_translation.memory import Memory
from heliostat_translation.metrics import MarksKept
from heliostat_translation.page import TranslationDemo
from heliostat_translation.placeholders import lost

Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}(-[A-Za-z]{2,4})?$")]


class Sentence(Record):
    """A text in one language, to be put into another."""

    text: str = Field(min_length=1, max_length=2_000, pattern=r"\S", description="A sentence or a short paragraph.")
    source: str | None = Field(None, description="The language of the text; may be left out.")
    target: str | None = Field(None, description="The language that is asked for; may be left out.")


class Candidate(Record):
    """One of the translations that the search found."""

    answer: str = Field(description="The translation.")
    score: float = Field(description="Mean log probability of a token.")


class Known(Record):
    """A pair that the model was trained on."""

    text: str = Field(description="The text of the pair.")
    answer: str = Field(description="Its translation, by people.")
    similarity: float = Field(description="Of its words to those that were asked, 0 to 1.")


class Translation(Record):
    """A text in another language."""

    answer: str = Field(description="The translation.")
    score: float = Field(description="Mean log probability of a token of it.")
    beams: list[Candidate] = Field(description="The translations that the search found.")
    lost: list[str] = Field(description="Tags and variables of the text that the translation lacks or added.")
    nearest: Known | None = Field(description="The most similar text of the train split, where pairs are remembered.")


class Translate(Seq2Seq):
    """A text in one language in, the same in another one out."""

    class Config(Seq2Seq.Config):
        """Settings of the head."""

        source: Language = "en"
        """The language that is read."""
        target: Language = "de"
        """The language that is written."""
        remember: bool = True
        """Whether the train pairs are kept with the model, so that each answer names the nearest one."""

    takes: ClassVar[type[Record]] = Sentence
    gives: ClassVar[type[Record]] = Translation
    demo: ClassVar[type[Demo] | None] = TranslationDemo
    searched: ClassVar[Mapping[str, Any]] = {**Seq2Seq.searched, "encoder.dropout": "choice(0.0,0.1,0.2,0.3)"}
    samples: ClassVar[tuple[Row, ...]] = (
        {"text": "Click the button to open the window."},
        {"text": "Select the cells that you want to copy, and then choose Edit - Copy."},
        {"text": "The file %1 could not be saved to <b>%2</b>."},
        {"text": "Opens a dialog where you can choose a colour for the text."},
    )

    def __init__(self, config: Settings | None = None) -> None:
        super().__init__(config)
        self.memory = Memory([])
        # A request that names another pair than this model's is refused by its record: no answer in a wrong language.
        self.takes = _of_languages(self.config.source, self.config.target)  # type: ignore[misc]

    def fit(self, examples: Iterable[Row]) -> None:
        """Remember the train pairs, for the nearest one of an answer."""
        if self.config.remember:
            self.memory = Memory([(str(row["text"]), str(row["answer"])) for row in examples])

    def save(self, folder: Path) -> None:
        """Write what is remembered to `memory.json`."""
        self.memory.write(folder / "memory.json")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        self.memory = Memory.read(folder / "memory.json")

    def answer(self, text: str, beams: list[Row]) -> Row:
        """The best translation among those that lost the fewest marks, and the nearest pair of the train split."""
        ranked = sorted(beams, key=lambda beam: len(lost(text, beam["answer"])))
        return {
            **ranked[0],
            "beams": ranked,
            "lost": lost(text, ranked[0]["answer"]),
            "nearest": self.memory.nearest(text),
        }

    def metrics(self) -> dict[str, Metric]:
        """BLEU, chrF, and the share of the texts with marks whose translation has the same ones."""
        return {**super().metrics(), "marks_kept": MarksKept()}


def _of_languages(source: str, target: str) -> type[Record]:
    def told(language: str, what: str) -> Any:
        description = f"The language of the {what}, which is always '{language}' here; may be left out."
        return (Literal[language] | None, Field(None, description=description))

    return create_model("Sentence", __base__=Sentence, source=told(source, "text"), target=told(target, "answer"))
