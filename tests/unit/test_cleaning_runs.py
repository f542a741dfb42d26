"""Cleaning as settings of a run: what it does to real reviews and planted rows, and that a request is cleaned alike."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from heliostat.cli.data import _settings_for, app
from heliostat.component import Row
from heliostat.data.key import data_key
from heliostat.data.labelled import read_labelled
from heliostat.data.prepare import prepare
from heliostat.data.prepared import SPLITS, Prepared
from heliostat.data.sources import open_source
from heliostat.errors import DataError, PredictError, RunError
from heliostat.evaluate import evaluate
from heliostat.heads.classification import Classification
from heliostat.predict import Predictor
from heliostat.predict.paraphrase import paraphrased, the_field, write_with_paraphrases, writer
from heliostat.run import Run, check, nested
from heliostat.train.loop import fit
from heliostat.train.worker import LocalWorker, set_threads

REVIEWS = Path(__file__).parents[2] / "plugins/sentiment/heliostat_sentiment/data/reviews.parquet"
CLEAN = {
    "normalise": ["html", "unicode", "space"],
    "redact": ["email", "phone", "iban", "card", "ssn"],
    "languages": ["en"],
    "duplicates": "near",
}
PLANTED = [
    "Lovely <b>soft</b> dress &amp; it fits, write to me at anna@example.org about the size",
    "My card 4111 1111 1111 1111 was charged twice and my account DE89 3704 0044 0532 0130 00 as well",
    "Call me on (415) 555-2671 or tell them my number 123-45-6789, terrible service I must say",
    "Das Kleid ist wirklich wunderschön und passt mir sehr gut, ich kaufe es bestimmt noch einmal.",
    "La robe est vraiment très belle, mais elle est un peu trop petite pour moi, quel dommage.",
]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 real reviews, the planted ones, and 30 of the real ones once more with another ending or case."""
    reviews = pd.read_parquet(REVIEWS).dropna(subset=["review"]).iloc[::50].head(400)
    rows = [
        {"review": text, "label": "good" if rating > 3 else "bad"}
        for text, rating in zip(reviews["review"], reviews["rating"], strict=True)
    ]
    long = [row for row in rows if len(row["review"]) > 300]
    rows += [{"review": row["review"].upper(), "label": row["label"]} for row in long[:15]]
    rows += [{"review": f"{row['review']} Yes!", "label": row["label"]} for row in long[15:30]]
    rows += [{"review": text, "label": "good"} for text in PLANTED]
    path = tmp_path_factory.mktemp("source") / "reviews.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def a_run(source: Path, train: dict[str, Any] | None = None, **data: Any) -> Run:
    return check(
        {
            "name": "reviews",
            "data": {
                "adapter": {"type": "core.columns", "text": "review", "label": "label"},
                "source": str(source),
                "split": {"valid": 0.2, "test": 0.2},
                **data,
            },
            "encoder": {"type": "core.text", "preset": "tiny", "vocab_size": 600, "max_tokens": 64},
            "head": "core.classification",
            "train": {"epochs": 1, "tokens_per_batch": 2048, **(train or {})},
            "evaluate": {"resamples": 20},
        }
    )


def texts(prepared: Prepared, split: Any) -> list[str]:
    return [example["text"] for example in prepared.examples(split)]


def told(prepared: Prepared) -> dict[str, Row]:
    return {each["step"]: each for each in prepared.cleaning()}


def test_planted_rows_are_cleaned_left_out_and_counted(source: Path) -> None:
    plain, clean = prepare(a_run(source)), prepare(a_run(source, clean=CLEAN))
    everything = "\n".join(text for split in SPLITS for text in texts(clean, split))
    for secret in ("anna@example.org", "4111", "DE89", "555-2671", "123-45-6789", "<b>", "&amp;", "Kleid", "La robe"):
        assert secret not in everything
    assert "[EMAIL]" in everything
    found = told(clean)
    assert found["html"]["examples"] >= 1
    for step in ("email", "phone", "iban", "card", "ssn"):
        assert (found[f"redact {step}"]["examples"], found[f"redact {step}"]["effect"]) == (1, "changed")
    assert found["other language"]["examples"] == 2
    gone = found["exact duplicates in train"]["examples"] + found["near duplicates in train"]["examples"]
    assert gone >= 20
    assert sum(plain.counts.values()) - sum(clean.counts.values()) == 2 + gone
    leaks = clean.leakage()
    assert all(leaks[pair]["exact"] == leaks[pair]["near"] == 0 for pair in ("test/train", "valid/train"))
    assert plain.leakage()["test/train"]["exact"] + plain.leakage()["test/train"]["near"] > 0
    assert plain.cleaning() == []


