"""Language models through transformers, as decoders of `tree`."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import model_info, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.utils import logging

from glsnet.errors import CallerError
from glsnet.language.models import Tokenizer
from glsnet.language.tree import TreeCache
from glsnet.race import FloatArray

DTYPES = ("float64", "float32", "bfloat16", "float16")
_CONFIG = "config.json"
_WINDOWS = ("window_size", "keep_window_size")  # of models whose caches do not tell
_REACH = 5.0  # seconds that Hugging Face has to say whether it knows a model


def load(name: str, source: str, device: str, dtype: str, begins: bool) -> "HuggingFaceModel":
    """A model of transformers.

    Args:
        name: what it will be called.
        source: a folder, or the name of a model on Hugging Face.
        device: as torch calls it.
        dtype: one of DTYPES.
        begins: texts begin with a special token, even if the tokenizer's files do not say so.

    Raises:
        CallerError: see `models.load`.
    """
    where = _device(device, dtype)
    local = _is_local(source)
    read: Any = AutoModelForCausalLM  # whose annotations do not know of reports
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        with _quiet() if begins else nullcontext():
            model, report = read.from_pretrained(source, local_files_only=local, dtype=getattr(torch, dtype),
                                                 output_loading_info=True)
    except Exception as error:  # the tokenizers' library raises no narrower class
        raise CallerError(f"model {name!r}: expected one that transformers can read, got {_said(error)}") from error
    if report["missing_keys"]:
        raise CallerError(f"model {name!r}: expected all weights, got none for {sorted(report['missing_keys'])[0]} "
                          f"({len(report['missing_keys'])} missing); save the whole model")
    loaded = HuggingFaceModel(name, model.to(where).eval(), HuggingFaceTokenizer(tokenizer, model, begins))
    _check_tree(loaded, torch.finfo(getattr(torch, dtype)).eps)
    return loaded


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress display of transformers': what is read is small."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


class HuggingFaceTokenizer:
    """A tokenizer of transformers; see `models.Tokenizer`."""

    def __init__(self, tokenizer: Any, model: Any, begins: bool) -> None:
        """Raises CallerError if there is no token to begin an empty text with."""
        self._tokenizer = tokenizer
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        if start is None:
            raise CallerError("tokenizer: expected a token that begins or ends a text, got neither; set eos_token")
        self._start: int = start
        whole, bare = (tokenizer.encode("a", add_special_tokens=special)[:1] for special in (True, False))
        self._begins = begins or whole == [start] != bare
        self.vocabulary = 1 + max(tokenizer.get_vocab().values())
        texts = tokenizer.convert_ids_to_tokens(list(range(self.vocabulary)))
        self.digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
        ends = getattr(model.generation_config, "eos_token_id", None)
        self.end = frozenset({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None})

    def encode(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return [self._start, *tokens] if self._begins or not tokens else tokens

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class HuggingFaceModel:
    """A decoder of transformers; see `models.LanguageModel`."""

    def __init__(self, name: str, model: Any, tokenizer: HuggingFaceTokenizer) -> None:
        """Raises CallerError if the model's cache is not plain, or its vocabulary or context not known to fit."""
        config = model.config.get_text_config(decoder=True)
        other = {type(layer).__name__ for layer in DynamicCache(config=config).layers} - {DynamicLayer.__name__}
        other |= {setting for setting in _WINDOWS if getattr(config, setting, None)}
        other |= {"longrope"} & {(getattr(config, "rope_parameters", None) or {}).get("rope_type")}
        if other:
            raise CallerError(f"model {name!r}: expected full attention in every layer and positions coded alike at "
                              f"every length, got {', '.join(sorted(other))}; take another model")
        context = getattr(config, "max_position_embeddings", None)
        if not isinstance(context, int):
            raise CallerError(f"model {name!r}: expected max_position_embeddings in {_CONFIG}, got {context!r}")
        self._head = model.get_output_embeddings()
        if tokenizer.vocabulary > self._head.weight.shape[0]:
            raise CallerError(f"model {name!r}: expected at least {tokenizer.vocabulary} rows, one for each token, got "
                              f"{self._head.weight.shape[0]}; resize the model's embeddings")
        self.name, self.vocabulary, self.context = name, tokenizer.vocabulary, context
        self.tokenizer: Tokenizer = tokenizer
        self._whole, self._body = model, model.base_model
        self._device, self._dtype = model.device, model.dtype  # which transformers looks for at every weight
        self._kept = torch.promote_types(model.dtype, torch.float32)  # NumPy knows no bfloat16

    def begin(self) -> TreeCache:
        return TreeCache(self)

    def slots(self) -> "_Slots":
        return _Slots()

    @torch.inference_mode()
    def states(self, tokens: list[int], slots: Any, positions: list[int] | None, unseen: NDArray[np.bool_] | None,
               since: int) -> list[torch.Tensor]:
        mask = None
        if unseen is not None:
            mask = torch.zeros(1, 1, *unseen.shape, dtype=self._dtype, device=self._device)
            mask.masked_fill_(torch.from_numpy(unseen).to(self._device), torch.finfo(self._dtype).min)
        states: torch.Tensor = self._body(
            input_ids=self.indices(tokens)[None], attention_mask=mask, cache=slots.cache, use_cache=True,
            position_ids=None if positions is None else self.indices(positions)[None],
        ).last_hidden_state
        return list(states[0, since:].clone())  # a long prompt's states are not to live as long as its last

    @torch.inference_mode()
    def head(self, states: list[torch.Tensor]) -> NDArray[Any]:
        rows: NDArray[Any] = self._head(torch.stack(states))[:, : self.vocabulary].to("cpu", self._kept).numpy()
        return rows

    @torch.inference_mode()
    def plain(self, tokens: list[int]) -> FloatArray:
        """Logits after tokens, shape [V], as transformers computes them without a cache or anything else of ours."""
        logits = self._whole(input_ids=self.indices(tokens)[None], use_cache=False).logits
        row: FloatArray = logits[0, -1, : self.vocabulary].to("cpu", torch.float64).numpy()
        return row

    def indices(self, numbers: Sequence[int]) -> torch.Tensor:
        """Numbers where the model is, shape [N]."""
        return torch.tensor(numbers, device=self._device)


