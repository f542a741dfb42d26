"""How long a search takes to the same score: ours, Ray Tune as it comes, Ray Tune with its ASHA, Optuna in one process.

`reach`: four keys of masked-language-model pretraining on the reviews, as many trials for each side, the same seeds,
which differ from round to round. Every trial of every side is trained by our loop on the same prepared data and
validates as often, so what differs is the search: who is proposed, who is stopped, what a trial costs beside its
training. The score to reach is the best one that ours and the peer both reached in a round, whatever a third side did;
time runs from the call, start-up included. (Polarity was tried first: so few reviews teach it so unsteadily that a
trial's loss went .51, .66, .51 from one validation to the next, and who validated oftener drew the lucky one sooner.)
`overhead`: trials of one update each; what a trial takes beside that update, measured in the same process, is the cost
of being a trial.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from measure import Facts, cores, median_of, middle
from rounds import Benchmark, Case, Row, Settings, run

OURS, FIFO, ASHA, OPTUNA = "heliostat", "ray tune", "ray tune, asha", "optuna, hyperband"
NAMES = {
    FIFO: "Ray Tune as it comes: FIFO, random, a process a trial",
    ASHA: "Ray Tune with its ASHA",
    OPTUNA: "Optuna, TPE and Hyperband, one process",
}
SPACE = {
    "train.lr": "log(1e-5,1e-2)",
    "train.tokens_per_batch": "choice(1024,2048,4096,8192)",
    "train.warmup": "uniform(0,0.3)",
    "train.weight_decay": "log(1e-3,0.3)",
}
VALIDATIONS = 9
REACH = {"preset": "tiny", "limit": 600, "epochs": 2, "trials": 48}
OVERHEAD = {"preset": "tiny", "limit": 300, "epochs": 3, "trials": 24}
CASES = {
    "reach": Case((OURS, FIFO, ASHA, OPTUNA), REACH, {"preset": "tiny", "limit": 300, "trials": 6}),
    "overhead": Case((OURS, FIFO), OVERHEAD, {"trials": 6}),
}


def values_of(case: str, settings: Settings) -> dict[str, Any]:
    """The plain values of the run that is searched. Its own point is a poor one: nobody begins where the end is."""
    from heliostat.run import laid

    given = [
        f"encoder={{type: core.text, preset: {settings['preset']}, max_tokens: 96, dropout: 0.0}}",
        f"data.limit={settings['limit']}",
        f"train.epochs={settings['epochs']}",
        "train.lr=2e-5",
        "train.trackers=[]",
        "train.keep_checkpoints=1",
        "train.select=loss",
        "scaling.num_workers=1",
    ]
    if case == "overhead":
        return laid("sentiment/tiny", [*given, "evaluate.slices=[]", "train.max_steps=1"])[1]
    masks = "head={type: core.masked_lm, rate: 0.15, whole_words: false}"
    parts = f"train.evaluations_per_epoch={math.ceil(VALIDATIONS / settings['epochs'])}"
    return laid("sentiment/pretrain", [*given, masks, "data.split.valid=0.1", parts])[1]


def turn(case: str, side: str, settings: Settings) -> dict[str, Any]:
    import ours
    from heliostat.ingest import prepare
    from heliostat.run import check
    from heliostat.tune.plan import planned

    search = {"space": SPACE, "trials": settings["trials"], "seed": 7 + settings["round"]}
    values = {**values_of(case, settings), "tune": search}
    if case == "overhead":
        values["tune"] |= {"scheduler": "fifo", "search": "random", "concurrent": 1}
    prepared = prepare(check(values))
    folder = ours.in_home("sweeps") / f"benchmark-{os.getpid()}"
    bare_s = bare_seconds(values, prepared, folder) if case == "overhead" else 0.0
    sides = {OURS: sweep_of_ours, FIFO: sweep_of_ray, ASHA: sweep_of_ray, OPTUNA: sweep_of_optuna}
    began = time.perf_counter()
    told: list[tuple[float, float]] = []
    """Seconds since the call, and a score; greater is better."""
    sides[side](
        side, planned(values), prepared, folder, lambda score: told.append((time.perf_counter() - began, score))
    )
    wall_s = time.perf_counter() - began
    shutil.rmtree(folder, ignore_errors=True)
    curve: list[tuple[float, float]] = []
    for seconds, score in told:
        if not curve or score > curve[-1][1]:
            curve.append((seconds, score))
    found = {"curve": curve, "best": curve[-1][1], "validations": len(told), "wall_s": wall_s, "cpu_s": 0.0}
    if case == "overhead":  # from one result to the next: start-up of the search itself counts for nobody
        each_s = median_of([later - sooner for (sooner, _), (later, _) in pairwise(told)]).value
        found |= {"trial_s": each_s, "bare_s": bare_s, "overhead_s": each_s - bare_s}
    return found


def bare_seconds(values: dict[str, Any], prepared: Any, folder: Path) -> float:
    """What one trial's training takes in this process, once all is warm."""
    from heliostat.run import check
    from heliostat.train.loop import fit
    from heliostat.train.worker import LocalWorker, set_threads

    set_threads(1)
    our_run, seconds = check(values), []
    for number in range(8):
        began = time.perf_counter()
        fit(our_run, prepared, LocalWorker(), folder / f"bare-{number}")
        seconds.append(time.perf_counter() - began)
    return median_of(seconds[2:]).value


