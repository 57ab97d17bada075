"""LLMDPD: the algorithm, its policy, its losses, and its model file."""

from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.llmdpd.policies import CnnPolicy, LLMDPDPolicy, MlpPolicy, MultiInputPolicy

__all__ = ["LLMDPD", "CnnPolicy", "LLMDPDPolicy", "MlpPolicy", "MultiInputPolicy"]
