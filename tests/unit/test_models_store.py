"""The model store: versions that never change, aliases that move at once, and errors that say what there is."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import heliostat
from heliostat import checkpoint
from heliostat.errors import CheckpointError, StoreError
from heliostat.models import ModelStore, ModelVersion
from heliostat.predict import Predictor

SCORES = {"macro_f1": (0.5, 0.4, 0.6), "accuracy": 0.75, "auc": float("nan")}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    return ModelStore()


def add(store: ModelStore, folder: Path, name: str = "mood", **more: object) -> ModelVersion:
    return store.add(name, folder, run_id="run-1", data_key="0123abcd", scores=SCORES, **more)  # type: ignore[arg-type]


def test_a_version_holds_all_that_predicting_needs(store: ModelStore, tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_checkpoint, tmp_path / "run" / "step-00000001"))
    version = add(store, source)
    shutil.rmtree(tmp_path / "run")
    assert Predictor.load(version.folder).check_golden().num_requests == 3
    assert not (version.folder / "state").exists()
    assert str(version) == "mood:1"


def test_metadata_says_where_a_version_came_from(store: ModelStore, tiny_checkpoint: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.html").write_text("<p>good</p>")
    add(store, tiny_checkpoint, parent="mood:0", report=report, baselines={"core.tfidf": {"macro_f1": (0.3, 0.2, 0.4)}})
    version = store.resolve("mood:1")
    facts = version.metadata
    assert (facts["run_id"], facts["data_key"], facts["parent"]) == ("run-1", "0123abcd", "mood:0")
    assert facts["created"].endswith("+00:00")
    assert facts["run"]["name"] == "mood"
    assert facts["num_parameters"] == sum(each.numel() for each in checkpoint.load(version.folder).model.parameters())
    assert facts["size_bytes"] > 4 * facts["num_parameters"]
    assert (version.scores["macro_f1"].low, version.scores["auc"].value) == (0.4, None)
    assert str(version.baselines["core.tfidf"]["macro_f1"]) == "0.300 [0.200, 0.400]"
    assert version.report is not None
    assert (version.report / "report.html").read_text() == "<p>good</p>"


def test_the_card_reads_as_a_model_card(store: ModelStore, tiny_checkpoint: Path) -> None:
    from huggingface_hub import ModelCard

    version = add(store, tiny_checkpoint, baselines={"core.tfidf": {"macro_f1": 0.3}})
    card = ModelCard.load(version.card)
    assert card.data.model_name == "mood"
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "macro_f1": 0.5,
        "accuracy": 0.75,
    }
    for part in (
        "## Intended use",
        "Made for tests.",
        "| probabilities | dict[str, float] |",
        "0.500 [0.400, 0.600] | 0.300",
        'heliostat.load("mood:1")',
        "undefined",
    ):
        assert part in card.text


def test_files_of_a_version_are_read_only(store: ModelStore, tiny_checkpoint: Path) -> None:
    folder = add(store, tiny_checkpoint).folder.parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"version.json", "README.md", "manifest.json", "model.safetensors"}
    assert not [path for path in files if path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)]


def test_versions_count_up_and_never_change(store: ModelStore, tiny_checkpoint: Path) -> None:
    first = add(store, tiny_checkpoint)
    before = {path: path.read_bytes() for path in first.folder.parent.rglob("*") if path.is_file()}
    assert add(store, tiny_checkpoint).version == 2
    store.promote("mood", 1, "champion")
    assert {path: path.read_bytes() for path in first.folder.parent.rglob("*") if path.is_file()} == before
    assert store.resolve("mood").version == 2


_ADD = """
import sys
from pathlib import Path
from heliostat.models import ModelStore
sys.stdin.readline()
store = ModelStore(Path(sys.argv[1]))
for _ in range(5):
    print(store.add("mood", Path(sys.argv[2]), run_id=sys.argv[3], data_key="k", scores={}).version, flush=True)
    store.promote("mood", 1, "from-" + sys.argv[3])
    store.promote("mood", 1, f"{sys.argv[3]}-{_}")
