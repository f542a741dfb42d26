"""The model card of a version: Markdown with the front matter of the Hugging Face hub (ModelCardData)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from heliostat.models.chain import told
from heliostat.models.version import ModelVersion, Scores
from heliostat.plugin import Record
from heliostat.run import Run, build, check

_CARD = """\
---
{front}
---
# {name} {version}

{summary}

{notice}## Intended use

One record in, one record out.

{takes}

It answers with:

{gives}

Texts or records unlike those it was trained on are outside its intended use.

## Training data

{data}

## Scores

{scores}

## How to load it

```python
import heliostat

heliostat.load("{name}:{version}").predict([{example}])
```

From the shell: `heliostat predict {name}:{version} ...` and `heliostat serve {name}:{version}`.
{transformers}
## Where it comes from

{origin}
"""

_TRANSFORMERS = """\
The encoder alone, in an exported folder (`heliostat models export {reference} out`), loads with plain transformers:

```python
from transformers import AutoModel

AutoModel.from_pretrained("out/encoder")
```
"""


def write_card(version: ModelVersion) -> None:
    """Write `README.md` beside the checkpoint. The checkpoint and the metadata must be complete."""
    run = check(version.metadata["run"], source=f"{version.folder / 'run.json'}")
    version.card.write_text(_card(version, run), encoding="utf-8")


def _card(version: ModelVersion, run: Run) -> str:
    head = build(run).head
    is_transformer = (version.folder / "encoder" / "config.json").is_file()
    sample = dict(head.samples[0]) if head.samples else dict.fromkeys(head.takes.model_fields, "...")
    return _CARD.format(
        front=_front_matter(version, run, is_transformer),
        name=version.name,
        version=version.version,
        summary=_first_sentence(type(head).__doc__) or f"A model for {run.head.type}.",
        notice=f"> **{head.notice}**\n\n" if head.notice else "",
        takes=_fields(head.takes),
        gives=_fields(head.gives),
        data=_data(version.metadata, run),
        scores=_scores(version),
        example=repr(sample),
        transformers=f"\n{_TRANSFORMERS.format(reference=version)}" if is_transformer else "",
        origin=_origin(version.metadata, run),
    )


def _front_matter(version: ModelVersion, run: Run, is_transformer: bool) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    dataset = Path(run.data.source).name or run.data.source
    results = [
        EvalResult(
            task_type=run.head.type,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split="valid" if metric.startswith("valid/") else "test",
            metric_type=metric,
            metric_value=score.value,
        )
        for metric, score in version.scores.items()
        if score.value is not None
    ]
    card = ModelCardData(
        model_name=version.name,
        library_name="transformers" if is_transformer else "heliostat",
        tags=["heliostat", run.head.type, run.encoder.type],
        eval_results=results or None,
    )
    return str(card.to_yaml())


def _first_sentence(docstring: str | None) -> str:
    return (docstring or "").strip().split("\n\n")[0].replace("\n", " ").strip()


def _fields(record: type[Record]) -> str:
    rows = [
        (name, _type_name(field.annotation), field.description or "") for name, field in record.model_fields.items()
    ]
    return _table(("field", "type", "meaning"), rows)


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if type(annotation) is type else str(annotation).replace("typing.", "")


def _data(metadata: dict[str, Any], run: Run) -> str:
    split = ", ".join(
        f"{key} {value}" for key, value in run.data.split.model_dump(mode="json").items() if value is not None
    )
    lines = [
        f"- source: `{run.data.source}`",
        f"- adapter: `{run.data.adapter.type}`",
        f"- split: {split}",
        f"- prepared data: `{metadata['data_key']}`",
    ]
    return "\n".join(lines if run.data.limit is None else [*lines, f"- limited to {run.data.limit} examples"])


def _scores(version: ModelVersion) -> str:
    baselines = version.baselines
    if not version.scores:
        return "None were stored."
    rows = [
        (metric, str(score), *(_baseline(each, metric) for each in baselines.values()))
        for metric, score in version.scores.items()
    ]
    table = _table(("score", "this model", *(f"baseline {address}" for address in baselines)), rows)
    if all(name.startswith("valid/") for name in version.scores):
        return f"{table}\n\nOf the valid split, which the checkpoint was chosen on: there is no test split."
    how = "In brackets: the 95 % bootstrap interval. Baselines are fitted on what it learned from."
    return f"{table}\n\nOf the test split. {how}"


def _baseline(scores: Scores, metric: str) -> str:
    return str(scores[metric]) if metric in scores else ""


def _origin(metadata: dict[str, Any], run: Run) -> str:
    lines = [
        f"- run: `{metadata['run_id']}` (its settings: `run.json`)",
        f"- encoder: `{run.encoder.type}`, head: `{run.head.type}`",
        f"- parameters: {metadata['num_parameters']:,}",
        f"- made: {metadata['created']} with heliostat {metadata['heliostat']}",
    ]
    if metadata["parent"]:
        lines += [f"- parent: `{metadata['parent']}`", "", "```", *told(metadata["lineage"]), "```"]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
