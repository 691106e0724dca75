"""Speculative decoding: tokens a second beside transformers' own, and what glsnet adds to the models' time.

With the embedded pair. All times of one test are taken in one run, interleaved; compare them as ratios.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from network import CLOCK, SEED, network
from transformers import AutoModelForCausalLM

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
    """Target and draft server as two processes, GLS with K = 1, against transformers in one process."""
    names = list(models.PAIR.values())
    target, drafter = (AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32) for name in names)
    drafter.generation_config.num_assistant_tokens = LENGTH
    drafter.generation_config.num_assistant_tokens_schedule = "constant"
    drafter.generation_config.assistant_confidence_threshold = 0.0
    tokenizer = models.load("embedded-target").tokenizer

    def assisted(prompt: str, **how: Any) -> tuple[int, float]:
        ids = torch.tensor([tokenizer.encode(prompt)])
        since = time.perf_counter()
        with torch.inference_mode():
            made = target.generate(ids, do_sample=True, top_k=0, max_new_tokens=TOKENS, pad_token_id=0,
                                   attention_mask=torch.ones_like(ids), **how)
        return made.shape[1] - ids.shape[1], time.perf_counter() - since

    async def run() -> None:
        counts = {name: np.zeros(2) for name in ("glsnet, gls K=1", "glsnet, none", "transformers, assisted",
                                                 "transformers, alone")}
        async with local_speculation(["--streams", "1"], [["--streams", "0"]]) as address:
            while (await speculating.status(address)).drafting < 1:
                await asyncio.sleep(0.05)
            for repeat in range(REPEATS + 1):
                for at, prompt in enumerate(PROMPTS):
                    taken = {
                        "glsnet, gls K=1": await over_grpc(address, Asked(prompt, TOKENS, at, length=LENGTH)),
                        "glsnet, none": await over_grpc(address, Asked(prompt, TOKENS, at, scheme="none")),
                        "transformers, assisted": assisted(prompt, assistant_model=drafter),
                        "transformers, alone": assisted(prompt),
                    }
                    for name, each in taken.items():
                        counts[name] += each if repeat else (0, 0)  # the first is to warm up
        rate = {name: tokens / seconds for name, (tokens, seconds) in counts.items()}
        print("\n" + "\n".join(f"{name}: {each:.0f} tokens/s" for name, each in rate.items()))
        ratio = rate["glsnet, gls K=1"] / rate["transformers, assisted"]
        print(f"glsnet over gRPC against assisted generation: {ratio:.2f} times (to reach: 1)")

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


def test_glsnets_own_share_of_a_round() -> None:
    """All but the models' time: sampling, races, packing, frames, gRPC, threads; beside the models' time."""
    async def run() -> None:
        for drafts in (1, 4, 8):
            target, drafter = Timed(models.load("embedded-target")), Timed(models.load("embedded-drafter"))
            async with network(target, [DraftSession(drafter, SEED, range(drafts), CLOCK)], drafts) as net:
                asked = Asked(PROMPTS[0], TOKENS, length=LENGTH, drafts=drafts)
                await net.text(asked)
                target.seconds = drafter.seconds = total = 0.0
                blocks = 0
                for seed in range(10):
                    _, finished = await net.text(replace(asked, seed=seed))
                    total += finished.seconds
                    blocks += finished.blocks
                of_models = target.seconds + drafter.seconds
                print(f"\nK={drafts}, L={LENGTH}: {1e3 * total / blocks:.2f} ms a round, the target's model "
                      f"{1e3 * target.seconds / blocks:.2f}, the drafter's {1e3 * drafter.seconds / blocks:.2f}; the "
                      f"rest is {100 * (total - of_models) / of_models:.1f} % of the models' time (to reach: 10)",
                      end="")
        print()

    asyncio.run(run())


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
