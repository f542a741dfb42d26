"""Workers that Ray gets from the fork server: what they are, and what happens where none can be had."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import heliostat.forks
from heliostat.forks import ADDRESS, fork_server
from heliostat.ray_session import ray_session

ASK = Path(heliostat.forks.__file__).with_name("ask.py")
WORKER = """
import json, os, signal, sys
facts = {
    "words": sys.argv[1:], "first": sys.path[0], "folder": os.getcwd(), "group_is_own": os.getpgid(0) == os.getpid(),
    "asked": os.environ.get("ASKED"), "given": os.environ.get("GIVEN"), "threads": os.environ.get("OMP_NUM_THREADS"),
    "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "answers": str(signal.getsignal(signal.SIGCHLD)), "name": __name__, "input": sys.stdin.read(),
}
print(json.dumps({**facts, "pid": os.getpid(), "has_colorsys": "colorsys" in sys.modules}), flush=True)
"""


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """ask(variables, ...) does what a raylet does, and gives what the worker says of itself."""
    worker = tmp_path / "default_worker.py"
    worker.write_text(WORKER, encoding="utf-8")
    (tmp_path / "setup_worker.py").write_text(
        "import os, sys, json\n"
        "context, language = (word.split('=', 1)[1] for word in sys.argv[3:5])\n"
        "os.environ.update(json.loads(context)['env_vars'])\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:3]])\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("RAY_JOB_ID", "01000000")
    monkeypatch.setenv("RAY_RAYLET_PID", "1")

    def asked(variables: dict[str, str], **environment: str) -> dict[str, Any]:
        context = f"--serialized-runtime-env-context={json.dumps({'env_vars': variables})}"
        done = subprocess.run(
            [sys.executable, str(ASK), str(worker), "--a=b", context, "--language=PYTHON"],
            env={**os.environ, **environment},
            input=b"said",
            capture_output=True,
            cwd=tmp_path,
            timeout=60,
            process_group=0,
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}),
        )
        assert done.returncode == 0, done.stderr
        facts: dict[str, Any] = json.loads(done.stdout)
        return facts

    return asked


def test_a_fork_is_what_ray_would_have_started(ask: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with fork_server(tmp_path / "log", ["colorsys"], []) as is_forking:
        assert is_forking
        fork = ask({"GIVEN": "given"}, ASKED="asked", OMP_NUM_THREADS="3")
        second = ask({})
    plain = ask({"GIVEN": "given"}, ASKED="asked", OMP_NUM_THREADS="3")
    assert (fork.pop("has_colorsys"), plain.pop("has_colorsys")) == (True, False)
    assert len({fork.pop("pid"), plain.pop("pid"), second["pid"]}) == 3
    assert fork == plain
    assert (fork["given"], fork["asked"], fork["threads"], fork["input"]) == ("given", "asked", "3", "said")
    assert (second["given"], second["has_colorsys"]) == (None, True)
    assert (tmp_path / "log").read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("name", ["PYTHONPATH", "OMP_NUM_THREADS", "LD_LIBRARY_PATH"])
def test_what_a_process_reads_at_its_start_needs_a_process(
    ask: Callable[..., dict[str, Any]], tmp_path: Path, name: str
) -> None:
    with fork_server(tmp_path / "log", ["colorsys"], []):
        assert not ask({name: "2"})["has_colorsys"]


def test_no_fork_from_a_process_with_threads(ask: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading, time, colorsys\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        with fork_server(tmp_path / "log", [], ["threaded"]):
            assert not ask({})["has_colorsys"]


def test_no_forks_that_would_draw_the_same_names(ask: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "drawing.py").write_text("import colorsys, ray\nray.ObjectRef.from_random()\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        with fork_server(tmp_path / "log", [], ["drawing"]):
            assert not ask({})["has_colorsys"]
        with fork_server(tmp_path / "log", ["drawing"], []):
            assert not ask({})["has_colorsys"]
    assert (tmp_path / "log").read_text(encoding="utf-8").count("no forks of Ray's workers") == 2


def test_a_dead_server_is_missed_by_nobody(ask: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with fork_server(tmp_path / "log", ["colorsys"], []):
        assert ask({})["has_colorsys"]
        (server,) = _servers()
        (second,) = server.children()
        second.kill()
        second.wait()
        assert ask({})["has_colorsys"]
        server.kill()
        server.wait()
        assert not ask({})["has_colorsys"]
    assert ADDRESS not in os.environ


def test_forks_end_with_their_server(tmp_path: Path, ask: Callable[..., dict[str, Any]]) -> None:
    sleeper = tmp_path / "sleeps" / "default_worker.py"
    sleeper.parent.mkdir()
    sleeper.write_text("import time\ntime.sleep(600)\n", encoding="utf-8")
    with fork_server(tmp_path / "log", [], []):
        folder = Path(os.environ[ADDRESS]).parent
        assert folder.stat().st_mode & 0o077 == 0
        subprocess.run([sys.executable, str(ASK), str(sleeper)], check=True, timeout=60)
        (server,) = _servers()
        family = [server, *server.children(recursive=True)]
        assert len(family) == 3
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert not folder.exists()


@pytest.mark.parametrize(("name", "value"), [("RAY_ADDRESS", "127.0.0.1:1"), ("HELIOSTAT_FORKS", "0")])
def test_no_server_where_ray_is_elsewhere_or_somebody_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with fork_server(tmp_path / "log") as is_forking:
        assert not is_forking
        assert (_servers(), ADDRESS in os.environ) == ([], False)


def test_actors_and_tasks_of_a_session_are_forks(tmp_path: Path) -> None:
    with ray_session(tmp_path / "ray.log"):
        import ray

        class Facts:
            def facts(self) -> tuple[int, int, bool, tuple[str, float, float], str | None]:
                import random

                import numpy

                is_there = "torch" in sys.modules and "transformers" in sys.modules
                drawn = (ray.ObjectRef.from_random().hex(), random.random(), float(numpy.random.random()))
                return os.getpid(), os.getppid(), is_there, drawn, os.environ.get("GIVEN")

        Actor: Any = ray.remote(num_cpus=0)(Facts)
        plain = [Actor.remote() for _ in range(2)]
        given = Actor.options(runtime_env={"env_vars": {"GIVEN": "x"}}).remote()
        found = ray.get([actor.facts.remote() for actor in (*plain, given)])
        (server,) = _servers()
        family = server.children(recursive=True)
        assert {pid for pid, *_ in found} < {each.pid for each in family}
        assert len({parent for _, parent, *_ in found}) == 1
        assert all(is_there for _, _, is_there, *_ in found)
        assert [len(set(each)) for each in zip(*(drawn for *_, drawn, _ in found), strict=True)] == [3, 3, 3]
        assert [variable for *_, variable in found] == [None, None, "x"]
        os.kill(found[0][0], signal.SIGKILL)
        server.kill()
        server.wait()
        again = ray.get(Actor.remote().facts.remote())
        assert again[0] not in {pid for pid, *_ in found}
        family += psutil.Process().children(recursive=True)
    deadline = time.monotonic() + 30
    while (left := [each for each in family if each.is_running()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def _servers() -> list[psutil.Process]:
    """The fork servers of this process."""
    return [each for each in psutil.Process().children() if "heliostat.forks.server" in each.cmdline()]
