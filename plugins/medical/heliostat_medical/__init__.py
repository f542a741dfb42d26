"""Medical text: diagnoses -> chapters, sentences of abstracts -> their roles, abstracts -> headings."""

from __future__ import annotations

from heliostat.plugin import Registry
from heliostat_medical.diagnoses import Chapters, Diagnoses
from heliostat_medical.headings import MeshHeadings
from heliostat_medical.pubmed import Abstracts, Headings, RoleSentences
from heliostat_medical.roles import Roles


def register(registry: Registry) -> None:
    """Register the adapters and the heads."""
    registry.add("abstracts", Abstracts)
    registry.add("role_sentences", RoleSentences)
    registry.add("headings", Headings)
    registry.add("diagnoses", Diagnoses)
    registry.add("roles", Roles)
    registry.add("chapters", Chapters)
    registry.add("mesh", MeshHeadings)
