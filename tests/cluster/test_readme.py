"""The commands of cluster/README.md: each is one that we have, and the first ten minutes run as they are written."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from heliostat.cli import _build
from heliostat.cli.submit import checked_order

README = Path(__file__).parents[2] / "cluster" / "README.md"
BLOCKS = re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def _command(line: str) -> list[str]:
    """The words of a line up to a pipe, without its comment."""
    words = shlex.split(line, comments=True)
    return words[: next((place for place, word in enumerate(words) if word in ("|", "&")), None)]


COMMANDS = [words for block in BLOCKS for line in block.splitlines() if (words := _command(line))]
SUBMITTED = [words for words in COMMANDS if words[:2] == ["heliostat", "submit"]]


@pytest.mark.parametrize("words", SUBMITTED, ids=" ".join)
def test_what_is_submitted_would_be_sent(words: list[str]) -> None:
    assert checked_order(words[words.index("--") + 1 :], data_there=False).words


def test_every_command_of_ours_is_one() -> None:
    told = [words[1:] for words in COMMANDS if words[0] == "heliostat"]
    assert len(told) > 8
    for words in told:
        typer.main.get_command(_build()).make_context("heliostat", words, resilient_parsing=True)
        verb = typer.main.get_command(_build()).commands[words[0]]  # type: ignore[attr-defined]
        rest = words[2:] if hasattr(verb, "commands") else words[1:]
        (verb.commands[words[1]] if hasattr(verb, "commands") else verb).make_context(words[0], list(rest))


@pytest.mark.sweep
@pytest.mark.timeout(400)
def test_the_first_ten_minutes_as_written(tmp_path: Path) -> None:
    """In a world of its own: its ports, its processes (`ray stop` ends those alone), its home."""
    apart = [
        "unshare",
        *([] if os.geteuid() == 0 else ["-r"]),
        "-p",
        "-m",
        "-n",
        "--fork",
        "--mount-proc",
        "--kill-child",
    ]
    ready = "ip link set lo up && mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray"
    if not shutil.which("ip") or subprocess.run([*apart, "sh", "-c", ready], capture_output=True).returncode:
        pytest.skip("this machine lets nobody have a network and processes of his own (unshare -pmn)")
    (start, use) = (block for block in BLOCKS if "ray start" in block or "ray stop" in block)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "HELIOSTAT_"))}
    env |= {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*apart, "bash", "-euc", f"{ready}\n{start}\n{use}"],
        env=env,
        cwd=README.parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "ddp on 2 x cpu" in done.stdout
    assert "sentiment-tiny@champion" in done.stdout
    assert "SUCCEEDED" in done.stdout
    assert '"polarity"' in done.stdout or "positive" in done.stdout
