"""Finance risk: a loan application in, the probability of its default and the reasons for it out."""

from __future__ import annotations

from heliostat.plugin import Registry
from heliostat_finance.default import LoanDefault
from heliostat_finance.loans import SbaLoans


def register(registry: Registry) -> None:
    """Register the adapter and the head."""
    registry.add("loans", SbaLoans)
    registry.add("default", LoanDefault)
