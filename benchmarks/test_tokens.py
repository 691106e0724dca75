"""Speculative decoding: tokens a second beside transformers' own, and what glsnet adds to the models' time.

With the embedded pair. All times of one test are taken in one run, interleaved; compare them as ratios.
"""

import asyncio
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from network import CLOCK, SEED, network
from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from glsnet.drafting import DraftSession
from glsnet.generation import Asked, Finished
from glsnet.lab.processes import local_speculation
from glsnet.lab.prompts import built_in
from glsnet.language import models
from glsnet.language.models import Cache, LanguageModel, Tokenizer
from glsnet.race import FloatArray
from glsnet.randomness import session_key
from glsnet.transport import speculating
from glsnet.verification import Block, draft_token, verify

LENGTH, TOKENS, REPEATS = 4, 96, 3
PROMPTS = built_in().texts


def test_tokens_a_second_against_assisted_generation() -> None:
    """Target and draft server as two processes, GLS with K = 1, against transformers in one process.

    transformers with its defaults for the length of drafts, and with L tokens as glsnet drafts.
    """
    target, drafter = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
                       for folder in models.PAIR.values())
    tokenizer = models.load("embedded-target").tokenizer
    default = drafter.generation_config
    config: Any = GenerationConfig  # which has no annotations
    fixed = config(num_assistant_tokens=LENGTH, num_assistant_tokens_schedule="constant",
                   assistant_confidence_threshold=0.0)

    def transformers(prompt: str, config: GenerationConfig, **how: Any) -> tuple[int, float]:
        drafter.generation_config = config
        ids = torch.tensor([tokenizer.encode(prompt)])
        since = time.perf_counter()
        with torch.inference_mode():
            made = target.generate(ids, do_sample=True, top_k=0, max_new_tokens=TOKENS, pad_token_id=0,
                                   attention_mask=torch.ones_like(ids), **how)
        return made.shape[1] - ids.shape[1], time.perf_counter() - since

    async def run() -> None:
        counts: dict[str, FloatArray] = defaultdict(lambda: np.zeros(2))
        async with local_speculation(["--streams", "1"], [["--streams", "0"]]) as address:
            for repeat in range(REPEATS + 1):
                for at, prompt in enumerate(PROMPTS):
                    taken = {
                        "glsnet, gls K=1": await over_grpc(address, Asked(prompt, TOKENS, at, length=LENGTH)),
                        "glsnet, none": await over_grpc(address, Asked(prompt, TOKENS, at, scheme="none")),
                        "transformers, assisted, defaults": transformers(prompt, default, assistant_model=drafter),
                        f"transformers, assisted, L={LENGTH}": transformers(prompt, fixed, assistant_model=drafter),
                        "transformers, alone": transformers(prompt, default),
                    }
                    for name, each in taken.items():
                        counts[name] += each if repeat else (0, 0)  # the first is to warm up
        rate = {name: float(tokens / seconds) for name, (tokens, seconds) in counts.items()}
        print("\n" + "\n".join(f"{name}: {each:.0f} tokens/s" for name, each in rate.items()))
        best = max(each for name, each in rate.items() if "assisted" in name)
        print(f"glsnet over gRPC against assisted generation: {rate['glsnet, gls K=1'] / best:.2f} times (to reach: 1)")

    asyncio.run(run())


async def over_grpc(address: str, asked: Asked) -> tuple[int, float]:
    """Tokens, and seconds as the client sees them."""
    since = time.perf_counter()
    async for reply in speculating.generate(address, asked):
        if isinstance(reply, Finished):
            return reply.tokens, time.perf_counter() - since
    raise AssertionError("no Finished")


@dataclass
class Timed:
    """A model whose time is counted."""

    model: LanguageModel
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def vocabulary(self) -> int:
        return self.model.vocabulary

    @property
    def context(self) -> int:
        return self.model.context

    @property
    def tokenizer(self) -> Tokenizer:
        return self.model.tokenizer

    def begin(self) -> Cache:
        return TimedCache(self, self.model.begin())


