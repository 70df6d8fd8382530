"""The tokenizer of a model as its own folder has it, and what that one puts around a text.

TransformerLens loads every tokenizer anew with a BOS in front, and tells by the model's family whether
one belongs there. Both are wrong for many models, so the bridge gets the folder's own.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from lofit_lens.errors import UnsupportedError
from lofit_lens.loading.gguf import split_source

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

PROBE = "The 3 cats' naïve café costs 12.50 €.\n\nQ: 你好, мир 🙂?\tdef f(x):\n    return x  # A: "
"""A text of many kinds of characters: tokenizers that agree on it are taken for the same."""


@dataclass(frozen=True)
class TokenizerRule:
    """What a tokenizer does with a text, beside cutting it.

    Attributes:
        lead: Ids it puts in front of a text by itself; none, BOS, or more than one.
        tail: Ids it puts behind a text by itself.
        bos: Its BOS, whether or not it puts that in front.
        eos: Its EOS.
        ids: The beginning of a SHA-256 over the ids of a fixed text.
    """

    lead: tuple[int, ...]
    tail: tuple[int, ...]
    bos: int | None
    eos: int | None
    ids: str

    def __str__(self) -> str:
        lead = " ".join(map(str, self.lead)) or "nothing"
        return f"{lead} in front, BOS {self.bos}, EOS {self.eos}, ids {self.ids}"


_RULES: WeakKeyDictionary[Any, dict[tuple[Any, ...], TokenizerRule]] = WeakKeyDictionary()


FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json",
    "vocab.txt", "merges.txt", "tekken.json", "*.tiktoken",
)  # fmt: skip
"""Files by which a folder has a tokenizer."""


def load_tokenizer(source: str, *, revision: str | None = None) -> Any:
    """The tokenizer of a folder, GGUF file or hub name, as `transformers` reads it.

    None if it is a folder without one.
    """
    from transformers import AutoTokenizer

    folder, file = split_source(source)
    here = Path(folder)
    if not file and here.is_dir() and not any(any(here.glob(pattern)) for pattern in FILES):
        return None
    return AutoTokenizer.from_pretrained(folder, revision=revision, **file)


def stand_in() -> Any:
    """A tokenizer to boot a bridge with: what TransformerLens does to it harms nobody's own."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    nothing = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    return PreTrainedTokenizerFast(tokenizer_object=nothing)


def attach_tokenizer(model: TransformerBridge, tokenizer: Any) -> None:
    """Give a bridge its tokenizer, untouched, so that `model.to_tokens` gives its ids too.

    Only padding is named where there is none, EOS or the unknown token, so that several texts make a
    batch.
    """
    model._tokenizer = tokenizer  # the property would set TransformerLens's own rule again
    if tokenizer is None:
        return
    rule = rule_of(tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    cfg: Any = model.cfg
    cfg.default_prepend_bos = cfg.tokenizer_prepends_bos = bool(rule.lead)
    cfg.tokenizer_appends_eos = bool(rule.tail)


def rule_of(tokenizer: Any) -> TokenizerRule:
    """What a tokenizer puts around a text, and which tokenizer it is.

    Raises:
        UnsupportedError: It cuts a text differently when it puts special tokens around it.
    """
    known = _RULES.setdefault(tokenizer, {})
    settings = (len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    key = *settings, *(getattr(tokenizer, f"add_{end}_token", None) for end in ("bos", "eos"))
    if key not in known:
        known[key] = _find_rule(tokenizer)
    return known[key]


def _find_rule(tokenizer: Any) -> TokenizerRule:
    plain = list(tokenizer(PROBE, add_special_tokens=False)["input_ids"])
    whole = list(tokenizer(PROBE)["input_ids"])
    for n in range(len(whole) - len(plain) + 1):
        if whole[n : n + len(plain)] == plain:
            break
    else:
        raise UnsupportedError(
            "The tokenizer cuts a text into other tokens when it puts its special tokens around it, so "
            "the answer cannot be told from the prompt. Save the model with its fast tokenizer "
            "(tokenizer.json)."
        )
    return TokenizerRule(
        lead=tuple(whole[:n]),
        tail=tuple(whole[n + len(plain) :]),
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        ids=hashlib.sha256(repr(plain).encode()).hexdigest()[:12],
    )
