"""The sectors of the North American Industry Classification System, by the first two digits of a code."""

from __future__ import annotations

SECTORS = {
    "11": "agriculture", "21": "mining", "22": "utilities", "23": "construction", "31": "manufacturing",
    "32": "manufacturing", "33": "manufacturing", "42": "wholesale", "44": "retail", "45": "retail",
    "48": "transport", "49": "transport", "51": "information", "52": "finance", "53": "real estate",
    "54": "professional services", "55": "holding companies", "56": "administrative services", "61": "education",
    "62": "health care", "71": "arts", "72": "hotels and food", "81": "other services", "92": "public administration",
}  # fmt: skip


def sector_of(code: str | None) -> str | None:
    """The sector of an industry's code; None where it is not known."""
    return SECTORS.get((code or "")[:2])
