"""`PromptExplanation`, which says what becomes of the sentence of a prompt, and why."""

from dataclasses import dataclass

import numpy as np

from sb3_llmdpd.prompts.text_table import TextTable

N_NEAREST = 3
"""Known sentences that are named."""
SAME = 1 - 1e-5
"""Likeness from which on two sentences are one, but for rounding."""


@dataclass(frozen=True)
class PromptExplanation:
    """Verdict of a model on the sentence of a prompt.

    :param text: the sentence; None for none, and for one that came as a vector.
    :param n_examples: examples beside it.
    :param is_known: True where training had the sentence.
    :param nearest: the known sentences that are nearest, and their likeness, see `TextTable.likeness`.
    :param is_read: True where the policy reads the sentence; False where it is left out, or there is none.
    :param is_far: True where it is farther from all known sentences than each of these from its nearest.
    :param reason: why it is read or not, in a sentence.
    """

    text: str | None
    n_examples: int
    is_known: bool = False
    nearest: tuple[tuple[str, float], ...] = ()
    is_read: bool = False
    is_far: bool = False
    reason: str = "there is no sentence"

    def __str__(self) -> str:
        """Say it in lines for a reader."""
        named = "a sentence given as a vector" if self.text is None else repr(self.text)
        beside = f", beside {self.n_examples} example{'s' * (self.n_examples > 1)}" if self.n_examples else ""
        lines = [f"{named if self.nearest else 'no sentence'}{beside}: {self.reason}"]
        return "\n".join([*lines, *(f"  {likeness:.2f}  {text!r}" for text, likeness in self.nearest)])


def explanation(
    text: str | None, vector: np.ndarray, n_examples: int, table: TextTable, limit: float
) -> PromptExplanation:
    """Decide whether a sentence is read.

    A sentence of an unknown task is no help beside an example: where the goal is hidden it does harm. It is
    left out there unless it is nearly a known one.

    :param text: the sentence; None where only its vector is known.
    :param vector: (dim,), raw.
    :param n_examples: examples beside it.
    :param table: the known sentences.
    :param limit: likeness to the nearest known sentence at which it counts beside an example.
    """
    if not len(table):
        return PromptExplanation(text, n_examples, is_read=True, reason="read, as no sentence is known")
    likeness = table.likeness(vector[None])[0]
    order = np.argsort(-likeness, kind="stable")[:N_NEAREST]
    nearest = tuple((table.texts[i], float(likeness[i])) for i in order)
    most = nearest[0][1]
    is_known = most >= SAME
    is_far = not is_known and most < table.least_likeness
    is_read = not n_examples or most >= min(limit, SAME)
    if is_known:
        reason = "read, as training had it"
    elif not n_examples:
        reason = "read, though far from all that training had" if is_far else "read, as there is no example"
    else:
        read, side = ("read", "at least") if is_read else ("left out", "less than")
        reason = (
            f"{read}, as its likeness to the nearest known sentence is {most:.2f}, {side}"
            f" text_beside_example={limit:g}"
        )
    return PromptExplanation(text, n_examples, is_known, nearest, is_read, is_far, reason)
