"""For every objective: a run that is killed goes on to the very weights of the run that was not.

`make test` kills the one process of a run without Ray, once an objective. `make faults` kills one of two workers of Ray
at three random steps, and the driver at a fourth.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from heliostat.run import load
from heliostat.train import launch

Ends = Callable[[subprocess.Popen[bytes]], None]

TEXT = {"type": "core.text", "preset": "tiny", "vocab_size": 330, "max_tokens": 48}
PAIRS, CHUNKS = {"give": "pairs"}, {"give": "chunks"}
OBJECTIVES = {
    "classification": ({"type": "core.classification"}, TEXT, None),
    "masked_lm_and_next_sentence": ({"type": "core.bert", "rate": 0.2}, {**TEXT, "fields": ["text", "next"]}, PAIRS),
    "causal_lm": ({"type": "core.causal_lm"}, {**TEXT, "type": "core.causal_text"}, CHUNKS),
    "sequence_to_sequence": ({"type": "core.denoising"}, {**TEXT, "type": "core.seq2seq_text"}, CHUNKS),
}
SLOW = ("masked_lm_and_next_sentence", "causal_lm", "sequence_to_sequence")
"""Which `make test` leaves to `make faults`."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 documents of eight sentences, as files and as rows with a label."""
    dice = random.Random(5)
    folder = tmp_path_factory.mktemp("corpus")
    things = {"sea": ["waves", "salt", "boats", "gulls", "sand"], "wood": ["pines", "moss", "deer", "roots", "owls"]}
    rows = ["text,label"]
    for number in range(60):
        label = [*things][number % 2]
        words = [[dice.choice(things[label]) for _ in range(4)] for _ in range(8)]
        sentences = [f"The {a} and the {b} follow the {c} and the {d}." for a, b, c, d in words]
        (folder / f"{number}.txt").write_text(" ".join(sentences))
        rows += [f"{sentence},{label}" for sentence in sentences]
    (folder / "rows.csv").write_text("\n".join(rows))
    return folder


def _file(objective: str, corpus: Path, folder: Path, *, epochs: int, num_workers: int = 1) -> str:
    """A run file of this objective: dropout, moving average and draws of each epoch take part."""
    head, encoder, documents = OBJECTIVES[objective]
    source = corpus / "*.txt" if documents else corpus / "rows.csv"
    adapter = {"type": "core.documents", "max_words": 20, **documents} if documents else {"type": "core.columns"}
    train = {"epochs": epochs, "lr": 3e-3, "tokens_per_batch": 500, "log_every": 1, "checkpoint_every": 4, "ema": 0.9}
    values = {
        "name": objective.replace("_", "-"),
        "data": {"adapter": adapter, "source": str(source), "split": {"valid": 0.2, "test": 0}},
        "encoder": encoder,
        "head": head,
        "train": {**train, "precision": "fp32"},
        "scaling": {"num_workers": num_workers},
    }
    path = folder / f"{objective}.yaml"
    path.write_text(json.dumps(values))  # YAML 1.2 holds JSON
    return str(path)


@pytest.mark.fault(
    "a training of one worker is killed, for each objective",
    seen="nothing: the command is gone. heliostat train --resume ID goes on",
    lost="steps since the last checkpoint are computed again; of the result nothing",
    proof="weights of the unbroken run, to the bit",
)
@pytest.mark.parametrize(
    "objective", [pytest.param(each, marks=[pytest.mark.sweep] if each in SLOW else []) for each in OBJECTIVES]
)
def test_a_killed_run_goes_on_to_the_same_bits(
    objective: str,
    corpus: Path,
    tmp_path: Path,
    dice: random.Random,
    runs_at: Callable[[Path], Any],
    ends: Ends,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = runs_at(tmp_path)
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    path = _file(objective, corpus, tmp_path, epochs=8)
    steps = launch.train(load(path), run_id="unbroken").steps
    step = dice.randint(5, steps // 2)
    print(f"{objective}: killed after step {step} of {steps}")
    driver = runs.start(path, "--run-id", "killed")
    ends(driver)
    runs.wait_for_step(driver, "killed", step)
    driver.kill()
    driver.wait()
    reached = runs.steps("killed")
    assert step <= reached < steps, "it died in the middle"
    assert launch.train(None, resume="killed").steps == steps
    assert runs.weights("killed") == runs.weights("unbroken")


@pytest.mark.fault(
    "workers are killed at three random steps and the command at a fourth, for each objective",
    seen="`warning…the workers started again from the last checkpoint.`",
    lost="steps since the last checkpoint are computed again; of the result nothing",
    proof="weights of the unbroken run, to the bit",
)
@pytest.mark.sweep
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_workers_of_ray_killed_at_three_random_steps_and_the_driver_at_a_fourth(
    objective: str,
    corpus: Path,
    tmp_path: Path,
    dice: random.Random,
    runs_at: Callable[[Path], Any],
    ends: Ends,
    is_seen: Callable[[str], None],
) -> None:
    runs = runs_at(tmp_path)
    path = _file(objective, corpus, tmp_path, epochs=30, num_workers=2)
    runs.run(path, "--run-id", "unbroken")
    steps = json.loads((runs.folder("unbroken") / "outcome.json").read_text())["step"]
    *kills, last = sorted(dice.sample(range(5, steps - 20), 4))
    print(f"{objective}: a worker killed after steps {kills}, the driver after {last}, of {steps}")
    driver = runs.start(path, "--run-id", "killed")
    ends(driver)
    for step in kills:
        runs.wait_for_step(driver, "killed", step)
        workers = runs.named(driver, "RayTrainWorker")
        assert len(workers) == 2
        dice.choice(workers).kill()
        psutil.wait_procs(workers, timeout=60)
        runs.wait_until(driver, lambda: len(runs.named(driver, "RayTrainWorker")) == 2, "two workers again")
    runs.wait_for_step(driver, "killed", last)
    is_seen(runs.log)
    driver.kill()
    driver.wait()
    assert runs.steps("killed") < steps, "it died in the middle"
    runs.run("--resume", "killed")
    assert runs.weights("killed") == runs.weights("unbroken")