def sweep_of_ours(side: str, plan: Any, prepared: Any, folder: Path, tell: Callable[[float], None]) -> None:
    """`heliostat tune`."""
    from heliostat.tune import SweepWatcher, View, tune

    class Watch(SweepWatcher):
        seen: set[tuple[int, int]] = set()  # noqa: RUF012

        def update(self, view: View) -> None:
            for trial in view.trials:
                for point in trial.curve:
                    if (trial.number, point.step) not in self.seen:
                        self.seen.add((trial.number, point.step))
                        tell(point.score)

    tune(
        {**plan.values, "tune": {**plan.values["tune"], "validations": 1}} if _is_overhead(plan) else plan.values,
        watcher=Watch(),
    )


def _is_overhead(plan: Any) -> bool:
    return bool(plan.run.train.max_steps == 1)


def train_trial(
    plan: Any, values: dict[str, Any], prepared: Path, folder: Path, judge: Callable[[float], bool]
) -> None:
    """A trial of a peer: our loop on the same data. `judge` is told each score and says whether to stop."""
    from heliostat.data.prepared import Prepared
    from heliostat.train.loop import fit
    from heliostat.train.policy import Continue, Judged, Stop
    from heliostat.train.worker import LocalWorker

    class Told(LocalWorker):
        def judge(self, judged: Judged) -> Continue | Stop:
            return Stop("") if judge(judged.validation.score) else Continue()

    fit(plan.space.run(values), Prepared.open(prepared), Told(), folder)


def sweep_of_ray(side: str, plan: Any, prepared: Any, folder: Path, tell: Callable[[float], None]) -> None:
    """Ray Tune: random points, a process a trial, and its ASHA for the side that has one."""
    import ray
    from ray import tune
    from ray.tune import Callback, RunConfig, TuneConfig, Tuner
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import BasicVariantGenerator

    class Listen(Callback):  # type: ignore[misc]
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any) -> None:
            tell(result["score"])

    data = prepared.folder

    def trainable(config: dict[str, Any]) -> None:
        from heliostat.train.worker import set_threads

        set_threads(1)
        here = folder / tune.get_context().get_trial_id()
        train_trial(plan, config, data, here, lambda score: bool(tune.report({"score": score})))

    ray.init(num_cpus=1 if _is_overhead(plan) else cores(), include_dashboard=False, log_to_driver=False)
    space = {
        "train.lr": tune.loguniform(1e-5, 1e-2),
        "train.tokens_per_batch": tune.choice([1024, 2048, 4096, 8192]),
        "train.warmup": tune.uniform(0.0, 0.3),
        "train.weight_decay": tune.loguniform(1e-3, 0.3),
    }
    scheduler = ASHAScheduler(max_t=VALIDATIONS) if side == ASHA else None
    chance = BasicVariantGenerator(random_state=plan.settings.seed)
    config = TuneConfig("max", "score", num_samples=plan.total, scheduler=scheduler, search_alg=chance)
    storage = RunConfig(storage_path=str(folder / "ray"), verbose=0, callbacks=[Listen()])
    Tuner(trainable, param_space=space, tune_config=config, run_config=storage).fit()
    ray.shutdown()


