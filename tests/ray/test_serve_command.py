"""What keeps a model from traffic, and how the command ends."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from heliostat import checkpoint
from heliostat.errors import ServeError
from heliostat.models import ModelStore
from heliostat.serve.client import Client, RefusedError
from heliostat.serve.deployment import serve

LINE = [{"text": "the bus is late again"}]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Path]:
    """A home with the tiny model in the store."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        version = ModelStore().add("mood", tiny_checkpoint, run_id="r", data_key="k", scores={})
        ModelStore().promote("mood", version.version, "champion")
        yield folder


def test_a_model_that_answers_otherwise_than_its_golden_requests_takes_no_traffic(home: Path, tmp_path: Path) -> None:
    source = ModelStore().resolve("mood").folder
    folder = tmp_path / "changed"
    shutil.copytree(source, folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    rows = [json.loads(line) for line in (folder / "golden.jsonl").read_text(encoding="utf-8").splitlines()]
    rows[1]["prediction"]["label"] = next(
        label for label in rows[1]["prediction"]["probabilities"] if label != rows[1]["prediction"]["label"]
    )
    (folder / "golden.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    checkpoint.seal(folder, {})
    with pytest.raises(ServeError, match="golden request 1") as refused:
        serve([str(folder)], port=0)
    assert "Traceback" not in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(ServeError, match="golden request 1"):  # the first left no Serve behind that would be in the way
        serve([str(folder)], port=0)


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 0, marks=pytest.mark.sweep), (signal.SIGTERM, 143)]
)
def test_the_command_ends_cleanly_and_leaves_no_process(home: Path, tmp_path: Path, number: int, code: int) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-for-this-test\n", encoding="utf-8")
    command = [sys.executable, "-m", "heliostat", "serve", "mood@champion", "--port", "0", "--token-file", str(token)]
    with (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True)
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C ends it" in line:
                break
        assert process.poll() is None, (tmp_path / "err").read_text(encoding="utf-8")
        url = next(word for line in said for word in line.split() if word.startswith("http://127.0.0.1:"))
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) > 3
        with Client(url, timeout=60) as client, pytest.raises(RefusedError) as refused:
            client.predict("mood", LINE)
        assert refused.value.status == 401
        with Client(url, "a-token-for-this-test", timeout=60) as client:
            assert len(client.predict("mood", LINE)) == 1
        process.send_signal(number)
        rest = process.stdout.read()
        process.stdout.close()
        assert process.wait(60) == code
    assert rest.strip() == "stopped."
    assert "a-token-for-this-test" not in "".join(said)
    deadline = time.monotonic() + 20
    while (left := [child for child in children if child.is_running()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