"""


def test_processes_that_add_at_once_get_versions_of_their_own(store: ModelStore, tiny_checkpoint: Path) -> None:
    add(store, tiny_checkpoint)
    command = [sys.executable, "-c", _ADD, str(store.root), str(tiny_checkpoint)]
    processes = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in ("one", "two", "three")
    ]
    for process in processes:  # all are up: let them go together
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=120)[0].split() for process in processes]
    numbers = [int(number) for each in printed for number in each]
    assert sorted(numbers) == list(range(2, 17))
    versions = store.list("mood")
    assert [version.version for version in versions] == list(range(1, 17))
    assert len(versions[0].aliases) == 3 * 6  # no process lost the alias of another
    for version in versions:
        checkpoint.verify(version.folder)


def test_aliases_move(store: ModelStore, tiny_checkpoint: Path) -> None:
    add(store, tiny_checkpoint)
    add(store, tiny_checkpoint)
    store.promote("mood", 1, "champion")
    store.promote("mood", 1, "canary")
    assert store.promote("mood", 2, "champion").aliases == ("champion",)
    assert store.resolve("mood@champion").version == 2
    assert store.resolve("mood@canary").version == 1
    assert heliostat.load("mood@champion").folder == store.resolve("mood:2").folder


@pytest.mark.parametrize("alias", ["", "../evil", "a/b", "UPPER", "-x", "x" * 65, "a\n", "\ud800", ".hidden", "a b"])
def test_an_alias_is_a_plain_name(store: ModelStore, tiny_checkpoint: Path, alias: str) -> None:
    add(store, tiny_checkpoint)
    with pytest.raises(StoreError, match="is no alias"):
        store.promote("mood", 1, alias)
    assert not (store.root / "mood" / "aliases.json").exists()


@pytest.mark.parametrize("name", ["", "..", "../mood", "a/b", "/etc", "Mood", "mood\n", "x" * 65])
def test_a_model_has_a_plain_name(store: ModelStore, tiny_checkpoint: Path, name: str) -> None:
    with pytest.raises(StoreError, match="is no model name"):
        add(store, tiny_checkpoint, name)
    with pytest.raises(StoreError):
        store.resolve(name)
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("mod", "Did you mean 'mood'?"),
        ("zzzz", "There are: mood"),
        ("mood:7", "There are: 1, 2"),
        ("mood@champoin", "Did you mean 'champion'?"),
        ("mood@zzzzz", "There are: champion"),
        ("mood:0", "no version number"),
        ("mood:x", "no version number"),
        ("mood:²", "no version number"),
        ("mood:1@champion", "Write"),
        ("mood@../../x", "is no alias"),
    ],
)
def test_what_cannot_be_resolved_says_what_there_is(
    store: ModelStore, tiny_checkpoint: Path, reference: str, sentence: str
) -> None:
    add(store, tiny_checkpoint)
    add(store, tiny_checkpoint)
    store.promote("mood", 2, "champion")
    with pytest.raises(StoreError, match=sentence.replace("?", r"\?")):
        store.resolve(reference)


def test_a_version_that_was_never_finished_is_not_there(store: ModelStore, tiny_checkpoint: Path) -> None:
    add(store, tiny_checkpoint)
    (store.root / "mood" / "versions" / "2" / "checkpoint").mkdir(parents=True)
    assert store.resolve("mood").version == 1
    with pytest.raises(StoreError, match="no version 2"):
        store.resolve("mood:2")
    assert add(store, tiny_checkpoint).version == 3


def test_a_damaged_checkpoint_is_not_stored(store: ModelStore, tiny_checkpoint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "damaged"))
    weights = copy / "head" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"head/model\.safetensors"):
        add(store, copy)
    assert store.list() == []
    assert list((store.root / "mood" / "versions").iterdir()) == []


def test_a_manifest_that_leads_out_of_its_folder_is_refused(
    store: ModelStore, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    copy = Path(shutil.copytree(tiny_checkpoint, tmp_path / "outward"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"]["../secret"] = checkpoint._fingerprint(secret)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="leads out"):
        add(store, copy)
    linked = Path(shutil.copytree(tiny_checkpoint, tmp_path / "linked"))
    (linked / "head" / "notes.json").symlink_to(secret)
    checkpoint.seal(linked, {})
    with pytest.raises(CheckpointError, match="leads out"):
        add(store, linked)


def test_a_change_in_the_store_is_noticed(store: ModelStore, tiny_checkpoint: Path, tmp_path: Path) -> None:
    version = add(store, Path(shutil.copytree(tiny_checkpoint, tmp_path / "run")))
    labels = version.folder / "head" / "labels.json"
    labels.chmod(0o644)
    labels.write_text(labels.read_text().replace("glad", "gald"))
    with pytest.raises(CheckpointError, match=r"labels\.json"):
        heliostat.load("mood:1")
    with pytest.raises(CheckpointError, match=r"labels\.json"):
        store.export("mood:1", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_needs_nothing_else(store: ModelStore, tiny_checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    add(store, tiny_checkpoint)
    out = store.export("mood", tmp_path / "out")
    shutil.rmtree(store.root)
    assert heliostat.load(out).check_golden().num_requests == 3
    encoder = AutoModel.from_pretrained(out / "encoder")
    ids = AutoTokenizer.from_pretrained(out / "encoder")("a lovely day", return_tensors="pt")
    assert encoder(**ids).last_hidden_state.shape[-1] == 32
    assert (out / "README.md").is_file()
    (out / "run.json").write_text("{}")  # a copy of one's own


def test_an_export_overwrites_nothing(store: ModelStore, tiny_checkpoint: Path, tmp_path: Path) -> None:
    add(store, tiny_checkpoint)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        store.export("mood", tmp_path / "out")
    with pytest.raises(StoreError, match="not empty"):
        store.export("mood", tmp_path / "out" / "mine.txt")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert store.export("mood", tmp_path / "empty") == tmp_path / "empty"


def test_importing_the_store_and_the_predictor_is_light() -> None:
    code = (
        "import sys, heliostat.models, heliostat.predict, heliostat.cli.models, heliostat.cli.predict;"
        "print([name for name in ('torch', 'ray', 'transformers', 'pandas', 'huggingface_hub') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