def sweep_of_optuna(side: str, plan: Any, prepared: Any, folder: Path, tell: Callable[[float], None]) -> None:
    """Optuna's TPE with its Hyperband pruner, trial after trial in this process with all cores."""
    import optuna

    from heliostat.train.worker import set_threads

    set_threads(cores())

    def objective(trial: optuna.Trial) -> float:
        values = {
            "train.lr": trial.suggest_float("train.lr", 1e-5, 1e-2, log=True),
            "train.tokens_per_batch": trial.suggest_categorical("train.tokens_per_batch", [1024, 2048, 4096, 8192]),
            "train.warmup": trial.suggest_float("train.warmup", 0.0, 0.3),
            "train.weight_decay": trial.suggest_float("train.weight_decay", 1e-3, 0.3, log=True),
        }
        scores: list[float] = []

        def judge(score: float) -> bool:
            scores.append(score)
            tell(score)
            trial.report(score, len(scores))
            return bool(trial.should_prune())

        train_trial(plan, values, prepared.folder, folder / str(trial.number), judge)
        if len(scores) < VALIDATIONS:
            raise optuna.TrialPruned
        return max(scores)

    sampler = optuna.samplers.TPESampler(seed=plan.settings.seed)
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=VALIDATIONS)
    optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner).optimize(objective, n_trials=plan.total)


def seconds_to(curve: Sequence[tuple[float, float]], score: float) -> float:
    """Seconds until a side was as good as `score`."""
    return next(seconds for seconds, reached in curve if reached >= score)


def rows(case: str, rounds: Sequence[Facts], settings: Settings) -> list[Row]:
    if case == "overhead":
        cost = {side: middle(rounds, side, "overhead_s") * 1000 for side in (OURS, FIFO)}
        told = Row(
            what="cost of a trial beside its training",
            beside="Ray Tune, a process a trial",
            ours=f"{cost[OURS]:.0f} ms",
            theirs=f"{cost[FIFO]:,.0f} ms",
            faster=median_of(
                [each[FIFO]["overhead_s"] / max(1e-3, each[OURS]["overhead_s"]) for each in rounds]
            ).times(),
            cpu="",
            equal=f"{settings['trials']} trials of one update",
            goal="≤ 50 ms (150 ms)",
        )
        return [told]
    goals = {FIFO: "8× (4×)", ASHA: "2× (1.3×)", OPTUNA: "1×"}
    found = []
    for peer, goal in goals.items():
        seconds = []
        for each in rounds:
            score = min(each[OURS]["best"], each[peer]["best"])
            seconds.append((seconds_to(each[OURS]["curve"], score), seconds_to(each[peer]["curve"], score), score))
        found.append(
            Row(
                what=f"a search over 4 keys, {settings['trials']} trials, to the same valid loss",
                beside=NAMES[peer],
                ours=f"{median_of([ours for ours, _, _ in seconds]).value:.0f} s",
                theirs=f"{median_of([theirs for _, theirs, _ in seconds]).value:.0f} s",
                faster=median_of([theirs / ours for ours, theirs, _ in seconds]).times(),
                cpu="",
                equal=f"valid loss {abs(median_of([score for _, _, score in seconds]).value):.4f}; all trials took "
                f"{middle(rounds, OURS, 'wall_s'):.0f} and {middle(rounds, peer, 'wall_s'):.0f} s",
                goal=goal,
            )
        )
    return found


if __name__ == "__main__":
    run(Benchmark("tune", __file__, CASES, turn, rows))
