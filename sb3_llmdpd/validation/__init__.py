"""Measures a model without a simulator, on episodes and tasks that its training held out."""

from sb3_llmdpd.validation.advice import Advice, advise
from sb3_llmdpd.validation.callback import HeldOutError
from sb3_llmdpd.validation.errors import HeldOutErrors, measure
from sb3_llmdpd.validation.held_out import HeldOut, beside, hold_out
from sb3_llmdpd.validation.probes import PROMPTS, make_probes

__all__ = [
    "PROMPTS",
    "Advice",
    "HeldOut",
    "HeldOutError",
    "HeldOutErrors",
    "advise",
    "beside",
    "hold_out",
    "make_probes",
    "measure",
]
