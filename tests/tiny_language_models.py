"""Language models of a few words, which the tests save as `save_pretrained` writes them."""

from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

TEXTS = ("open the drawer", "close it", "push the puck to the goal , then open the drawer again", "open")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for text in TEXTS for word in text.split()}))
N = len(WORDS)
SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=N)


def save_tokenizer(folder: Path, *, brackets: bool = False, **options: Any) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if brackets:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    options["unk_token"] = "[UNK]"
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(folder)


def save_bert(folder: Path) -> None:
    config = transformers.BertConfig(**SIZES, max_position_embeddings=32)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    save_tokenizer(folder, brackets=True, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")


def save_gpt2(folder: Path) -> None:
    """Save a model as GPT-2 itself: the tokenizer has no token for padding."""
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=N, n_positions=32)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    save_tokenizer(folder)


def save_roberta(folder: Path) -> None:
    """Save a model that reads 31 tokens: one of its positions stands for padding, whose number is 0."""
    config = transformers.RobertaConfig(**SIZES, max_position_embeddings=32, pad_token_id=0)
    transformers.RobertaModel(config).save_pretrained(folder)
    save_tokenizer(folder, pad_token="[PAD]")


def save_xlnet(folder: Path) -> None:
    """Save a model without a limit, whose configuration says -1."""
    config = transformers.XLNetConfig(d_model=16, n_layer=1, n_head=2, d_inner=32, vocab_size=N)
    transformers.XLNetModel(config).save_pretrained(folder)
    save_tokenizer(folder, pad_token="[PAD]")


def save_llama(folder: Path) -> None:
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=1, max_position_embeddings=32)
    transformers.LlamaModel(config).save_pretrained(folder)
    save_tokenizer(folder, pad_token="[PAD]", padding_side="left")


def save_t5(folder: Path) -> None:
    config = transformers.T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=N)
    transformers.T5Model(config).save_pretrained(folder)
    save_tokenizer(folder, pad_token="[PAD]")


MODELS = {"bert": save_bert, "gpt2": save_gpt2, "llama": save_llama, "t5": save_t5}