class _Slots:
    """See `tree.Slots`; keys and values have shape [1, heads, slots, D]."""

    def __init__(self) -> None:
        self.cache = DynamicCache()

    @torch.inference_mode()
    def keep(self, trunk: int, slots: tuple[int, ...]) -> None:
        end = trunk + len(slots)
        layers: list[Any] = self.cache.layers
        moved = None
        for layer in layers:
            if slots != tuple(range(trunk, end)):
                moved = torch.tensor(slots, device=layer.keys.device) if moved is None else moved
                for states in (layer.keys, layer.values):
                    states[:, :, trunk:end] = states.index_select(2, moved)
            layer.keys, layer.values = layer.keys[:, :, :end], layer.values[:, :, :end]


def _check_tree(model: HuggingFaceModel, digits: float) -> None:
    """Raises CallerError if logits along a tree are not those of each context by itself, to half of the dtype's digits.

    Some models do not heed masks or positions, or scale what comes out of the head; none says so.
    """
    *trunk, a, b, c = (at * (model.vocabulary - 1) // 5 for at in range(6))
    long = (a, b) * 4  # so that the other branch's slot is far from its position
    try:
        cache = model.begin()
        cache.advance(trunk)
        found = cache.logits([long, (c,)])
        cache.advance((c,))
        found = np.concatenate((found, cache.logits([(b,)])))
        expected = np.array([model.plain([*trunk, *path]) for path in (long, (c,), (c, b))])
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise CallerError(f"model {model.name!r}: expected one that takes masks, positions and a cache, got "
                          f"{_said(error)}") from error
    off = float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())
    if not off <= digits ** 0.5:
        raise CallerError(f"model {model.name!r}: expected logits along a tree as in plain text, got them {off:.2g} "
                          "standard deviations off; take another model, this one's attention does not branch or its "
                          "logits are scaled")


def _is_local(source: str) -> bool:
    """Whether to read a model from this machine alone: it is a folder, or Hugging Face cannot be reached."""
    if (Path(source) / _CONFIG).is_file():
        return True
    try:
        model_info(source, timeout=_REACH)
    except Exception as error:  # classes of whichever HTTP client the hub's library has
        if not isinstance(error, HFValidationError) and isinstance(try_to_load_from_cache(source, _CONFIG), str):
            return True
        raise CallerError(f"model: expected embedded-target, embedded-drafter, a folder with {_CONFIG}, or the name of "
                          f"a model on Hugging Face, got {source!r} ({_said(error)})") from error
    return False


def _device(device: str, dtype: str) -> torch.device:
    if dtype not in DTYPES:
        raise CallerError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    try:
        torch.zeros((), device=device, dtype=getattr(torch, dtype)).item()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise CallerError(f"device: expected one that torch has here and that knows {dtype}, such as cpu, got "
                          f"{device!r} ({_said(error)})") from error
    return torch.device(device)


def _said(error: BaseException) -> str:
    """An error's first line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
