"""Records of guaranteed loans -> what was known when each was approved, and whether it was paid back."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any

from pydantic import model_validator

from heliostat.plugin import Column, DataAdapter, Field, RejectedRecord, Row, Settings
from heliostat_finance.sectors import sector_of

LEAKING = {
    "Term": "it is the time that the loan ran in the end, which a default cuts short",
    "ChgOffDate": "it is the day of the default",
    "ChgOffPrinGr": "it is what the default lost",
    "DisbursementDate": "it lies after the approval",
    "DisbursementGross": "it is what was paid out after the approval, and more of a line of credit that ran long",
    "BalanceGross": "it is what was owed at the end",
    "MIS_Status": "it is the answer",
}
"""Columns that nobody knows when a loan is decided on, with the reason."""

_MONTHS = {
    name: place
    for place, name in enumerate(
        ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), start=1
    )
}
_STATUS = {"P I F": "paid", "CHGOFF": "charged_off"}
_AGES = {"1": "existing", "2": "new"}
_PLACES = {"1": "urban", "2": "rural"}
_NO_FRANCHISE = {"0", "1"}


class SbaLoans(DataAdapter):
    """A loan of the U.S. Small Business Administration -> its application, and `paid` or `charged_off`."""

    class Config(Settings):
        """Names of the columns, and the fiscal years that are read (they begin in October)."""

        first_year: Annotated[int, Field(ge=1962, le=2100)] = 1998
        last_year: Annotated[int, Field(ge=1962, le=2100)] = 2006
        status: Column = "MIS_Status"
        """Whether the loan was paid in full (`P I F`) or charged off (`CHGOFF`)."""
        amount: Column = "GrAppv"
        guaranteed: Column | None = "SBA_Appv"
        approved: Column = "ApprovalDate"
        business: Column | None = "Name"
        industry: Column | None = "NAICS"
        employees: Column | None = "NoEmp"
        jobs_created: Column | None = "CreateJob"
        jobs_retained: Column | None = "RetainedJob"
        age: Column | None = "NewExist"
        city: Column | None = "City"
        state: Column | None = "State"
        zip: Column | None = "Zip"
        place: Column | None = "UrbanRural"
        bank: Column | None = "Bank"
        bank_state: Column | None = "BankState"
        franchise: Column | None = "FranchiseCode"
        revolving: Column | None = "RevLineCr"
        low_doc: Column | None = "LowDoc"

        @model_validator(mode="after")
        def _nothing_of_the_future(self) -> SbaLoans.Config:
            known = {name.casefold(): name for name in LEAKING}
            for setting in type(self).model_fields:
                leak = known.get(str(getattr(self, setting)).casefold())
                if leak and setting != "status":
                    raise ValueError(f"{setting} may not be read from '{leak}': {LEAKING[leak]}. Take another column.")
            if self.first_year > self.last_year:
                raise ValueError(f"first_year {self.first_year} must not be after last_year {self.last_year}.")
            return self

    def examples(self, rows: Iterator[Row]) -> Iterator[Row]:
        """One example a loan of these years. Rejects one that still runs, was cancelled, or has no date."""
        names = self.config
        for row in rows:
            approved = day_of(row[names.approved], names.approved)
            year = fiscal_year(approved)
            if not names.first_year <= year <= names.last_year:
                continue
            status = _STATUS.get(str(row[names.status] or "").strip().upper())
            if status is None:
                raise RejectedRecord(f"{names.status}: neither paid in full nor charged off")
            record = {name: row[column] if (column := getattr(names, name)) else None for name in _READERS}
            values = {name: read(record[name]) for name, read in _READERS.items()}
            yield {
                **values,
                "approved": approved.isoformat(),
                "label": status,
                "year": year,
                "sector": sector_of(values["industry"]),
            }


def fiscal_year(day: date) -> int:
    """The fiscal year of the U.S. government, which begins on October 1st of the year before."""
    return day.year + (day.month >= 10)


def day_of(value: Any, column: str) -> date:
    """The day of `28-Feb-97`, `1997-02-28` or a date; two digits stand for 1950 to 2049."""
    if isinstance(value, date):
        return date(value.year, value.month, value.day)
    text = str(value or "").strip()
    day, _, rest = text.partition("-")
    month, _, year = rest.partition("-")
    try:
        if month.casefold() in _MONTHS:
            short = int(year)
            full = short if short > 99 else short + (1900 if short >= 50 else 2000)
            return date(full, _MONTHS[month.casefold()], int(day))
        return date.fromisoformat(text[:10])
    except ValueError:
        raise RejectedRecord(f"{column}: is no date") from None


def number_of(value: Any) -> float | None:
    """The number in `$60,000.00 `; None where there is none."""
    if value is None or isinstance(value, bool):
        return None
    text = str(value).strip().replace("$", "").replace(",", "")
    return float(text) if text else None


def text_of(value: Any) -> str | None:
    """The text on one line; None for nothing."""
    return " ".join(str(value).split()) or None if value is not None else None


def code_of(value: Any) -> str | None:
    """A code as text: 722110, 722110.0 and `722110` are one."""
    if isinstance(value, float):
        return f"{value:.0f}" if value == value else None
    return text_of(value)


def _industry(value: Any) -> str | None:
    code = code_of(value)
    return code if code and code.strip("0") else None


def _zip(value: Any) -> str | None:
    code = code_of(value)
    return code.zfill(5) if code and code.strip("0") else None


def _franchise(value: Any) -> str | None:
    code = code_of(value)
    return "none" if code in _NO_FRANCHISE else code


_READERS: dict[str, Any] = {
    "amount": number_of,
    "guaranteed": number_of,
    "business": text_of,
    "industry": _industry,
    "employees": number_of,
    "jobs_created": number_of,
    "jobs_retained": number_of,
    "age": lambda value: _AGES.get(code_of(value) or ""),
    "city": text_of,
    "state": text_of,
    "zip": _zip,
    "place": lambda value: _PLACES.get(code_of(value) or ""),
    "bank": text_of,
    "bank_state": text_of,
    "franchise": _franchise,
    "revolving": code_of,
    "low_doc": code_of,
}
"""How each field is read from its column."""
