"""How the embedded pair of language models was made, and can be made again: `glsnet train language`.

The text is that of a folder with GSM8K's training problems (Cobbe et al., MIT licence) and a corpus of Shakespeare
(public domain); GSM8K's test problems are only looked at to report the loss. Both models share a byte-level BPE
tokenizer that is fitted to the same text, and are Qwen2 decoders of a few layers, saved as transformers saves them, so
that they load as any other checkpoint does.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from glsnet.errors import CallerError
from glsnet.language.models import prompt_of

VOCABULARY = 2048
CONTEXT = 512  # most tokens of a prompt and what follows
WINDOW = 256  # tokens of one training sequence
BATCH = 16
END = "<|endoftext|>"
HELD_OUT = 200  # test problems that the loss is reported on


@dataclass(frozen=True)
class Size:
    """One model of the pair; `steps` of BATCH windows each."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    steps: int


SIZES = {"target": Size(224, 4, 4, 608, 1800), "drafter": Size(128, 2, 4, 320, 1500)}


@dataclass(frozen=True)
class Progress:
    """Where training stands: mean loss in nats a token, since the last report, and in the end on held-out text."""

    step: int
    steps: int
    loss: float
    held_out: float | None = None


def documents(folder: Path) -> tuple[list[str], list[str]]:
    """Texts to train on, and those held out.

    Raises:
        CallerError: a file is not there.
    """
    try:
        problems, unseen = ([_problem(line) for line in (folder / name).read_text().splitlines()]
                            for name in ("gsm8k_train.jsonl", "gsm8k_test.jsonl"))
        scenes = (folder / "tinyshakespeare.txt").read_text().split("\n\n")
    except OSError as error:
        raise CallerError(f"text: expected gsm8k_train.jsonl, gsm8k_test.jsonl and tinyshakespeare.txt in {folder}, "
                          f"got {error.strerror} for {error.filename}") from error
    plays = ["\n\n".join(scenes[start : start + 20]) for start in range(0, len(scenes), 20)]
    return problems + plays, unseen[:HELD_OUT]


def _problem(line: str) -> str:
    """Question and answer, without the notes for a calculator that GSM8K has between << and >>."""
    problem = json.loads(line)
    return f"{prompt_of(problem['question'])} {re.sub(r'<<.*?>>', '', problem['answer']).strip()}"


def fit_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of VOCABULARY tokens, END being token 0; digits are tokens of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    wrap: Any = PreTrainedTokenizerFast  # which has no annotations
    fitted: PreTrainedTokenizerFast = wrap(tokenizer_object=tokenizer, eos_token=END, bos_token=END,
                                           clean_up_tokenization_spaces=False)
    return fitted


def train(name: str, tokenizer: PreTrainedTokenizerFast, texts: list[str], held_out: list[str], seed: int,
          report: Callable[[Progress], None], steps: int | None = None) -> Qwen2ForCausalLM:
    """Train one model of the pair: AdamW, whose rate rises, then falls to nothing as a cosine.

    Args:
        name: of SIZES.
        tokenizer: of both models.
        texts: to train on.
        held_out: to report the loss on.
        seed: of the weights and of the order of the text.
        report: called every 20 steps, and at the end.
        steps: other than those of SIZES.

    Raises:
        CallerError: the texts are too short for one batch.
    """
    size = SIZES[name]
    steps = steps or size.steps
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=VOCABULARY, hidden_size=size.hidden, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, num_key_value_heads=size.heads // 2, intermediate_size=size.intermediate,
        max_position_embeddings=CONTEXT, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
    ))
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
                                  lr=3e-3, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
    losses: list[float] = []
    for step, window in zip(range(1, steps + 1), _windows(tokenizer, texts, seed), strict=False):
        loss = _loss(model, window)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        losses.append(loss.item())
        if step % 20 == 0 and step < steps:
            report(Progress(step, steps, float(np.mean(losses))))
            losses = []
    report(Progress(steps, steps, float(np.mean(losses)), held_out_loss(model, tokenizer, held_out)))
    return model


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model, in float16, and its tokenizer; raises CallerError if the folder cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        whole: Any = model  # whose annotations are incomplete
        whole.half().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except OSError as error:
        raise CallerError(f"output: expected a folder that can be written, got {folder}: {error.strerror}") from error


def held_out_loss(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> float:
    """Nats a token over whole texts."""
    total, count = 0.0, 0
    with torch.no_grad():
        for text in texts:
            window = torch.tensor([[0, *tokenizer.encode(text)][:CONTEXT]])
            total += _loss(model, window).item() * (window.shape[1] - 1)
            count += window.shape[1] - 1
    return total / count


def _loss(model: Qwen2ForCausalLM, window: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=window[:, :-1], use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _windows(tokenizer: PreTrainedTokenizerFast, texts: list[str], seed: int) -> Iterator[torch.Tensor]:
    """Batches of windows, shape [BATCH, WINDOW + 1], epoch after epoch; each epoch in an order of its own."""
    rng = np.random.default_rng(seed)
    encoded = [np.array([0, *ids], np.int64) for ids in tokenizer(texts)["input_ids"]]
    if (found := sum(map(len, encoded))) < (least := BATCH * (WINDOW + 1) + WINDOW):
        raise CallerError(f"text: expected at least {least} tokens, one batch, got {found}; give more")
    while True:
        stream = np.concatenate([encoded[at] for at in rng.permutation(len(encoded))])
        offset = int(rng.integers(WINDOW))
        count = (stream.size - offset) // (WINDOW + 1)
        windows = stream[offset : offset + count * (WINDOW + 1)].reshape(count, WINDOW + 1)
        for start in range(0, count - BATCH + 1, BATCH):
            yield torch.from_numpy(windows[start : start + BATCH])