def test_cleaning_moves_no_example_to_another_split(source: Path) -> None:
    plain = prepare(a_run(source))
    clean = prepare(a_run(source, clean={**CLEAN, "languages": []}))
    for split in ("valid", "test"):
        assert plain.shards(split).ids.tolist() == clean.shards(split).ids.tolist()
    assert set(clean.shards("train").ids.tolist()) < set(plain.shards("train").ids.tolist())


def test_what_cleans_is_part_of_the_key_and_nothing_changes_without_it(source: Path) -> None:
    def key(**data: Any) -> str:
        run = a_run(source, **data)
        return data_key(run, open_source(run.data.source))

    keys = [
        key(),
        key(clean={"normalise": ["html"]}),
        key(clean={"normalise": ["html", "space"]}),
        key(clean={"redact": ["email"]}),
        key(clean={"duplicates": "exact"}),
        key(balance={"by": "over"}),
        key(balance={"by": "under"}),
    ]
    assert len(set(keys)) == len(keys)
    run = a_run(source, train={"augment": {"drop": 0.1}})
    assert data_key(run, open_source(run.data.source)) == keys[0]


@pytest.mark.parametrize(("by", "effect"), [("over", "added"), ("under", "left out")])
def test_only_train_is_balanced_and_every_copy_has_an_id(source: Path, by: str, effect: str) -> None:
    plain, even = prepare(a_run(source)), prepare(a_run(source, balance={"by": by}))
    counts = [sum(row["label"] == name for row in even.examples("train")) for name in ("good", "bad")]
    assert counts[0] == counts[1]
    [row] = even.cleaning()
    assert (row["effect"], row["examples"]) == (effect, abs(even.counts["train"] - plain.counts["train"]))
    assert len(set(even.shards("train").ids.tolist())) == even.counts["train"]
    assert [even.counts[split] for split in ("valid", "test")] == [plain.counts[split] for split in ("valid", "test")]


