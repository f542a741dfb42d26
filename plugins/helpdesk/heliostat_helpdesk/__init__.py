"""Help desk: a question in, the product it is about and the pages that may help out."""

from __future__ import annotations

from heliostat.plugin import Registry
from heliostat_helpdesk.pages import HelpPages
from heliostat_helpdesk.product import Product


def register(registry: Registry) -> None:
    """Register the adapter and the head."""
    registry.add("pages", HelpPages)
    registry.add("product", Product)
