"""The finance plugin: its loans, its refusals, its record, its page, and bad input over HTTP."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from heliostat import run as runs
from heliostat.errors import PredictError, RejectedRecord, RunError
from heliostat.testing.distribution import on_path, write_dist_info

ROOT = Path(__file__).parents[2] / "plugins" / "finance"
DATA = ROOT / "heliostat_finance" / "data"
RUNS = tuple(f"finance/{path.stem}" for path in sorted((ROOT / "heliostat_finance" / "runs").glob("*.yaml")))


@pytest.fixture(scope="module", autouse=True)
def finance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The plugin as it stands here, declared where it is not installed."""
    from importlib.metadata import entry_points

    declared = {point.name for point in entry_points(group="heliostat.plugins")}
    site = tmp_path_factory.mktemp("finance_site")
    if "finance" in declared:
        yield
        return
    write_dist_info(site, "finance", "heliostat_finance:register")
    with on_path(ROOT), on_path(site):
        yield


def record(**given: Any) -> dict[str, Any]:
    return {
        "Name": "CORNER CAFE ", "City": "MIAMI", "State": "FL", "Zip": 1101, "Bank": "A BANK", "BankState": "NC",
        "NAICS": 722110, "ApprovalDate": "30-Sep-04", "NoEmp": 3, "NewExist": 2.0, "CreateJob": 1, "RetainedJob": 0,
        "FranchiseCode": 1, "UrbanRural": 1, "RevLineCr": "Y", "LowDoc": "N", "MIS_Status": "P I F",
        "GrAppv": "$60,000.00 ", "SBA_Appv": 48000, **given,
    }  # fmt: skip


