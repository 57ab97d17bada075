"""What data are worth, before anything is trained on them."""

from sb3_llmdpd.inspection.findings import Finding, findings
from sb3_llmdpd.inspection.numbers import EntryNumbers, EpisodeNumbers, Inspection, SourceNumbers, TaskNumbers
from sb3_llmdpd.inspection.page import page
from sb3_llmdpd.inspection.reading import inspect_sources
from sb3_llmdpd.inspection.texts import AlikeTexts, TextComparison

__all__ = [
    "AlikeTexts",
    "EntryNumbers",
    "EpisodeNumbers",
    "Finding",
    "Inspection",
    "SourceNumbers",
    "TaskNumbers",
    "TextComparison",
    "findings",
    "inspect_sources",
    "page",
]