class TimedCache:
    def __init__(self, timed: Timed, cache: Cache) -> None:
        self._timed, self._cache = timed, cache

    @property
    def length(self) -> int:
        return self._cache.length

    def logits(self, paths: Sequence[tuple[int, ...]]) -> FloatArray:
        since = time.perf_counter()
        logits = self._cache.logits(paths)
        self._timed.seconds += time.perf_counter() - since
        return logits

    def advance(self, tokens: Sequence[int]) -> None:
        since = time.perf_counter()
        self._cache.advance(tokens)
        self._timed.seconds += time.perf_counter() - since


def test_glsnets_own_share_of_a_round(tmp_path: Path) -> None:
    """All but the models' time: sampling, races, packing, frames, gRPC, threads; beside the models' time.

    With the embedded pair in NumPy, where a model's call takes about a millisecond; the same through transformers; and
    with a target of four layers as wide as those of Qwen2.5 0.5B, of random weights.
    """
    folders = {name: str(folder) for name, folder in models.PAIR.items()}
    shutil.copytree(models.PAIR["embedded-target"], tmp_path, dirs_exist_ok=True)
    Qwen2ForCausalLM(Qwen2Config(
        vocab_size=2048, hidden_size=896, intermediate_size=4864, num_hidden_layers=4, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
    )).save_pretrained(tmp_path)

    async def run(title: str, *names: str) -> None:
        for drafts in (1, 4, 8):
            target, drafter = (Timed(models.load(name)) for name in names)
            async with network(target, [DraftSession(drafter, SEED, range(drafts), CLOCK)], drafts) as net:
                asked = Asked(PROMPTS[0], TOKENS, length=LENGTH, drafts=drafts)
                await net.text(asked)
                target.seconds = drafter.seconds = total = 0.0
                blocks = 0
                for seed in range(5):
                    _, finished = await net.text(replace(asked, seed=seed))
                    total += finished.seconds
                    blocks += finished.blocks
                of_models = target.seconds + drafter.seconds
                print(f"\n{title}, K={drafts}, L={LENGTH}: {1e3 * total / blocks:.2f} ms a round, the target's model "
                      f"{1e3 * target.seconds / blocks:.2f}, the drafter's {1e3 * drafter.seconds / blocks:.2f}; the "
                      f"rest is {100 * (total - of_models) / of_models:.1f} % of the models' time (to reach: 10)",
                      end="")
        print()

    asyncio.run(run("embedded pair", *folders))
    asyncio.run(run("embedded pair by transformers", *folders.values()))
    asyncio.run(run("4 layers of 896", str(tmp_path), folders["embedded-drafter"]))


def test_draws_of_a_round_over_a_large_vocabulary() -> None:
    """X of every draft and Y, V = 151,936, K = 8, L = 4."""
    vocabulary, drafts = 151_936, 8
    key, rng = session_key(bytes(32), "bench"), np.random.default_rng(1)
    for name, spread in (("peaked", 3.0), ("flat", 0.3)):
        rows = np.exp(spread * rng.standard_normal((LENGTH + 1, vocabulary)))
        rows /= rows.sum(axis=1, keepdims=True)
        near = rows * np.exp(0.3 * rng.standard_normal(rows.shape))
        near /= near.sum(axis=1, keepdims=True)
        times = []
        for block in range(30):
            since = time.perf_counter()
            tokens = np.array([[draft_token("gls", key, 5 * block + j, j, near[j], k) for j in range(LENGTH)]
                               for k in range(drafts)])
            verify("gls", key, Block(5 * block, tokens, [list(rows)] * drafts))
            times.append(time.perf_counter() - since)
        print(f"\nV={vocabulary:,}, K={drafts}, L={LENGTH}, {name}: {1e3 * float(np.median(times)):.1f} ms a round "
              "(to reach: 10)", end="")
    print()
