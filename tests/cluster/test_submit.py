"""Jobs on a real Ray of two nodes: what travels, what is seen, how they end, and what they leave alone."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest


def test_a_training_runs_on_two_nodes_and_is_seen_to_go_on(two_nodes: Any) -> None:
    words = ["train", "sentiment/tiny", "head.type=witness.polarity", "scaling.num_workers=2", "--run-id", "two"]
    process = subprocess.Popen(
        two_nodes.command("submit", "--", *words), env=two_nodes.client, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("training "):
            assert process.poll() is None  # it came while the job ran
    assert process.wait(120) == 0, "".join(lines)
    told = "".join(lines)
    assert "starting the workers" in told
    assert " step " in told
    assert "ddp on 2 x cpu" in told
    assert "stored    sentiment-tiny:1, now sentiment-tiny@champion" in told
    assert (two_nodes.home / "models" / "sentiment-tiny" / "versions" / "1" / "checkpoint" / "manifest.json").is_file()
    found = [json.loads((two_nodes.home / f"witness-{rank}.json").read_text()) for rank in (0, 1)]
    places = [each["nodes"][each["node"]] for each in found]
    assert sorted(places) == ["127.0.0.2", "127.0.0.3"]  # one worker a node
    assert [each["master"] for each in found] == [places[0], places[0]]  # the others meet at rank 0's node
    for each in found:  # both travelled: neither is what is installed on the nodes
        assert "working_dir_files" in each["platform"]
        assert "working_dir_files" in each["plugin"]
        assert not each["forked"]


def test_a_command_that_fails_hands_on_its_exit_code(two_nodes: Any) -> None:
    done = two_nodes.heliostat("submit", "--", "evaluate", "nosuch@champion")
    assert done.returncode == 2, done.stderr
    assert "nosuch" in done.stdout
    assert "FAILED with exit code 2" in done.stderr
    job = done.stdout.partition("submitted ")[2].split()[0]
    told = two_nodes.heliostat("jobs", "status", job)
    assert f"{job}  FAILED with exit code 2" in told.stdout
    assert "heliostat evaluate nosuch@champion" in told.stdout


def test_a_wrong_token_is_told_in_one_sentence(two_nodes: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text("another-token")
    wrong.chmod(0o644)
    done = two_nodes.heliostat("submit", "--token-file", str(wrong), "--", "train", "sentiment/tiny")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error the cluster at {two_nodes.url} refused the token of {wrong} (403). ")
    assert done.stderr.count("\n") == 1
    assert wrong.stat().st_mode & 0o777 == 0o600
    missing = two_nodes.heliostat("jobs", "list", "--token-file", str(tmp_path / "none"))
    assert missing.returncode == 2
    assert "asks for a token, and none can be read" in missing.stderr


@pytest.fixture
def long_run(tmp_path: Path) -> Path:
    """A run file and its data on the user's machine alone; it would train for ever."""
    with (tmp_path / "moods.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([f"{'good' if number % 2 else 'bad'} {number}", "ab"[number % 2]] for number in range(60))
    (tmp_path / "long.yaml").write_text(
        f"name: long\ndata: {{adapter: core.columns, source: {tmp_path / 'moods.csv'}}}\n"
        "encoder: {type: core.text, preset: tiny, vocab_size: 300}\nhead: {type: core.classification}\n"
        "train: {epochs: 2000, tokens_per_batch: 16, log_every: 1}\nscaling: {num_workers: 1}\n"
    )
    return tmp_path / "long.yaml"


@pytest.mark.sweep
def test_ctrl_c_leaves_the_job_alone_and_stop_ends_it(two_nodes: Any, long_run: Path) -> None:
    words = ["train", str(long_run), "--run-id", "long", "--no-evaluate"]
    process = subprocess.Popen(
        two_nodes.command("submit", "--", *words),
        env=two_nodes.client,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # whoever runs the tests may ignore it
    )
    assert process.stdout is not None
    seen = [next(process.stdout)]
    job = seen[0].split()[1]
    while not seen[-1].startswith("training "):
        seen.append(next(process.stdout))
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"The job goes on. See it again: heliostat jobs logs {job} --follow --address {two_nodes.url}" in said
    assert "RUNNING" in two_nodes.heliostat("jobs", "status", job).stdout
    stopped = two_nodes.heliostat("jobs", "stop", job)
    assert stopped.returncode == 0, stopped.stderr
    assert f"{job} has ended: STOPPED" in stopped.stdout
    told = two_nodes.heliostat("jobs", "logs", job).stdout
    assert "Continue with: heliostat train --resume long" in told
    assert list((two_nodes.home / "runs" / "long" / "checkpoints").glob("step-*/manifest.json"))
    assert (two_nodes.home / "jobs" / job / "data" / "moods.csv").is_file()
    assert two_nodes.heliostat("jobs", "logs", job, "--follow").returncode == 143
    assert [line.split()[:2] for line in two_nodes.heliostat("jobs", "list").stdout.splitlines()][1] == [job, "STOPPED"]


def test_a_node_that_does_not_share_the_home_is_refused_at_once(two_nodes: Any) -> None:
    apart = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    if subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody have file systems of his own (unshare -m)")
    words = ["train", "sentiment/tiny", "scaling.num_workers=2", "--run-id", "torn"]
    with two_nodes.third(apart) as told:
        done = two_nodes.heliostat("submit", "--", *words)
    assert done.returncode == 2, done.stdout
    assert f"{told['node']} does not share {two_nodes.home} with this node" in done.stdout
    assert "Set HELIOSTAT_HOME on every node" in done.stdout
    assert "preparing" not in done.stdout
    assert not list((two_nodes.home / "runs" / "torn").glob(".probe*"))
