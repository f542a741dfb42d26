"""The space that each head declares is one of every run that its plugin carries."""

from __future__ import annotations

import pytest

from heliostat.run import laid, parent_address, runs
from heliostat.tune.plan import planned


@pytest.mark.parametrize("reference", sorted(runs()))
def test_the_declared_space_fits_the_run(reference: str) -> None:
    run, values = laid(reference)
    if "@" in (parent_address(run) or ""):
        pytest.skip("goes on from a model that must be trained first")
    plan = planned(values)
    assert plan.total == ((run.tune and run.tune.trials) or 32)
    assert plan.space.default(plan.run), "the run itself is a point of its space: others are held against it"
    own = run.tune and run.tune.space
    assert {each.key for each in plan.space.dimensions} == set(own or plan.head.searched)
