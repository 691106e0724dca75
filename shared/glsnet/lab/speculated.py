"""Experiments on speculative decoding: the same prompts through every scheme, or single tokens beside theory.

    run         settings, prompts, parties -> requests, prompt by prompt -> one result: schemes, diverse, consistency
    matching    settings, prompts, models -> contexts along the target's own texts -> rates beside bounds
    rouge_l, ratio, refutes    how texts, ratios and rates are judged

The request of prompt i has seed i, whatever the scheme, so that differences between schemes are those of schemes.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from glsnet import bounds
from glsnet.coupling import draw_x, draw_y
from glsnet.drafting import DraftSession
from glsnet.errors import CallerError, TransportError
from glsnet.frames import NO_TRAFFIC, Traffic
from glsnet.generation import Asked, Finished, Piece, Request
from glsnet.lab.processes import local_speculation
from glsnet.lab.prompts import Prompts
from glsnet.lab.runner import per_sample
from glsnet.lab.settings import SpeculationRun
from glsnet.lab.tally import Mean
from glsnet.language.models import LanguageModel
from glsnet.language.sampling import Sampling
from glsnet.race import FloatArray
from glsnet.randomness import MAX_ROUNDS, seed_from_integer, session_key
from glsnet.speculation import TargetSession, generate, introduce
from glsnet.transport import speculating
from glsnet.transport.security import LOCAL, Security
from glsnet.transport.speculating import Status
from glsnet.verification import SINGLE

Row = dict[str, Any]
Ask = Callable[[Asked], AsyncIterator[Piece | Finished]]
Progress = Callable[[int, int, str], None]  # how much is done, of how much, and what it is

READY_SECONDS = 60.0  # that draft servers have to join the target
ONE_DRAFT = (*SINGLE, "none")
STRATEGIES = {  # as the published tables call them
    "specinfer": "SpecInfer", "kseq": "SpecTr", "gls": "GLS", "gls-strong": "GLS, strong", "daliri": "Daliri",
    "leviathan": "single-draft", "block-verification": "block verification", "equality-check": "equality check",
    "none": "no drafts",
}
DIVERSE = ((0.5, 1.0), (1.0, 0.5), (1.0, 1.0))  # temperatures of the two drafts
CHANGED = (1.0, 0.5)  # temperatures of all drafts, before and after
# What another temperature of the drafter leaves of a text, ROUGE-L: RPK, GSM8K, Qwen2.5 7B and 0.5B.
PUBLISHED_ROUGE_L = {"specinfer": 0.647, "gls": 0.745, "gls-strong": 1.0}


class Pair(NamedTuple):
    """Models of one vocabulary."""

    target: LanguageModel
    drafter: LanguageModel


@dataclass(frozen=True)
class Cell:
    """What a row of the result is about; without temperatures, drafts have the target's."""

    scheme: str
    drafts: int
    temperatures: tuple[float, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Settings with the defaults of their experiment filled in: K, L, the target's temperature, and the cells."""

    drafts: tuple[int, ...]
    length: int
    temperature: float
    cells: list[Cell]

    @property
    def streams(self) -> int:
        """The most drafts of a cell."""
        return max(cell.drafts for cell in self.cells)


@dataclass(frozen=True)
class Outcome:
    """What came of one request."""

    text: str
    finished: Finished


def plan_of(settings: SpeculationRun) -> Plan:
    """What to measure; raises CallerError if the settings do not go together."""
    length, temperature = settings.length or 4, 1.0 if settings.temperature is None else settings.temperature
    cells: list[Cell]
    match settings.experiment:
        case "schemes":
            drafts = settings.drafts or (1, 2, 4, 8)
            schemes = settings.schemes or ("none", "leviathan", "block-verification", "daliri", "equality-check",
                                           "specinfer", "kseq", "gls", "gls-strong")
            cells = [_baseline(()), *(Cell(scheme, k) for scheme in schemes for k in _counts(scheme, drafts))]
        case "diverse":
            drafts = settings.drafts or (2,)
            length, temperature = settings.length or 5, 2.0 if settings.temperature is None else settings.temperature
            schemes = settings.schemes or ("specinfer", "gls", "gls-strong")
            if drafts != (2,) or {*schemes} & {*ONE_DRAFT}:
                raise CallerError("experiment: expected for diverse K = 2 and schemes that two drafts can play, got "
                                  f"drafts {', '.join(map(str, drafts))} and schemes {', '.join(schemes)}")
            cells = [_baseline((1.0,)), *(Cell(scheme, 2, pair) for scheme in schemes for pair in DIVERSE)]
        case "consistency":
            drafts = settings.drafts or (4,)
            schemes = settings.schemes or ("specinfer", "gls", "gls-strong", "kseq", "equality-check", "leviathan",
                                           "block-verification", "daliri")
            cells = [Cell(scheme, k, (temperature,) * k) for scheme in schemes for k in _counts(scheme, drafts)
                     for temperature in CHANGED]
        case "matching":
            drafts, cells = settings.drafts or (1, 2, 4, 8), []
            if settings.schemes is not None:
                raise CallerError("schemes: expected none for matching, which has those with a rate in theory, got "
                                  f"{', '.join(settings.schemes)}; leave them out")
    plan = Plan((*dict.fromkeys(drafts),), length, temperature, [*dict.fromkeys(cells)])
    for cell in plan.cells:
        _asked(settings, plan, cell, "", 0).request(cell.drafts)
    return plan


def _counts(scheme: str, drafts: Sequence[int]) -> Sequence[int]:
    return (1,) if scheme in ONE_DRAFT else drafts


def _baseline(temperatures: tuple[float, ...]) -> Cell:
    """What gains are over: the published tables' single draft."""
    return Cell("leviathan", 1, temperatures)


def few(prompts: Prompts, settings: SpeculationRun) -> Prompts:
    """As many as the settings want; raises CallerError if they are set to more than there are."""
    if settings.prompts > len(prompts.texts) and "prompts" in settings.model_fields_set:
        raise CallerError(f"prompts: expected at most {len(prompts.texts)}, those of {prompts.name}, got "
                          f"{settings.prompts}; leave it out, or give a file with more")
    return Prompts(prompts.name, prompts.texts[: settings.prompts])


async def run(settings: SpeculationRun, prompts: Prompts, parties: Pair | str | None, progress: Progress,
              security: Security = LOCAL) -> Row:
    """Generate for every prompt with every scheme of an experiment but `matching`, and measure.

    Prompts are the outer loop: a machine that slows down slows all schemes alike.

    Args:
        settings: the run's.
        prompts: all of them are used.
        parties: models, for one process; or the address of a target that runs, with its draft servers; None starts a
            target and a draft server with all streams on this machine and stops them again.
        progress: called after every request.
        security: by which a target that runs is dialled.

    Returns:
        the result, ready for JSON; of its rows, `flat` makes lines of a CSV.

    Raises:
        CallerError: the settings do not go together, or a prompt does not leave room in the target's context.
        GlsnetError: a party cannot be reached, refuses, or is lost.
    """
    plan = plan_of(settings)
    outcomes: dict[Cell, list[Outcome]] = {cell: [] for cell in plan.cells}
    async with AsyncExitStack() as stack:
        if isinstance(parties, Pair):
            seed = seed_from_integer(settings.seed)
            ask, name, transport = direct(parties, seed, plan.streams), parties.target.name, "direct"
        else:
            address = (await stack.enter_async_context(_local(settings, plan.streams)) if parties is None else parties)
            name = (await _drafted_on(address, plan.streams, security)).model
            ask, transport = partial(speculating.generate, address, security=security), "grpc"
        await _warm_up(settings, plan, prompts, ask, progress)
        total = len(prompts.texts) * len(plan.cells)
        for number, prompt in enumerate(prompts.texts):
            for cell, of in outcomes.items():
                of.append(await _outcome(ask, _asked(settings, plan, cell, prompt, number)))
                done = sum(map(len, outcomes.values()))
                progress(done, total, f"{cell.scheme}, K = {cell.drafts}")
    started = not isinstance(parties, str)
    drafter = parties.drafter.name if isinstance(parties, Pair) else settings.draft_model if started else None
    result = _head(settings, plan, prompts, name, drafter) | {
        "length": plan.length, "max_tokens": settings.max_tokens, "streams": plan.streams,
        "seed": settings.seed if started else None, "transport": transport,
    }
    if settings.experiment == "consistency":
        return result | {"rows": [*_consistency(prompts.name, plan, outcomes)]}
    rows = [_row(cell, of, outcomes[plan.cells[0]], transport == "grpc") for cell, of in outcomes.items()]
    if settings.experiment == "diverse":
        temperatures = [dict(zip(("temperature_1", "temperature_2"), (*cell.temperatures, None), strict=False))
                        for cell in plan.cells]
        rows = [{"strategy": row["strategy"], **each, "dataset": prompts.name, **row}
                for row, each in zip(rows, temperatures, strict=True)]
    else:
        rows = [{"strategy": row["strategy"], "dataset": prompts.name, **row} for row in rows]
    return result | {"rows": rows}


def _head(settings: SpeculationRun, plan: Plan, prompts: Prompts, target: str, drafter: str | None) -> Row:
    return {
        "experiment": settings.experiment, "dataset": prompts.name, "prompts": len(prompts.texts),
        "target_model": target, "draft_model": drafter, "temperature": plan.temperature, "top_k": settings.top_k,
        "top_p": settings.top_p,
    }


def _asked(settings: SpeculationRun, plan: Plan, cell: Cell, prompt: str, seed: int) -> Asked:
    return Asked(prompt, settings.max_tokens, seed, plan.temperature, settings.top_k, settings.top_p,
                 scheme=cell.scheme, drafts=cell.drafts, length=plan.length, draft_temperatures=cell.temperatures)


async def _warm_up(settings: SpeculationRun, plan: Plan, prompts: Prompts, ask: Ask, progress: Progress) -> None:
    """Have kernels compiled, and every prompt looked at, before anything is measured."""
    shortest = replace(_asked(settings, plan, Cell("none", 1), "", 0), max_tokens=1)
    for number, prompt in enumerate(prompts.texts, 1):
        progress(0, len(prompts.texts), f"looking at prompt {number}")
        try:
            await _outcome(ask, replace(shortest, prompt=prompt))
        except CallerError as error:
            raise CallerError(f"prompt {number} of {prompts.name}: {error}") from error
    for cell in plan.cells:
        asked = _asked(settings, plan, cell, prompts.texts[0], 0)
        await _outcome(ask, replace(asked, max_tokens=min(settings.max_tokens, plan.length + 2)))


async def _outcome(ask: Ask, asked: Asked) -> Outcome:
    text, finished = "", Finished()
    async with aclosing(ask(asked)) as replies:  # type: ignore[type-var]  # an iterator in name only
        async for item in replies:
            if isinstance(item, Piece):
                text += item.text
            else:
                finished = item
    return Outcome(text, finished)


def direct(pair: Pair, seed: bytes, streams: int) -> Ask:
    """Both parties in this process, frames handed over as bytes."""
    target = TargetSession(pair.target, seed, streams, time.perf_counter)
    drafter = DraftSession(pair.drafter, seed, range(streams), time.perf_counter)
    introduce(target, drafter)

    async def ask(asked: Asked) -> AsyncIterator[Piece | Finished]:
        with closing(generate(target, [drafter], asked.request(streams))) as replies:  # type: ignore[type-var]
            for item in replies:
                yield item
                await asyncio.sleep(0)  # lets Ctrl-C in

    return ask


def _local(settings: SpeculationRun, streams: int) -> AbstractAsyncContextManager[str]:
    """A target and one draft server with all streams, as processes of this machine."""
    target = [f"--model={settings.target_model}", f"--streams={streams}", f"--seed={settings.seed}"]
    drafter = [f"--model={settings.draft_model}", f"--seed={settings.seed}",
               f"--streams={','.join(map(str, range(streams)))}"]
    return local_speculation(target, [drafter])


async def _drafted_on(address: str, drafts: int, security: Security) -> Status:
    """The target, once all its streams are drafted on.

    Raises:
        CallerError: it has fewer streams than drafts.
        TransportError: it cannot be reached, or a stream is without a draft server for READY_SECONDS.
    """
    deadline = time.monotonic() + READY_SECONDS
    while True:
        found = await speculating.status(address, security)
        if found.streams < drafts:
            raise CallerError(f"drafts: expected K up to {found.streams}, the streams of the target at {address}, got "
                              f"{drafts}; set fewer drafts, or start it with --streams {drafts}")
        if found.drafting == found.streams:
            return found
        if time.monotonic() > deadline:
            raise TransportError(
                f"target {address}: expected draft servers on all of {found.streams} streams within "
                f"{READY_SECONDS:.0f} s, got them on {found.drafting}; do their model's vocabulary and their seed fit? "
                f"`python -m decoder_service draft --target {address}` says why one does not join")
        await asyncio.sleep(0.1)


def _row(cell: Cell, outcomes: list[Outcome], baseline: list[Outcome], on_network: bool) -> Row:
    """What a scheme reached: ratios of sums over prompts."""
    all_of = [each.finished for each in outcomes]
    tokens, seconds = sum(each.tokens for each in all_of), sum(each.seconds for each in all_of)
    efficiency, error = ratio([each.tokens for each in all_of], [each.blocks for each in all_of])
    gain, gain_error = _gain(all_of, [each.finished for each in baseline])
    drafted, accepted = (np.sum([getattr(each, name) for each in all_of], axis=0).tolist()
                         for name in ("drafted", "accepted"))
    sent = sum(each.tokens_sent for each in all_of)
    metered = on_network and all(each.alone for each in all_of)
    return {
        "strategy": STRATEGIES[cell.scheme],
        "block_efficiency": efficiency,
        "token_rate_gain_percent": gain,
        "scheme": cell.scheme,
        "K": cell.drafts,
        "block_efficiency_error": error,
        "token_rate_gain_percent_error": gain_error,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "acceptance": [kept / there if there else None for kept, there in zip(accepted, drafted, strict=True)],
        "round_trips_per_token": sum(each.round_trips for each in all_of) / tokens,
        **{f"{part}_share": sum(getattr(each, f"{part}_seconds") for each in all_of) / seconds
           for part in ("draft", "verify", "wait")},
        "bits_per_token": {way: {"information": sum(getattr(each, f"information_{way}") for each in all_of) / tokens}
                           | per_sample([_sum([getattr(each, way) for each in all_of], metered)], tokens, metered)
                           for way in ("down", "up")},
        "packed_bits_per_drafted_token": 8 * sum(each.up.packed for each in all_of) / sent if sent else None,
        "context_bytes_per_request": sum(each.context for each in all_of) / len(all_of),
    }


def _sum(traffic: Sequence[Traffic], metered: bool) -> Traffic:
    total = sum(traffic, NO_TRAFFIC)
    return total if metered else replace(total, ip=None)


def _gain(of: Sequence[Finished], baseline: Sequence[Finished]) -> tuple[float, float | None]:
    """By how many percent tokens come faster, and its standard error over prompts, which both have the same."""
    rates = [sum(each.tokens for each in side) / sum(each.seconds for each in side) for side in (of, baseline)]
    factor = rates[0] / rates[1]
    spread = [_spread([each.tokens for each in side], [each.seconds for each in side]) for side in (of, baseline)]
    error = _error(factor * (spread[0] - spread[1]))
    return 100 * (factor - 1), None if error is None else 100 * error


def ratio(numerators: ArrayLike, denominators: ArrayLike) -> tuple[float, float | None]:
    """Sum over sum, and its standard error by the delta method; None for less than two.

    numerators, denominators: shape [n], of n independent prompts.
    """
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    value = float(above.sum() / below.sum())
    return value, _error(value * _spread(above, below))


def _spread(numerators: ArrayLike, denominators: ArrayLike) -> FloatArray:
    """By how much each of n moves the logarithm of the ratio of the sums, shape [n]; they sum to 0."""
    above, below = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    spread: FloatArray = above / above.sum() - below / below.sum()
    return spread


def _error(moves: FloatArray) -> float | None:
    n = moves.size
    return math.sqrt(n / (n - 1) * float(moves @ moves)) if n > 1 else None


def _consistency(dataset: str, plan: Plan, outcomes: dict[Cell, list[Outcome]]) -> Iterator[Row]:
    """A row for each scheme and K: how alike its texts are at the two temperatures."""
    for before, after in zip(plan.cells[::2], plan.cells[1::2], strict=True):
        texts = [(a.text, b.text) for a, b in zip(outcomes[before], outcomes[after], strict=True)]
        equal, alike = Mean(), Mean()
        equal.add(np.array([a == b for a, b in texts], np.float64))
        alike.add(np.array([rouge_l(a, b) for a, b in texts]))
        yield {
            "strategy": STRATEGIES[before.scheme], "dataset": dataset, "scheme": before.scheme, "K": before.drafts,
            "temperature_before": CHANGED[0], "temperature_after": CHANGED[1],
            "equal": equal.value, "equal_error": _finite(equal.error),
            "rouge_l": alike.value, "rouge_l_error": _finite(alike.error),
            "rouge_l_published": PUBLISHED_ROUGE_L.get(before.scheme),
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def rouge_l(a: str, b: str) -> float:
    """ROUGE-L: F1 of the longest common subsequence of two texts' words (Lin 2004); 1 for equal texts."""
    if a == b:
        return 1.0
    first, second = a.split(), b.split()
    if not first or not second:
        return 0.0
    longest = [0] * (len(second) + 1)  # of the words so far and the first j of the other text
    for word in first:
        before = longest[:]
        for j, other in enumerate(second):
            longest[j + 1] = before[j] + 1 if word == other else max(before[j + 1], longest[j])
    return 2 * longest[-1] / (len(first) + len(second))


class Context(NamedTuple):
    """Distributions of the next token, shape [V]: the drafter's and the target's."""

    p: FloatArray
    q: FloatArray


def matching(settings: SpeculationRun, prompts: Prompts, pair: Pair, progress: Progress) -> Row:
    """How often one of K drafts of one token is kept: GLS measured, beside what theory says of it and of the others.

    Contexts lie evenly along texts that the target makes of the prompts by itself. Of GLS, `rounds` draws are made for
    each context and K; the rates of SpecInfer, K-SEQ, the equality check and the optimum are exact for each context.

    Args:
        settings: the run's.
        prompts: all of them are used.
        pair: the models.
        progress: called after every prompt.

    Returns:
        the result, ready for JSON, with a row for each K. Rates are means over contexts, as in the published table,
        whose columns come first; `gls_error` is the standard error over contexts, and `below_lemma` in how many of
        them the measured rate refutes the list matching lemma at 5 standard errors.

    Raises:
        CallerError: the models' vocabularies differ, the settings do not go together, or there is no context.
    """
    plan, secret = plan_of(settings), seed_from_integer(settings.seed)
    if settings.contexts * settings.rounds > MAX_ROUNDS:
        raise CallerError(f"rounds: expected at most {MAX_ROUNDS // settings.contexts} for each of "
                          f"{settings.contexts} contexts, got {settings.rounds}")
    if pair.target.tokenizer.digest != pair.drafter.tokenizer.digest:
        raise CallerError(f"draft_model: expected one with the vocabulary of {pair.target.name}, got that of "
                          f"{pair.drafter.name}; take a model of the same family")
    key, start = session_key(secret, "speculation matching"), 0
    distances, rates, below = [], {k: list[list[float]]() for k in plan.drafts}, dict.fromkeys(plan.drafts, 0)
    total = len(prompts.texts)
    for at, prompt in enumerate(prompts.texts):
        wanted = settings.contexts * (at + 1) // total - settings.contexts * at // total
        for p, q in _contexts(settings, plan, pair, secret, prompt, at, wanted):
            distances.append(bounds.total_variation(p, q))
            x = np.array([draw_x(key, start, settings.rounds, p, k) for k in range(max(plan.drafts))])
            for k in plan.drafts:
                y = draw_y(key, start, settings.rounds, q, range(k))
                hits = int((x[:k] == y).any(axis=0).sum())
                lemma = bounds.list_matching_lemma(p, q, k)
                below[k] += refutes(hits, settings.rounds, lemma)
                rates[k].append([hits / settings.rounds, lemma, bounds.specinfer_match(p, q, k),
                                 bounds.kseq_match(p, q, k), bounds.optimal_list_match(p, q, k),
                                 bounds.equality_check_match(p, q, k)])
            start += settings.rounds
        progress(at + 1, total, f"{len(distances)} contexts")
    if not distances:
        raise CallerError("contexts: expected at least one that fits into the drafter's context, got none; take "
                          "shorter prompts")
    rows = []
    for k in plan.drafts:
        measured = np.array(rates[k])
        error = float(measured[:, 0].std(ddof=1)) / math.sqrt(len(measured)) if len(measured) > 1 else None
        gls, lemma, specinfer, kseq, optimum, equal = measured.mean(axis=0).tolist()
        rows.append({"dataset": prompts.name, "K": k, "gls_empirical": gls, "lml_bound": lemma,
                     "specinfer_empirical": specinfer, "spectr_empirical": kseq, "gls_error": error,
                     "optimum": optimum, "equality_check": equal, "below_lemma": below[k]})
    return _head(settings, plan, prompts, pair.target.name, pair.drafter.name) | {
        "seed": settings.seed, "contexts": len(distances), "rounds": settings.rounds,
        "total_variation": float(np.mean(distances)), "below_lemma": sum(below.values()), "rows": rows,
    }


def _contexts(settings: SpeculationRun, plan: Plan, pair: Pair, secret: bytes, prompt: str, seed: int, wanted: int
              ) -> Iterator[Context]:
    """At `wanted` places of the text that the target makes of a prompt, or at all if they are fewer."""
    if not wanted:
        return
    sampling = Sampling(plan.temperature, settings.top_k, settings.top_p)
    target = TargetSession(pair.target, secret, 1, time.perf_counter)
    request = Request(prompt, settings.max_tokens, seed, "none", sampling=sampling)
    text = tuple(token for item in generate(target, [], request) if isinstance(item, Piece) for token in item.tokens)
    tokens = pair.target.tokenizer.encode(prompt)
    last = min(len(text) - 1, min(model.context for model in pair) - len(tokens))
    if last < 0:
        return
    paths = [text[:place] for place in np.unique(np.linspace(0, last, wanted).round().astype(int)).tolist()]
    rows = []
    for model in (pair.drafter, pair.target):
        cache = model.begin()
        cache.advance(tokens)
        rows.append(sampling.probabilities(cache.logits(paths)))
    yield from map(Context, *rows)


def refutes(hits: int, n: int, bound: float) -> bool:
    """Whether `hits` of n draws are too few for a chance of at least `bound`, as 5 standard errors are too many.

    That is, no more likely than a normal number 5 below its mean: exactly, since near 1 rates are far from normal.
    """
    if hits >= n * min(bound, 1.0) or bound >= 1:  # 1 and a little more by rounding
        return hits < n and bound >= 1
    i = np.arange(hits + 1)
    factorials = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    logs = (factorials[n] - factorials[i] - factorials[n - i] + i * math.log(bound) + (n - i) * math.log1p(-bound))
    return float(np.exp(logs).sum()) < 0.5 * math.erfc(5 / math.sqrt(2))


def flat(row: Row) -> Row:
    """A row without lists and objects in it: their entries with longer names, depths from 1."""
    plain: Row = {}
    for name, value in row.items():
        if isinstance(value, list):
            plain |= {f"{name}_{at}": each for at, each in enumerate(value, 1)}
        elif isinstance(value, dict):
            plain |= {f"{name}_{inner}": each for inner, each in flat(value).items()}
        else:
            plain[name] = value
    return plain
