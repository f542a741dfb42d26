"""The risk that a guaranteed business loan is charged off: its record, its head and its page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from heliostat.plugin import Demo, Field, Record, Risk, Row
from heliostat_finance.drawing import draw_risk


def _not_in_the_future(day: date) -> date:
    if day > datetime.now(UTC).date() + timedelta(days=1):  # somewhere on Earth it is tomorrow already
        raise PydanticCustomError("date_in_future", "Date should not lie in the future")
    return day


def _none_if_blank(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


Day = Annotated[date, Field(ge=date(1950, 1, 1)), AfterValidator(_not_in_the_future)]
Word = Annotated[Annotated[str, Field(max_length=200)] | None, BeforeValidator(_none_if_blank)]
Money = Annotated[float, Field(ge=0.0, le=1e9)]
Count = Annotated[float, Field(ge=0.0, le=1e7)] | None


class Application(Record):
    """What is known when a loan is decided on. All but the amount and the day may be missing."""

    amount: Money = Field(description="The loan, in U.S. dollars.")
    approved: Day = Field(description="The day of the decision, as 2005-03-31; not in the future.")
    guaranteed: Money | None = Field(default=None, description="The part that the government guarantees, in dollars.")
    business: Word = Field(default=None, description="Name of the business; its words are read.")
    industry: Word = Field(default=None, description="NAICS code of the industry, as 722511.")
    employees: Count = Field(default=None, description="People who work there.")
    jobs_created: Count = Field(default=None, description="Jobs that the loan shall create.")
    jobs_retained: Count = Field(default=None, description="Jobs that the loan shall keep.")
    age: Word = Field(default=None, description="existing (more than two years old) or new.")
    city: Word = Field(default=None, description="City of the business.")
    state: Word = Field(default=None, description="State of the business, as OH.")
    zip: Word = Field(default=None, description="ZIP code of the business, as 45202.")
    place: Word = Field(default=None, description="urban or rural.")
    bank: Word = Field(default=None, description="The bank that lends.")
    bank_state: Word = Field(default=None, description="State of the bank.")
    franchise: Word = Field(default=None, description="Code of the franchise, or none.")
    revolving: Word = Field(default=None, description="Y for a line of credit, N for none; 0 and T occur, too.")
    low_doc: Word = Field(default=None, description="Y where it was decided on a one-page application, else N.")


class LoanDemo(Demo):
    """The page of a loan's risk: a gauge, and what moved it."""

    title: ClassVar[str] = "Will this loan be paid back?"
    description: ClassVar[str] = (
        "Learned from loans to small U.S. businesses of the years 1998 to 2004, a part of which the government "
        "guaranteed. Fields that are left empty, and names that were never seen, are read as unknown."
    )

    def bars(self, answer: Row) -> Mapping[str, float]:
        """None: the gauge says it."""
        return {}

    def called(self, sample: Row) -> str:
        """Who asks for how much."""
        who = sample.get("business") or "Nothing but the amount and the day is known"
        where = f", {sample['city']}" if sample.get("city") else ""
        return f"{who}{where}: ${sample['amount']:,.0f}"

    def picture(self, answer: Row) -> str:
        """A gauge of the risk over bars of the strongest reasons."""
        return draw_risk(answer)


class LoanDefault(Risk):
    """The probability that a loan is charged off, calibrated on valid, with what each field adds to it."""

    class Config(Risk.Config):
        """Settings of the head. The costs are those of Li, Mickel and Taylor (2018): a default costs five gains."""

        labels: tuple[str, str] = ("paid", "charged_off")
        cost_of_miss: Annotated[float, Field(gt=0.0)] = 5.0
        cost_of_alarm: Annotated[float, Field(gt=0.0)] = 1.0

    takes: ClassVar[type[Record]] = Application
    demo: ClassVar[type[Demo] | None] = LoanDemo
    notice: ClassVar[str] = (
        "Not for credit decisions: made to show a method, on loans of 1998 to 2006. Who is lent to by such a score is "
        "owed reasons, an appeal and a test for discrimination, by law in many countries."
    )
    private: ClassVar[bool] = True
    searched: ClassVar[Mapping[str, Any]] = {**Risk.searched, "encoder.dropout": "quniform(0,0.4,0.1)"}
    samples: ClassVar[tuple[Row, ...]] = (
        {
            "amount": 50_000.0, "guaranteed": 25_000.0, "approved": "2004-06-15", "business": "Corner Cafe",
            "industry": "722110", "employees": 3.0, "jobs_created": 2.0, "jobs_retained": 3.0, "age": "new",
            "city": "Miami", "state": "FL", "zip": "33101", "place": "urban", "bank": "BANK OF AMERICA NATL ASSOC",
            "bank_state": "NC", "franchise": "none", "revolving": "Y", "low_doc": "N",
        },
        {
            "amount": 750_000.0, "guaranteed": 562_500.0, "approved": "2003-02-03", "business": "Lakeside Dental Care",
            "industry": "621210", "employees": 12.0, "jobs_created": 0.0, "jobs_retained": 12.0, "age": "existing",
            "city": "Bismarck", "state": "ND", "zip": "58501", "place": "urban", "bank": "A BANK NOBODY KNOWS",
            "bank_state": "ND", "franchise": "none", "revolving": "N", "low_doc": "N",
        },
        {"amount": 20_000.0, "approved": "2004-09-01"},
    )  # fmt: skip