def examples(row: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    from heliostat_finance.loans import SbaLoans

    return list(SbaLoans(SbaLoans.Config(**settings)).examples(iter([row])))


def test_a_loan_becomes_what_was_known_when_it_was_approved() -> None:
    assert examples(record()) == [
        {
            "amount": 60_000.0, "guaranteed": 48_000.0, "business": "CORNER CAFE", "industry": "722110",
            "employees": 3.0, "jobs_created": 1.0, "jobs_retained": 0.0, "age": "new", "city": "MIAMI", "state": "FL",
            "zip": "01101", "place": "urban", "bank": "A BANK", "bank_state": "NC", "franchise": "none",
            "revolving": "Y", "low_doc": "N", "approved": "2004-09-30", "label": "paid", "year": 2004,
            "sector": "hotels and food",
        }
    ]  # fmt: skip


def test_codes_that_mean_nothing_are_missing() -> None:
    found = examples(record(NAICS=0, Zip=0, NewExist=0, UrbanRural=0, Name=None, NoEmp=None, FranchiseCode=78760))[0]
    missing = ("industry", "zip", "age", "place", "business", "employees", "sector")
    assert {found[name] for name in missing} == {None}
    assert found["franchise"] == "78760"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"MIS_Status": None}, "neither paid"),
        ({"ApprovalDate": "soon"}, "no date"),
        ({"ApprovalDate": None}, "no date"),
    ],
)
def test_a_loan_without_an_end_or_a_day_is_rejected(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(RejectedRecord, match=reason):
        examples(record(**given))


def test_fiscal_years_begin_in_october_and_others_are_passed_over() -> None:
    assert examples(record(ApprovalDate="2006-10-01")) == []
    assert examples(record(ApprovalDate="1-Oct-97"))[0]["year"] == 1998
    assert examples(record(ApprovalDate="30-Sep-68")) == []


@pytest.mark.parametrize(
    ("setting", "column"),
    [("employees", "Term"), ("guaranteed", "chgoffpringr"), ("amount", "DisbursementGross"), ("city", "MIS_Status"),
     ("approved", "DisbursementDate"), ("bank", "ChgOffDate"), ("jobs_created", "BalanceGross")],
)  # fmt: skip
def test_columns_of_the_future_are_refused_with_the_reason(setting: str, column: str) -> None:
    with pytest.raises(RunError, match=rf"{setting} may not be read from .* Take another column"):
        runs.load("finance/tiny", [f"data.adapter.{setting}={column}"])


def test_the_carried_sample_is_what_its_readme_says() -> None:
    table = pq.read_table(DATA / "loans.parquet")
    assert (DATA / "loans.parquet").stat().st_size < 4_000_000
    assert Counter(table["MIS_Status"].to_pylist()) == {"P I F": 54_848, "CHGOFF": 12_502}
    assert table.num_rows == 67_350
    text = (DATA / "README.md").read_text(encoding="utf-8")
    assert all(figure in text for figure in ("67,350", "12,502", *table.column_names))


@pytest.mark.parametrize("name", RUNS)
def test_every_run_checks_and_is_split_by_time_alone(name: str) -> None:
    run = runs.load(name)
    assert runs.check(run.dump()) == run
    assert run.data.split.by == "date"
    assert run.data.split.test_from == "2004-10-01"  # type: ignore[union-attr]
    assert run.head.build().labels == ("paid", "charged_off")


@pytest.fixture(scope="module")
def predictor(finance: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The tiny run, trained and calibrated."""
    from heliostat.predict import Predictor
    from heliostat.train.launch import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(tmp_path_factory.mktemp("home")))
        yield Predictor.load(train(runs.load("finance/tiny", ["data.engine=local"])).checkpoint)


def asked(**given: Any) -> dict[str, Any]:
    return {"amount": 50_000.0, "approved": "2004-06-15", **given}


ANSWERED: dict[str, dict[str, Any]] = {
    "nothing but what must be": {},
    "unseen categories": {"bank": "nobody's", "state": "ZZ", "industry": "999999", "revolving": "?", "franchise": "x"},
    "missing numbers": {"employees": None, "guaranteed": None, "jobs_created": None},
    "blank texts": {"city": "", "business": "   "},
    "no amount": {"amount": 0.0},
    "the largest amount": {"amount": 1e9, "guaranteed": 1e9},
    "an old day": {"approved": "1950-01-01"},
    "today": {"approved": datetime.now(UTC).date().isoformat()},
    "a name in other letters": {"business": "食堂 Zoë's"},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a day in the future": ({"approved": (datetime.now(UTC).date() + timedelta(days=3)).isoformat()}, "future"),
    "a day that is none": ({"approved": "2004-02-30"}, "date"),
    "a day before all loans": ({"approved": "1949-12-31"}, "greater than or equal"),
    "an infinite number": ({"employees": math.inf}, "finite"),
    "no number": ({"guaranteed": math.nan}, "finite"),
    "a negative amount": ({"amount": -1.0}, "greater than or equal"),
    "an absurd amount": ({"amount": 1e18}, "less than or equal"),
    "a missing amount": ({"amount": None}, "number"),
    "words for a number": ({"employees": "many"}, "number"),
    "an unknown field": ({"Term": 84}, "no such field"),
    "a text without end": ({"city": "x" * 201}, "200"),
}


@pytest.mark.parametrize("name", list(ANSWERED))
def test_what_may_be_missing_or_new_is_answered(predictor: Any, name: str) -> None:
    answer = predictor.predict([asked(**ANSWERED[name])])[0]
    assert 0.0 <= answer["risk"] <= 1.0
    assert answer["label"] == ("charged_off" if answer["risk"] > 1 / 6 else "paid")
    assert set(answer["reasons"]) == set(predictor.encoder.fields)
    assert all(math.isfinite(value) for value in answer["reasons"].values())


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_is_refused_by_field_and_rule(predictor: Any, name: str) -> None:
    given, rule = REFUSED[name]
    with pytest.raises(PredictError, match=rule) as refused:
        predictor.predict([asked(), asked(**given)])
    problem = refused.value.problems[0]
    assert (problem.index, problem.field) == (1, next(iter(given)))


@pytest.fixture(scope="module")
def ask(predictor: Any) -> Iterator[Any]:
    """ask(body) is the reply of the model to a body of JSON, or of what only looks like it."""
    from fastapi.testclient import TestClient

    from heliostat.serve.app import build_app
    from heliostat.serve.schema import Served

    app = build_app(predictor, Served("loans", 1))
    headers = {"Content-Type": "application/json"}
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield lambda body: client.post("/v1/models/loans:predict", content=body.encode(), headers=headers)


@pytest.mark.parametrize("name", list(ANSWERED))
def test_over_http_what_may_be_missing_or_new_is_answered(ask: Any, name: str) -> None:
    reply = ask(json.dumps({"instances": [asked(**ANSWERED[name])]}))
    assert reply.status_code == 200, reply.text
    assert 0.0 <= reply.json()["predictions"][0]["risk"] <= 1.0


STATUS = {
    "a day in the future": (422, "invalid_value"), "a day that is none": (422, "invalid_value"),
    "a day before all loans": (422, "invalid_value"), "a negative amount": (422, "invalid_value"),
    "an absurd amount": (422, "invalid_value"), "a missing amount": (422, "wrong_type"),
    "words for a number": (422, "invalid_value"), "an unknown field": (422, "unknown_field"),
    "a text without end": (413, "text_too_long"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(STATUS))
def test_over_http_what_cannot_be_is_a_clear_refusal(ask: Any, name: str) -> None:
    given, _ = REFUSED[name]
    reply = ask(json.dumps({"instances": [asked(), asked(**given)]}))
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == STATUS[name], error
    assert error["field"] == "instances[1]" + ("" if name == "an unknown field" else f".{next(iter(given))}")
    assert not any(len(str(value)) > 3 and str(value) in reply.text for value in given.values())


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        ("1e999", 422, "invalid_number"),
        ("-1e999", 422, "invalid_number"),
        ("Infinity", 400, "invalid_json"),
        ("NaN", 400, "invalid_json"),
    ],
)
def test_over_http_an_infinite_number_is_a_clear_refusal(ask: Any, number: str, status: int, code: str) -> None:
    reply = ask(f'{{"instances": [{{"amount": 1, "approved": "2004-06-15", "employees": {number}}}]}}')
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


def test_a_planted_leak_is_named_and_the_loans_themselves_are_clean(
    finance: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np
    import pyarrow as pa

    from heliostat.ingest import prepare

    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path / "home"))
    table = pq.read_table(DATA / "few.parquet")
    assert prepare(runs.load("finance/tiny", ["data.engine=local"])).leakage()["suspects"] == []
    lost = np.array([status == "CHGOFF" for status in table["MIS_Status"].to_pylist()])
    months = np.where(lost, 30, 84) + np.random.default_rng(2).integers(0, 40, len(lost))
    pq.write_table(table.append_column("MonthsRun", pa.array(months)), tmp_path / "loans.parquet")
    planted = [f"data.source={tmp_path / 'loans.parquet'}", "data.adapter.employees=MonthsRun", "data.engine=local"]
    found = prepare(runs.load("finance/tiny", planted)).leakage()["suspects"]
    assert [suspect["field"] for suspect in found] == ["employees"]


def test_the_report_shows_decision_curve_slices_drift_and_the_notice(predictor: Any, tmp_path: Path) -> None:
    from heliostat.data.prepared import Prepared
    from heliostat.evaluate import evaluate
    from heliostat.ingest import prepare

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HELIOSTAT_HOME", str(tmp_path))
        prepared: Prepared = prepare(predictor.run)
        report = evaluate(predictor, prepared, tmp_path / "report")
    page = report.html.read_text(encoding="utf-8")
    for words in ("Decision curve", "Cost by threshold", "Calibration of the risk", "Drift from the train split",
                  "Not for credit decisions", "AUC by slice", "core.boosting"):  # fmt: skip
        assert words in page
    assert {each.column for each in report.slices} == {"sector", "year"}
    assert report.drift[0].is_target
    assert report.drift[0].psi > 0.01
    assert "CORNER" not in page
    assert not any(row["business"] in page for row in prepared.examples("test") if len(row["business"] or "") > 12)
    assert set(report.scores) == {"auc", "average_precision", "ks", "brier_error", "calibration_error", "cost_error"}
    assert report.values()["drift"][0]["field"] == "label"


def test_the_page_draws_a_gauge_and_escapes_what_comes_from_data() -> None:
    from heliostat_finance.drawing import draw_risk

    drawn = draw_risk({"risk": 0.314, "reasons": {"<script>": 0.2, "amount": -0.1, "city": 0.00001}})
    assert "31%" in drawn
    assert "&lt;script&gt;" in drawn
    assert "<script" not in drawn
    assert "+20.0" in drawn
    assert "city" not in drawn
    assert draw_risk({"risk": 1.0}).startswith("<svg")


def test_a_model_of_private_records_says_what_it_is_not_for() -> None:
    from heliostat_finance.default import LoanDefault

    assert LoanDefault.private
    assert "Not for credit decisions" in LoanDefault.notice


def test_the_plugin_keeps_its_promises() -> None:
    from heliostat.testing.checks import check_plugin

    assert all(result.passed for result in check_plugin("finance"))
