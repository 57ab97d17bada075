"""Finds tasks that have the same sentence, or nearly the same one for a text encoder."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sb3_llmdpd.prompts.alike_texts import alike_pairs
from sb3_llmdpd.prompts.text_cache import cached_encoder
from sb3_llmdpd.prompts.text_encoders import TextEncoder, check_vectors


@dataclass(frozen=True)
class AlikeTexts:
    """Sentences that hardly tell tasks apart.

    :param tasks: two or more tasks.
    :param texts: the one sentence that they share, or a sentence of each.
    :param cosine: cosine of the vectors of two sentences; 1 for a shared one.
    """

    tasks: tuple[str, ...]
    texts: tuple[str, ...]
    cosine: float


@dataclass(frozen=True)
class TextComparison:
    """Result of a comparison of the tasks' sentences.

    :param shared: sentences that several tasks have, equal up to case and white space.
    :param similar: for each other sentence the nearest one of another task, where it is near (see
        `alike_pairs`); the nearest pairs first, and one pair of two tasks.
    :param encoder_name: name of the encoder that compared them; None without a comparison of vectors.
    :param left_out: reason why vectors were not compared; None where they were.
    """

    shared: tuple[AlikeTexts, ...]
    similar: tuple[AlikeTexts, ...]
    encoder_name: str | None
    left_out: str | None


class TextComparer:
    """Compares the sentences of tasks.

    :param encoder: encoder of the model to be trained, or its name, see `make_text_encoder`; None to compare
        letters alone. Without its packages or weights letters alone are compared, and the result says so.
    :raises ValueError: when there is no encoder of this name.
    """

    def __init__(self, encoder: TextEncoder | str | None) -> None:
        self._encoder: TextEncoder | None = None
        self._left_out = "no text encoder was named"
        try:
            if isinstance(encoder, str):
                encoder = cached_encoder(encoder)
            self._encoder = encoder
        except ImportError as error:
            self._left_out = str(error)

    def compare(self, texts_by_task: Mapping[str, Iterable[str]]) -> TextComparison:
        """Look for tasks that their distinct sentences, possibly none, hardly tell apart."""
        owners: dict[str, dict[str, None]] = {}
        wording: dict[str, str] = {}
        for task, texts in texts_by_task.items():
            for text in texts:
                letters = " ".join(text.casefold().split())
                owners.setdefault(letters, {})[task] = None
                wording.setdefault(letters, text)
        shared = tuple(
            AlikeTexts(tuple(tasks), (wording[key],), 1.0) for key, tasks in owners.items() if len(tasks) > 1
        )
        encoder = self._encoder
        if encoder is None:
            return TextComparison(shared, (), None, self._left_out)
        if len(texts_by_task) == 1 or not owners:
            return TextComparison(shared, (), encoder.name, None)  # without loading a language model
        sentences = [wording[key] for key in owners]
        try:
            vectors = check_vectors(encoder.encode(sentences), sentences, encoder)
        except (ImportError, OSError, ValueError) as error:
            # An encoder looks for its packages and weights at its first use.
            return TextComparison(shared, (), None, str(error))
        tasks = [tuple(tasks) for tasks in owners.values()]
        similar: dict[frozenset[str], AlikeTexts] = {}
        for one, other, cosine in alike_pairs(vectors, tasks):
            names = (tasks[one][0], tasks[other][0])
            alike = AlikeTexts(names, (sentences[one], sentences[other]), cosine)
            similar.setdefault(frozenset(names), alike)  # the nearest of these tasks comes first
        return TextComparison(shared, tuple(similar.values()), encoder.name, None)
