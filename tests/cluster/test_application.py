"""The application that a Serve config file names is built from plain values, and refuses what it does not know."""

from __future__ import annotations

from pathlib import Path

import pytest

from heliostat.errors import HeliostatError, ServeError, StoreError
from heliostat.serve.application import application
from heliostat.serve.keys import new_key


def test_a_checkpoint_becomes_an_application(tiny_checkpoint: Path) -> None:
    from heliostat.serve.replica import ReplicaPlan

    bound = application({"model": str(tiny_checkpoint), "threads": 1})._bound_deployment
    assert bound.name == "Replica"
    [plan] = bound.init_args
    assert isinstance(plan, ReplicaPlan)
    assert (plan.served.name, plan.folder, plan.threads) == ("mood", str(tiny_checkpoint), 1)
    assert plan.access.token_hash is None


def test_the_token_is_read_from_its_file_and_kept_as_a_hash(tiny_checkpoint: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret-of-thirty-two-characters-00")
    token.chmod(0o600)
    [plan] = application({"model": str(tiny_checkpoint), "token_file": str(token)})._bound_deployment.init_args
    assert plan.access.token_hash
    assert "s3cret" not in repr(plan)


def test_keys_are_read_where_they_lie_and_a_file_that_is_none_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    key = new_key(keys, "web")
    given = {"model": str(tiny_checkpoint), "keys_file": str(keys), "per_minute": 60}
    [plan] = application(given)._bound_deployment.init_args
    assert (plan.access.keys_file, plan.access.per_minute) == (str(keys), 60)
    assert key not in repr(plan)
    with pytest.raises(HeliostatError, match="nothing-here"):
        application({**given, "keys_file": str(tmp_path / "nothing-here.json")})
    with pytest.raises(ServeError, match="exclude each other"):
        application({**given, "token_file": str(keys)})


def test_what_it_does_not_know_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    with pytest.raises(ServeError, match="thread: no such setting"):
        application({"model": "mood@champion", "thread": 2})
    with pytest.raises(StoreError, match="mood"):
        application({"model": "mood@champion"})
