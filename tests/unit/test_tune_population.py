"""What a population decides, on plain values: who takes over from whom, with which settings, and what it refuses."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from heliostat.errors import RunError
from heliostat.heads.bert import Bert
from heliostat.heads.causal_lm import CausalLM
from heliostat.heads.classification import Classification
from heliostat.heads.hierarchy import Hierarchy
from heliostat.run import TuneSettings
from heliostat.run.domains import Range, dimension
from heliostat.tune.bandit import Seen, proposed
from heliostat.tune.handover import hand_over
from heliostat.tune.plan import planned
from heliostat.tune.policy import goes_on, seconds_left
from heliostat.tune.population import exchanges, gains, perturbed, schedule, why_none
from heliostat.tune.records import Exploit, Point, SweepFolder, Trial
from heliostat.tune.space import Space
from heliostat.tune.told import told

RUN: dict[str, Any] = {
    "name": "toy",
    "data": {"adapter": "core.columns", "source": "rows.csv"},
    "encoder": {"type": "core.text", "preset": "tiny"},
    "head": "core.classification",
}
SPACE = Space.of(
    RUN,
    [
        dimension("train.lr", "log(1e-5,1e-1)"),
        dimension("head.dropout", "choice(0.0,0.1,0.2)"),
        dimension("train.weight_decay", "quniform(0,0.3,0.05)"),
    ],
)
PBT = TuneSettings(scheduler="pbt")


def member(number: int, *scores: float, is_default: bool = False, lr: float = 1e-3) -> Trial:
    curve = tuple(Point(turn, turn / 9, 10 * turn, score) for turn, score in enumerate(scores, 1))
    values = {"train.lr": lr, "head.dropout": 0.1, "train.weight_decay": 0.1}
    return Trial(number, values, is_default=is_default, curve=curve)


def test_the_bottom_takes_over_from_the_top() -> None:
    members = [member(number, number / 10, lr=10.0 ** -(number % 4 + 1)) for number in range(8)]
    exploits = exchanges(SPACE, PBT, 1, members, [])
    assert {each.member for each in exploits} == {0, 1}
    assert {each.donor for each in exploits} <= {6, 7}
    for each in exploits:
        assert (each.step, each.score, each.before) == (10, each.member / 10, members[each.member].values)
        assert each.taken == members[each.donor].values
        assert each.after != each.taken
        SPACE.run(each.after)
    assert exchanges(SPACE, PBT, 1, members, []) == exploits  # a driver that goes on decides the same
    assert exchanges(SPACE, PBT, 2, members, []) != exploits


def test_the_run_as_it_stands_keeps_its_weights_and_others_may_take_them() -> None:
    worst = [member(0, 0.1, is_default=True), member(1, 0.2), member(2, 0.8), member(3, 0.9)]
    assert [each.member for each in exchanges(SPACE, PBT, 1, worst, [])] == [1]
    best = [member(0, 0.9, is_default=True), member(1, 0.2)]
    assert [(each.member, each.donor) for each in exchanges(SPACE, PBT, 1, best, [])] == [(1, 0)]
    assert exchanges(SPACE, PBT, 1, [member(0, 0.1, is_default=True), member(1, 0.9)], []) == []


def test_equals_and_one_alone_exchange_nothing_and_a_lost_one_always_takes_over() -> None:
    assert exchanges(SPACE, PBT, 1, [member(0, 0.5), member(1, 0.5)], []) == []
    assert exchanges(SPACE, PBT, 1, [member(0, 0.5)], []) == []
    broken = exchanges(SPACE, PBT, 1, [member(0, 0.5), member(1, float("nan")), member(2, 0.4)], [])
    assert [(each.member, each.donor) for each in broken] == [(1, 0)]


def test_a_perturbed_setting_stays_in_its_domain_and_near() -> None:
    dice, near = random.Random(1), 0
    values = {"train.lr": 1e-3, "head.dropout": 0.1, "train.weight_decay": 0.1}
    for _ in range(200):
        after = perturbed(SPACE, values, dice)
        assert after != values
        for each in SPACE.dimensions:
            assert each.domain.holds(after[each.key]), after
        near += after["train.lr"] in (pytest.approx(8e-4), pytest.approx(1.2e-3))
    assert 120 < near < 180  # the others are drawn anew


def exploit(who: int, donor: int, step: int, before: float, after: float) -> Exploit:
    values = ({"train.lr": before}, {"train.lr": 0.5}, {"train.lr": after})
    return Exploit(who, donor, step, 0.1, 0.2, *values)


def test_a_schedule_follows_the_weights_and_not_the_member() -> None:
    trials = {
        0: replace(
            member(0), values={"train.lr": 3.0}, exploits=(exploit(0, 1, 10, 1.0, 2.0), exploit(0, 2, 30, 2.0, 3.0))
        ),
        1: replace(member(1), values={"train.lr": 9.0}),
        2: replace(member(2), values={"train.lr": 8.0}, exploits=(exploit(2, 1, 20, 7.0, 8.0),)),
    }
    legs = schedule(trials, 0)
    assert [(leg.step, leg.member, leg.values["train.lr"]) for leg in legs] == [(0, 1, 9.0), (20, 2, 8.0), (30, 0, 3.0)]
    assert [leg.member for leg in schedule(trials, 1)] == [1]


def test_an_exploit_is_told_with_donor_step_and_what_changed() -> None:
    assert told(exploit(3, 1, 40, 1e-3, 1.2e-3)) == "trial 3 goes on from trial 1 at step 40: train.lr 0.001 → 0.0012"


def test_a_population_without_an_exploit_says_why() -> None:
    finished = [replace(member(number, 0.5), state="finished") for number in range(3)]
    assert "validate once" in why_none(finished, 0)
    assert "in 4 turns no member scored below one at the top" in why_none(finished, 4)
    assert "fewer than two members" in why_none([finished[0], replace(member(1), state="failed")], 1)
    assert "did not come to the end of a turn" in why_none([replace(member(1), state="failed")], 0)


def test_the_bandit_finds_where_gains_are_and_gives_no_two_the_same() -> None:
    ranges, dice = {"train.lr": Range(1e-5, 1e-1, is_log=True)}, random.Random(2)
    seen = []
    for turn in range(1, 7):
        for _ in range(6):
            place = dice.uniform(-5, -1)
            seen.append(Seen(turn, {"train.lr": 10**place}, 0.5, -((place + 3) ** 2) + dice.gauss(0, 0.1)))
    first = proposed(ranges, seen, 7, 0.5, [], 3)["train.lr"]
    assert 1e-4 < first < 1e-2
    given: list[dict[str, Any]] = []
    for seed in range(4):
        given.append(proposed(ranges, seen, 7, 0.5, given, seed))
    assert len({round(each["train.lr"], 6) for each in given}) == 4
    assert proposed(ranges, seen[:3], 7, 0.5, [], 3) == {}


def test_the_bandit_gives_whole_and_stepped_numbers() -> None:
    ranges = {"a": Range(1, 9, 1, is_whole=True), "b": Range(0.0, 0.3, 0.05), "c": Range(8, 512, 1, True, True)}
    seen = [Seen(1, {"a": place, "b": 0.05 * place, "c": 8 * place}, 0.1, 0.1 * place) for place in range(1, 6)]
    found = proposed(ranges, seen, 2, 0.1, [], 1)
    assert all(domain.holds(found[key]) for key, domain in ranges.items()), found


def test_pb2_learns_from_gains_of_earlier_turns() -> None:
    members = [member(number, 0.1, 0.1 + number / 10, lr=10.0 ** (-5 + number / 2)) for number in range(8)]
    seen = gains(2, members)
    assert [round(each.gain, 6) for each in seen] == [round(number / 10, 6) for number in range(8)]
    assert gains(1, [member(0, 0.5)]) == []
    settings = TuneSettings(scheduler="pb2")
    (one, two) = exchanges(SPACE, settings, 2, members, seen)
    assert one.after != two.after
    assert all(1e-3 < each.after["train.lr"] <= 1e-1 for each in (one, two))


@pytest.mark.parametrize(
    ("key", "domain", "why"),
    [
        ("train.tokens_per_batch", "choice(512,1024)", "decides which examples come when"),
        ("train.epochs", "int(1,3)", "decides which examples come when"),
        ("train.optimizer", "choice(adamw,muon)", "decides what the optimiser remembers"),
        ("train.ema", "choice(0.9,0.99)", "decides what a checkpoint holds"),
        ("train.precision", "choice(fp32,bf16)", "holds for a whole training"),
        ("encoder.max_tokens", "choice(32,64)", "shapes the data"),
    ],
)
def test_what_cannot_change_in_mid_run_is_refused_with_the_reason(key: str, domain: str, why: str) -> None:
    values = {**RUN, "tune": {"scheduler": "pbt", "space": {key: domain, "train.lr": "log(1e-4,1e-2)"}}}
    with pytest.raises(RunError) as caught:
        planned(values)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert why in problem.rule
    assert "tune.scheduler=asha" in problem.rule


def test_of_a_declared_space_a_population_takes_what_may_change() -> None:
    plan = planned({**RUN, "tune": {"scheduler": "pb2"}})
    keys = {each.key for each in plan.space.dimensions}
    assert "train.lr" in keys
    assert keys.isdisjoint({"train.tokens_per_batch", "train.epochs"})
    assert plan.total == 8
    assert plan.run.train.patience is None


def test_a_population_of_one_is_refused() -> None:
    with pytest.raises(RunError, match="nobody to take over from"):
        planned({**RUN, "tune": {"scheduler": "pbt", "trials": 1}})


def test_records_keep_exploits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    folder = SweepFolder.create("toy", {})
    trial = replace(member(1, 0.1, 0.2), exploits=(exploit(1, 0, 10, 1.0, 2.0),))
    folder.write(trial)
    assert folder.read() == [trial]
    assert folder.last_turn() == 0
    folder.write_turn(12, {"exploits": []})
    assert (folder.last_turn(), folder.read_turn(12), folder.read_turn(3)) == (12, {"exploits": []}, None)


def test_a_member_takes_over_a_whole_checkpoint_or_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    from heliostat import checkpoint
    from heliostat.errors import CheckpointError

    donor, loser = tmp_path / "donor", tmp_path / "loser"
    for folder, step in ((donor, 6), (loser, 5)):
        shutil.copytree(tiny_checkpoint, checkpoint.step_folder(folder / "checkpoints", step))
        (folder / "metrics.jsonl").write_text(f"{folder.name}\n")
    (loser / ".taken").mkdir()  # one that was cut short
    handed = hand_over(donor, loser, 6)
    assert handed == hand_over(donor, loser, 6)
    assert [path.name for path in (loser / "checkpoints").iterdir()] == ["step-00000006"]
    theirs = checkpoint.verify(donor / "checkpoints" / "step-00000006")["files"]
    assert checkpoint.verify(loser / "checkpoints" / "step-00000006")["files"] == theirs
    assert (loser / "metrics.jsonl").read_text() == "donor\n"
    weights = donor / "checkpoints" / "step-00000006" / "head" / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-1] + b"x")
    with pytest.raises(CheckpointError, match="was changed after it was written"):
        hand_over(donor, loser, 6)
    checkpoint.verify(loser / "checkpoints" / "step-00000006")  # what it had is there


def test_a_trial_whose_process_died_goes_on_if_it_had_come_further() -> None:
    assert goes_on(member(0, 0.1, 0.2), 1, 1, 3)
    assert not goes_on(member(0, 0.1), 1, 1, 3)
    assert not goes_on(member(0, 0.1, 0.2), 1, 4, 3)


def test_time_left_of_a_population_comes_from_the_share_that_is_done() -> None:
    members = [replace(member(number, 0.1, 0.2, 0.3), seconds=6.0) for number in range(4)]
    assert seconds_left(members, 4, 2, 0.0, in_turns=True) == pytest.approx(24.0)
    assert seconds_left([member(0)], 4, 2, 0.0, in_turns=True) is None


def test_heads_say_of_which_scores_less_is_better() -> None:
    assert CausalLM().is_error("perplexity")
    assert not CausalLM().is_error("accuracy")
    assert all(Bert().is_error(name) for name in ("loss", "masked", "sentence", "perplexity"))
    assert not Bert().is_error("sentence_accuracy")
    assert Hierarchy().is_error("below")
    assert not Hierarchy().is_error("below_accuracy")
    assert Classification().is_error("some_error")
    assert not Classification().is_error("macro_f1")