@pytest.mark.parametrize(
    ("data", "train", "sentence"),
    [
        ({"clean": {"normalize": ["html"]}}, {}, "Did you mean 'normalise'"),
        ({"clean": {"redact": ["mail"]}}, {}, "'email'"),
        ({"clean": {}}, {}, "changes nothing as it stands"),
        ({"clean": {"normalise": ["html"], "certainty": 0.9}}, {}, "name the languages"),
        ({"clean": {"normalise": ["html"], "fields": ["txt"]}}, {}, "Did you mean 'text'"),
        ({"clean": {"duplicates": "fuzzy"}}, {}, "near"),
        ({"balance": {}}, {}, "data.balance.by"),
        ({"balance": {"by": "over", "within": 0.5}}, {}, "greater than or equal to 1"),
        ({}, {"augment": {}}, "set drop or swap"),
        ({}, {"augment": {"drop": 1.5}}, "train.augment.drop"),
    ],
)
def test_a_setting_that_is_wrong_or_does_nothing_is_named(
    source: Path, data: dict[str, Any], train: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(RunError) as raised:
        a_run(source, train, **data)
    assert sentence in str(raised.value)


def test_a_head_that_learns_from_every_word_cannot_be_augmented(source: Path) -> None:
    values = a_run(source, {"augment": {"drop": 0.1}}).dump() | {"head": {"type": "core.masked_lm"}}
    with pytest.raises(RunError, match=r"train\.augment changes words, and MaskedLM learns from each of them"):
        check(values)


def test_data_check_and_the_report_say_what_was_touched(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(a_run(source, clean=CLEAN).dump()), encoding="utf-8")
    shown = CliRunner().invoke(app, ["check", str(path)])
    assert shown.exit_code == 0, shown.output
    for words in ("Cleaning", "redact email", "near duplicates in train", "other language", "left out", "changed"):
        assert words in shown.output
    assert "anna@example.org" not in shown.output


def test_a_request_is_cleaned_as_the_examples_were(source: Path, tmp_path: Path) -> None:
    set_threads(1)
    run = a_run(source, {"augment": {"drop": 0.1, "swap": 0.1}}, clean=CLEAN, balance={"by": "over", "within": 2.0})
    prepared = prepare(run)
    fit(run, prepared, LocalWorker(lambda: False), tmp_path / "run")
    [folder] = [path.parent for path in (tmp_path / "run" / "checkpoints").glob("*/manifest.json")]
    predictor = Predictor.load(folder)
    predictor.check_golden()
    dirty = "<p>Lovely   dress</p>, ask anna@example.org"
    clean = predictor.cleaned([{"text": dirty}])[0]["text"]
    assert clean == "Lovely dress\n, ask [EMAIL]"
    asked = [{"text": dirty}, {"text": clean}, {"text": "Lovely dress ask someone"}]
    first, second, other = (row["probabilities"]["good"] for row in predictor.predict(asked))
    assert first == second != other
    with pytest.raises(PredictError, match="nothing is left of it"):
        predictor.predict([{"text": "fine"}, {"text": "<br><br/>"}])
    report = evaluate(predictor, prepared, tmp_path / "report")
    assert "redact email" in report.html.read_text(encoding="utf-8")
    assert json.loads(report.json.read_text(encoding="utf-8"))["cleaning"] == prepared.cleaning()
    german = [{"text": row} for row in PLANTED[3:]]
    assert len(predictor.predict(german)) == 2  # filters are for training alone


def shout(texts: Sequence[str]) -> list[str | None]:
    """A writer that anybody can check: no text that names a card, others in capitals and with a word more."""
    return [None if "[CARD]" in text else f"{text} indeed".upper() for text in texts]


def test_train_examples_in_other_words_stand_in_train_alone(source: Path, tmp_path: Path) -> None:
    run = a_run(source, clean={"redact": ["card"]}, max_rejected=0.0)
    prepared, out = prepare(run), tmp_path / "more.jsonl"
    counts = write_with_paraphrases(prepared, "text", [shout, shout], out)
    assert counts["source"] == sum(prepared.counts.values())
    cards = sum("[CARD]" in text for text in texts(prepared, "train"))
    assert counts["paraphrase"] == prepared.counts["train"] - cards
    more = check(
        run.dump()
        | {
            "data": {
                "adapter": "core.columns",
                "source": str(out),
                "split": {"by": "column", "column": "split"},
            }
        }
    )
    again = prepare(more)
    assert again.counts == {**prepared.counts, "train": prepared.counts["train"] + counts["paraphrase"]}
    assert not any("INDEED" in text for split in ("valid", "test") for text in texts(again, split))


def test_a_file_of_other_words_is_there_when_it_is_whole(source: Path, tmp_path: Path) -> None:
    def broken(texts: Sequence[str]) -> list[str | None]:
        raise DataError("the model is gone")

    out = tmp_path / "more file.jsonl"
    out.write_text("of yesterday")
    with pytest.raises(DataError, match="the model is gone"):
        write_with_paraphrases(prepare(a_run(source)), "text", [broken], out)
    assert out.read_text() == "of yesterday"
    assert not list(tmp_path.glob(".more*"))
    assert nested(shlex.split(_settings_for(out)))["data"]["source"] == str(out)


def test_a_text_that_comes_back_the_same_is_no_other_words() -> None:
    rows = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}, {"text": "three", "label": "c"}]
    changes = {"one": "ONE ", "two": "zwei", "three": ""}
    found = paraphrased(rows, "text", [lambda texts: [changes[text] for text in texts]])
    assert list(found) == [{"text": "zwei", "label": "b"}]
    assert the_field(Classification, None) == "text"
    with pytest.raises(DataError, match="--field takes a text"):
        the_field(Classification, "label")


def test_a_model_that_writes_no_text_cannot_say_it_in_other_words(tiny_checkpoint: Path) -> None:
    with pytest.raises(DataError, match="does not read one text and write one"):
        writer(Predictor.load(tiny_checkpoint))


def test_a_labelled_file_is_cleaned_and_filtered_of_nothing(source: Path, tmp_path: Path) -> None:
    run = a_run(source, clean=CLEAN)
    prepared = prepare(run)
    parts = prepared.parts(run)
    path = tmp_path / "other.jsonl"
    path.write_text("".join(json.dumps({"review": text, "label": "good"}) + "\n" for text in PLANTED))
    found = read_labelled(run, str(path), parts.encoder, parts.head, prepared)
    assert len(found.rows) == len(PLANTED)
    assert "[CARD]" in found.rows[1]["text"]
    assert {each["step"]: each["examples"] for each in found.cleaning()}["redact card"] == 1
