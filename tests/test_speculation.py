"""Speculative decoding frame by frame, without a network: exact, invariant where it should be, and what crosses.

The models are toys of 3 to 5 tokens. `by_hand` is the slow, obvious second implementation of a request.
"""

import itertools
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from helpers import pvalue
from toy import Toy

from glsnet import bits, rows
from glsnet.coupling import draw_y
from glsnet.drafting import DraftSession, request_key
from glsnet.errors import CallerError, FrameError, TermsError, TransportError
from glsnet.frames import (
    NO_TRAFFIC,
    Ack,
    Done,
    Frame,
    OfRequest,
    Prompt,
    Row,
    Spent,
    Tokens,
    Wanted,
    carried,
    checksum_of,
    to_bytes,
)
from glsnet.generation import Finished, Piece, Request
from glsnet.language.sampling import Sampling
from glsnet.speculation import Generation, TargetSession, generate, introduce
from glsnet.verification import RATIOS, SCHEMES, SINGLE, Block, Verified, draft_token, verify

SEED = bytes(32)
SIGNIFICANCE = 1e-5  # of each of some hundred tests of exactness: all pass in 999 of 1000 choices of SEED
PROMPT, START = "ab", [0, 1]
TARGET = Toy(3, 1)
NEAR, FAR = Toy(3, 2, 1.0, TARGET), Toy(3, 3, 2.0)
Servers = Sequence[tuple[Toy, Sequence[int]]]
Said = list[tuple[int, OfRequest]]  # frames both ways, with the draft server


def still() -> float:
    return 0.0


def several(scheme: str) -> int:
    """A K that the scheme can have, above 1 if there is one."""
    return 1 if scheme in SINGLE else 3


def parties(model: Toy, servers: Servers, streams: int, clock: Callable[[], float] = still
            ) -> tuple[TargetSession, list[DraftSession]]:
    target = TargetSession(model, SEED, streams, clock)
    drafters = [DraftSession(drafter, SEED, own, clock) for drafter, own in servers]
    for drafter in drafters:
        introduce(target, drafter)
    return target, drafters


def run(target: TargetSession, drafters: Sequence[DraftSession], request: Request) -> tuple[list[Piece], Finished]:
    *pieces, finished = generate(target, drafters, request)
    assert isinstance(finished, Finished)
    return [piece for piece in pieces if isinstance(piece, Piece)], finished


def made(pieces: Sequence[Piece]) -> list[int]:
    return [token for piece in pieces for token in piece.tokens]


def play(target: TargetSession, drafters: Sequence[DraftSession], generations: Sequence[Generation], seed: int,
         blocks: int | None = None) -> tuple[list[list[Piece]], Said]:
    """Requests side by side: a frame arrives or a target steps, whichever chance takes; streams keep their order.

    With `blocks` it stops after so many in all, and frames under way are given to their receivers.
    """
    rng, said = np.random.default_rng(seed), Said()
    pieces: list[list[Piece]] = [[] for _ in generations]
    down: dict[DraftSession, deque[OfRequest]] = {drafter: deque() for drafter in drafters}
    up: dict[DraftSession, deque[OfRequest]] = {drafter: deque() for drafter in drafters}
    at = {drafter.stream: drafter for drafter in drafters}

    def step(number: int) -> None:
        if (piece := generations[number].step()) is not None:
            pieces[number].append(piece)

    def arrive_down(drafter: DraftSession) -> None:
        frame = carried(down[drafter].popleft())[0]
        said.append((drafter.stream, frame))
        if isinstance(frame, Done):
            up[drafter].append(Spent(frame.request, drafter.done(frame), NO_TRAFFIC, NO_TRAFFIC, True))
        else:
            up[drafter].extend(drafter.receive(frame))

    def arrive_up(drafter: DraftSession) -> None:
        frame = carried(up[drafter].popleft())[0]
        said.append((drafter.stream, frame))
        target.receive(drafter.stream, frame)

    while not all(generation.settled for generation in generations):
        if blocks is not None and sum(map(len, pieces)) >= blocks:
            for drafter in drafters:
                while down[drafter]:
                    arrive_down(drafter)
                while up[drafter]:
                    arrive_up(drafter)
            return pieces, said
        for generation in generations:
            while generation.outgoing:
                server, frame = generation.outgoing.popleft()
                down[at[server]].append(frame)
        moves = [partial(arrive_down, drafter) for drafter in drafters if down[drafter]]
        moves += [partial(arrive_up, drafter) for drafter in drafters if up[drafter]]
        moves += [partial(step, number) for number, generation in enumerate(generations)
                  if generation.ready and not generation.finished.reason]
        moves[rng.integers(len(moves))]()
    for generation in generations:
        target.end(generation)
    return pieces, said


def by_hand(request: Request, model: Toy, drafters: dict[int, Toy]) -> Iterator[tuple[list[list[int]], Verified]]:
    """Drafts of each block and what is verified of them, to max_tokens; drafters by stream, all of them up to K."""
    key, text = request_key(SEED, request.seed), model.tokenizer.encode(request.prompt)
    end, live = len(text) + request.max_tokens, [] if request.scheme == "none" else sorted(drafters)
    while (position := len(text)) < end:
        length = min(request.length, end - position - 1)
        drafts: list[list[int]] = []
        p = np.zeros((len(live), length, model.vocabulary))
        for at, k in enumerate(live):
            draft: list[int] = []
            for depth in range(length):
                row = drafters[k].next(text + draft, request.draft_sampling[k])
                p[at, depth] = row = rows.shares(rows.rounded(row)) if request.scheme in RATIOS else row
                draft.append(draft_token(request.scheme, key, position + depth, depth, row, k))
            drafts.append(draft)
        q = [[model.next(text + draft[:j], request.sampling) for j in range(length + 1)] for draft in drafts or [[]]]
        block = Block(position, np.array(drafts, np.int64), np.array(q), p, streams=live, of=request.drafts) \
            if length and live else Block(position, np.zeros((1, 0), np.int64), np.array(q)[:1, :1],
                                          np.zeros((1, 0, model.vocabulary)), of=request.drafts)
        verified = verify(request.scheme, key, block)
        yield (drafts if length else []), verified
        text += verified.tokens


# Exact in distribution.


def law_of(model: Toy, max_tokens: int, sampling: Sampling) -> dict[tuple[int, ...], float]:
    """Of each text after PROMPT, up to its end, the probability that the target gives it."""
    law: dict[tuple[int, ...], float] = {}

    def grow(text: tuple[int, ...], chance: float) -> None:
        if len(text) == max_tokens or (text and text[-1] in model.tokenizer.end):
            law[text] = chance
            return
        for token, p in enumerate(model.next([*START, *text], sampling).tolist()):
            if p > 0:
                grow((*text, token), chance * p)

    grow((), 1.0)
    return law


def check(counts: Counter[tuple[int, ...]], law: dict[tuple[int, ...], float], what: str) -> None:
    seen = np.array([counts[text] for text in law])
    assert seen.sum() == counts.total(), f"{what}: {sorted(counts.keys() - law.keys())} cannot be"
    assert pvalue(seen, np.array([*law.values()])) > SIGNIFICANCE, what


@pytest.mark.parametrize("scheme", SCHEMES)
def test_texts_are_distributed_as_the_targets(scheme: str) -> None:
    """Whole texts, K = 1, 2, 4 and L = 1 to 4 (of 4 tokens, so that last blocks are shorter): each K, each L, and all.

    Each request has its own seed; for K > 1 the streams are on two servers. What `verify` itself might do wrong needs
    more samples to be seen, see test_verification.
    """
    law, seeds = law_of(TARGET, 4, Sampling()), itertools.count()
    counts: dict[str, Counter[tuple[int, ...]]] = {}
    for k in [1] if scheme in SINGLE or scheme == "none" else [1, 2, 4]:
        target, drafters = parties(TARGET, [(NEAR, range(1, k)), (NEAR, [0])] if k > 1 else [(FAR, [0])], k)
        for length in (1, 2, 3, 4):
            for seed in itertools.islice(seeds, 75 if scheme in (*SINGLE, "none") else 25):
                request = Request(PROMPT, 4, seed, scheme, k, length)
                text = tuple(made(run(target, drafters, request)[0]))
                for what in (f"K = {k}", f"L = {length}", "all"):
                    counts.setdefault(what, Counter())[text] += 1
    for what, each in counts.items():
        check(each, law, what)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_texts_of_a_target_with_temperature_top_k_top_p_and_an_end(scheme: str) -> None:
    """Some tokens are never drawn, and texts end before 4 tokens or there."""
    model = Toy(4, 4, ends=True)
    drafter, sampling, k = Toy(4, 5, 1.0, model, ends=True), Sampling(1.3, 3, 0.95), several(scheme)
    law, counts = law_of(model, 4, sampling), Counter[tuple[int, ...]]()
    assert {*map(len, law)} == {2, 3, 4} and len(law) < len(law_of(model, 4, Sampling()))
    target, drafters = parties(model, [(drafter, range(k))], k)
    for seed in range(120):
        pieces, finished = run(target, drafters, Request(PROMPT, 4, seed, scheme, k, 1 + seed % 4, sampling))
        text = tuple(made(pieces))
        assert finished.reason == ("end" if text[-1] == 0 else "length")
        counts[text] += 1
    check(counts, law, scheme)


@pytest.mark.parametrize("scheme", ["gls", "gls-strong", "specinfer"])
def test_texts_with_a_temperature_for_each_draft(scheme: str) -> None:
    law, counts = law_of(TARGET, 4, Sampling(0.9)), Counter[tuple[int, ...]]()
    target, drafters = parties(TARGET, [(FAR, [1]), (NEAR, [0, 2])], 3)
    for seed in range(160):
        request = Request(PROMPT, 4, seed, scheme, 3, 1 + seed % 4, Sampling(0.9), (0.0, 0.5, 3.0))
        counts[tuple(made(run(target, drafters, request)[0]))] += 1
    check(counts, law, scheme)


# The same to the bit.


LAYOUTS: list[list[list[int]]] = [[[0, 1, 2]], [[0], [1], [2]], [[2, 0], [1]]]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sessions_do_what_is_done_by_hand_however_streams_are_split_over_servers(scheme: str) -> None:
    """Tokens, who agreed, and every row of p that crosses; server by server, the streams drafted on are those below K.

    Draft 1 has another model than the rest, but for K-SEQ, whose drafts must be alike.
    """
    models = dict(enumerate([NEAR, NEAR if scheme == "kseq" else FAR, NEAR]))
    for seed, layout in itertools.product(range(6), LAYOUTS):
        servers = [(models[own[0]], own) for own in layout]
        model_of = {k: model for model, own in servers for k in own if k < several(scheme)}
        request = Request(PROMPT, 9, seed, scheme, several(scheme), 1 + seed % 4, Sampling(1.1, 0, 0.97))
        target, drafters = parties(TARGET, servers, 3)
        (pieces,), said = play(target, drafters, [target.begin(request)], seed)
        expected = [*by_hand(request, TARGET, model_of)]
        assert [piece.tokens for piece in pieces] == [verified.tokens for _, verified in expected]
        assert [piece.agreed for piece in pieces] == [[*map(len, v.alive[1:]), 0] for _, v in expected] \
            or scheme == "none"
        wanted = [(frame.stream, frame.depth) for _, frame in said if isinstance(frame, Wanted)]
        assert wanted == [row for _, verified in expected for row in verified.rows]
        assert wanted == [(frame.stream, frame.depth) for _, frame in said if isinstance(frame, Row)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_split_of_streams_over_servers_changes_nothing(scheme: str) -> None:
    for seed in range(10):
        request = Request(PROMPT, 12, seed, scheme, several(scheme), 3)
        texts = []
        for layout in LAYOUTS:
            target, drafters = parties(TARGET, [(NEAR, own) for own in layout], 3)
            texts.append(run(target, drafters, request)[0])
        assert texts[0] == texts[1] == texts[2]


def test_one_text_without_speculation_and_with_one_draft_on_shared_noise() -> None:
    """Same seed and prompt; the equality check's target draws by itself, too, whatever the drafts are."""
    silent, _ = parties(TARGET, [], 1)
    for seed, drafter in itertools.product(range(8), (NEAR, FAR)):
        expected = made(run(silent, [], Request(PROMPT, 10, seed, "none"))[0])
        target, drafters = parties(TARGET, [(drafter, [0, 1])], 2)
        for scheme, k in (("none", 2), ("daliri", 1), ("gls", 1), ("gls-strong", 1), ("equality-check", 2)):
            request = Request(PROMPT, 10, seed, scheme, k, seed % 6)
            assert made(run(target, drafters, request)[0]) == expected, (scheme, seed)


def strong_text(seed: int, count: int) -> list[int]:
    """Token after token, the race over all of three streams."""
    text, key = [*START], request_key(SEED, seed)
    for position in range(len(START), len(START) + count):
        text.append(int(draw_y(key, position, 1, TARGET.next(text), range(3))[0]))
    return text[len(START):]


def test_strong_gls_gives_one_text_whoever_drafts_how_far() -> None:
    """K = 3: any model, any L, any streams that are drafted on, or none."""
    live: list[Servers] = [[], [(NEAR, [1])], [(FAR, [1])], [(NEAR, [0]), (FAR, [2])], [(FAR, [0]), (NEAR, [1, 2])]]
    for seed, servers in itertools.product(range(6), live):
        target, drafters = parties(TARGET, servers, 3)
        pieces, finished = run(target, drafters, Request(PROMPT, 12, seed, "gls-strong", 3, seed % 6))
        assert made(pieces) == strong_text(seed, 12)
        assert bool(finished.tokens_sent) == bool(servers and seed % 6)


def test_strong_gls_gives_one_text_though_draft_servers_are_lost() -> None:
    """Both of them, one after another, while drafts are under way."""
    for seed, lost in itertools.product(range(6), (0, 1)):
        target, drafters = parties(TARGET, [(NEAR, [0, 2]), (FAR, [1])], 3)
        text: list[int] = []
        for piece in generate(target, drafters, Request(PROMPT, 12, seed, "gls-strong", 3, 2)):
            if isinstance(piece, Finished):
                assert (piece.reason, target.drafting) == ("length", 0)
                continue
            text += piece.tokens
            if len(text) >= 3:
                target.leave(lost)
            if len(text) >= 6:
                target.leave(1 - lost)
        assert text == strong_text(seed, 12)


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_draft_server_that_is_lost_is_not_waited_for(scheme: str, answers: bool) -> None:
    """The block is that of the other streams alone, whether it had answered or not; of none, a token of the target."""
    k = several(scheme)
    for seed in range(5):
        request = Request(PROMPT, 4, seed, scheme, k, 3)
        target, drafters = parties(TARGET, [(NEAR, [0]), (NEAR, [1, 2])], 3)
        generation = target.begin(request)
        for answer in drafts_of(drafters[1], generation, 1):
            target.receive(1, answer)
        assert generation.ready == (scheme == "none")
        for answer in drafts_of(drafters[0], generation, 0) if answers else ():
            target.receive(0, answer)
        target.leave(0)
        assert generation.ready
        while (piece := generation.step()) is None:
            ((server, wanted),) = [*generation.outgoing][-1:]
            assert server == 1
            for answer in drafters[1].receive(wanted):
                target.receive(1, answer)
        (_, verified), *_ = by_hand(request, TARGET, dict.fromkeys(range(1, k), NEAR))
        assert piece.tokens == verified.tokens
        assert all(server == 1 for server, frame in generation.outgoing if not isinstance(frame, Prompt))


def drafts_of(drafter: DraftSession, generation: Generation, server: int) -> list[Tokens | Row]:
    """The answers to the prompt of a request that has begun."""
    return [answer for at, frame in generation.outgoing if at == server for answer in drafter.receive(frame)]


def test_gls_is_invariant_given_who_is_alive_alone() -> None:
    """With K > 1 another drafter may give another text, where the strong form gives the same."""
    differ = Counter[str]()
    for seed, scheme in itertools.product(range(12), ("gls", "gls-strong")):
        texts = [made(run(*parties(TARGET, [(drafter, range(3))], 3), Request(PROMPT, 12, seed, scheme, 3))[0])
                 for drafter in (NEAR, FAR)]
        differ[scheme] += texts[0] != texts[1]
    assert differ["gls"] > 0 == differ["gls-strong"]


def test_a_request_gives_the_same_whatever_went_before() -> None:
    target, drafters = parties(TARGET, [(NEAR, range(3))], 3)
    requests = [Request(PROMPT, 8, seed, "specinfer", 3) for seed in (1, 2, 1)]
    first, other, again = (run(target, drafters, request)[0] for request in requests)
    assert first == again != other


def test_requests_side_by_side_are_as_they_are_alone() -> None:
    """All schemes at once, on the same draft servers, frames in many orders."""
    requests = [Request(PROMPT[: 1 + at % 2], 8, at, scheme, several(scheme), 1 + at % 4)
                for at, scheme in enumerate(SCHEMES)]
    alone = [run(*parties(TARGET, [(NEAR, [0, 1]), (NEAR, [2])], 3), request) for request in requests]
    for seed in range(6):
        target, drafters = parties(TARGET, [(NEAR, [0, 1]), (NEAR, [2])], 3)
        generations = [target.begin(request) for request in requests]
        assert [generation.number for generation in generations] == [*range(len(SCHEMES))]
        pieces, _ = play(target, drafters, generations, seed)
        assert pieces == [each for each, _ in alone]
        assert [counted(each.finished) for each in generations] == [counted(finished) for _, finished in alone]
        assert all(drafter.requests == 0 for drafter in drafters)


def counted(finished: Finished) -> Finished:
    """Without the bytes of the way, which `play` does not count; a request's number is one of them."""
    return replace(finished, down=NO_TRAFFIC, up=NO_TRAFFIC, context=0)


# What crosses, and what is counted.


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_sends_what_it_needs_and_no_more(scheme: str) -> None:
    """One of five tokens takes 3 bits, p(x) 32, a row 16 for each token in it; each frame is filled up to bytes."""
    model, k = Toy(5, 6), several(scheme)
    drafter = Toy(5, 7, 1.0, model)
    for seed in range(8):
        target, drafters = parties(model, [(drafter, [0, 1]), (drafter, [2])], 3)
        request = Request(PROMPT, 11, seed, scheme, k, 1 + seed % 4)
        generation = target.begin(request)
        _, said = play(target, drafters, [generation], seed)
        pieces, finished = run(*parties(model, [(drafter, [0, 1]), (drafter, [2])], 3), request)
        assert counted(finished) == counted(generation.finished)
        takes_part = [] if scheme == "none" else [0] if k == 1 else [0, 2]
        proposed = [frame for _, frame in said if isinstance(frame, Tokens) and frame.kind == "drafts"]
        taken = [frame for _, frame in said if isinstance(frame, Tokens) and frame.kind == "accepted"]
        sent_rows = [frame for _, frame in said if isinstance(frame, Row)]
        waits = [length for length, _ in blocks_of(request, pieces) if length > 0] if takes_part else []
        assert {server for server, _ in said} == {*takes_part}
        assert finished.tokens_sent == (k * sum(waits) if takes_part else 0)
        assert finished.probabilities_sent == (finished.tokens_sent if scheme in RATIOS else 0)
        assert finished.rows_sent == len(sent_rows)
        assert finished.round_trips == len(waits) + len(sent_rows)
        assert finished.information_down == 3 * len(takes_part) * sum(len(piece.tokens) for piece in pieces[:-1])
        assert finished.information_up == 3 * finished.tokens_sent + 32 * finished.probabilities_sent + sum(
            3 * frame.count + 16 * (frame.count or 5) for frame in sent_rows)
        streams = {0: 1, 2: 0} if k == 1 else {0: 2, 2: 1}
        assert finished.up.packed == sum(math.ceil(3 * streams[server] * length / 8) for server in takes_part
                                         for length in waits) + 4 * finished.probabilities_sent + sum(
            math.ceil(3 * frame.count / 8) + 2 * (frame.count or 5) for frame in sent_rows)
        assert finished.down.packed == sum(math.ceil(3 * frame.count / 8) for frame in taken)
        assert finished.up.protobuf == size_of(proposed) + size_of(sent_rows)
        wanted = [frame for _, frame in said if isinstance(frame, Wanted)]
        assert finished.down.protobuf == size_of(taken) + size_of(wanted)
        assert finished.context == size_of([frame for _, frame in said if isinstance(frame, Prompt)])
        if scheme not in RATIOS:
            assert finished.information_up == 3 * finished.tokens_sent
            assert not sent_rows and not any(frame.probabilities for frame in proposed)
        if scheme == "none":
            assert (said, finished.context, finished.up, finished.down) == ([], 0, NO_TRAFFIC, NO_TRAFFIC)
        if scheme == "leviathan":  # a row for each draft that is rejected, and for nothing else
            rejected = [len(piece.tokens) <= length for length, piece in blocks_of(request, pieces)]
            assert finished.rows_sent == sum(rejected)


def size_of(frames: Sequence[Frame]) -> int:
    return sum(len(to_bytes(frame)) for frame in frames)


def blocks_of(request: Request, pieces: Sequence[Piece]) -> list[tuple[int, Piece]]:
    """With the L of each block: the last token is left to the target."""
    before = [0, *itertools.accumulate(len(piece.tokens) for piece in pieces)]
    return [(min(request.length, request.max_tokens - n - 1), piece)
            for n, piece in zip(before[:-1], pieces, strict=True)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_counters_are_those_of_the_pieces(scheme: str) -> None:
    target, drafters = parties(TARGET, [(NEAR, range(3))], 3)
    for seed in range(8):
        request = Request(PROMPT, 11, seed, scheme, several(scheme), 1 + seed % 4)
        pieces, finished = run(target, drafters, request)
        assert (finished.reason, finished.tokens, finished.blocks) == ("length", len(made(pieces)), len(pieces))
        assert finished.tokens == 11 and finished.block_efficiency == 11 / len(pieces)
        assert "".join(piece.text for piece in pieces) == TARGET.tokenizer.decode(made(pieces))
        drafted, accepted = [0] * request.length, [0] * request.length
        for length, piece in blocks_of(request, pieces) if scheme != "none" else []:
            for depth in range(min(length, len(piece.tokens))):
                drafted[depth] += 1
                accepted[depth] += depth < len(piece.tokens) - 1
        assert (finished.drafted, finished.accepted) == (drafted, accepted)
        assert sum(accepted) == (finished.tokens - finished.blocks if scheme != "none" else 0)


def test_agreed_is_how_many_drafts_had_proposed_a_token() -> None:
    for scheme, seed in itertools.product(("gls", "gls-strong", "equality-check", "specinfer", "kseq"), range(5)):
        request = Request(PROMPT, 11, seed, scheme, 3, 3)
        pieces, _ = run(*parties(TARGET, [(NEAR, range(3))], 3), request)
        for piece, (drafts, _) in zip(pieces, by_hand(request, TARGET, dict.fromkeys(range(3), NEAR)), strict=True):
            assert piece.agreed == [sum(draft[: at + 1] == piece.tokens[: at + 1] for draft in drafts)
                                    for at in range(len(piece.tokens))]


def test_a_target_waits_from_the_frames_sent_to_the_last_answer() -> None:
    """By a clock that is set by hand; what comes after the end is not waited for."""
    now = [0.0]
    target, drafters = parties(TARGET, [(NEAR, [0]), (NEAR, [1])], 2, lambda: now[0])
    generation = target.begin(Request(PROMPT, 2, 1, "gls", 2, 1))
    for drafter, at in zip(drafters, (2.0, 3.0), strict=True):
        answers = drafts_of(drafter, generation, drafter.stream)
        now[0] = at
        for answer in answers:
            target.receive(drafter.stream, answer)
    while not generation.finished.reason:
        now[0] += 1
        generation.step()
    assert generation.finished.wait_seconds == 3.0
    seconds = generation.finished.seconds
    for drafter in drafters:
        now[0] += 10
        target.receive(drafter.stream, Spent(generation.number, 0.25 + drafter.stream, NO_TRAFFIC, NO_TRAFFIC, True))
    assert generation.settled
    assert (generation.finished.seconds, generation.finished.draft_seconds) == (seconds, 1.25)
    assert generation.finished.wait_seconds == 3.0


# Where a text ends.


def test_what_a_target_cannot_do_is_refused() -> None:
    target, _ = parties(replace(TARGET, context=8), [], 2)
    with pytest.raises(CallerError, match="drafts: expected K up to 2, the target's streams, got 3"):
        target.begin(Request(PROMPT, drafts=3))
    for prompt, count in (("a" * 8, 8), ("a" * 20, 20)):
        with pytest.raises(CallerError, match="prompt: expected at most 7 tokens, which leaves one of the target's "
                                              f"context, got {count}; shorten it"):
            target.begin(Request(prompt))
    for streams in (0, 257):
        with pytest.raises(CallerError, match=f"streams: expected 1 to 256, got {streams}"):
            parties(TARGET, [], streams)
    assert target.begin(Request("a" * 7)).number == 0  # those that were refused have none


def test_drafts_that_kseq_cannot_have_are_refused() -> None:
    target, drafters = parties(TARGET, [(NEAR, [0]), (FAR, [1])], 2)
    with pytest.raises(CallerError, match="kseq needs drafts of one model and temperature"):
        for seed in range(20):
            run(target, drafters, Request(PROMPT, 8, seed, "kseq", 2))
    assert all(drafter.requests == 0 for drafter in drafters)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_text_ends_where_the_targets_context_does(scheme: str) -> None:
    for letters, length in itertools.product((1, 4, 7), (1, 3, 5)):
        target, drafters = parties(replace(TARGET, context=8), [(NEAR, range(3))], 3)
        request = Request("a" * letters, 100, 1, scheme, several(scheme), length)
        pieces, finished = run(target, drafters, request)
        assert (finished.reason, finished.tokens) == ("length", 8 - letters)
        assert finished.tokens == len(made(pieces))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_drafter_whose_context_ends_sends_no_more_drafts(scheme: str) -> None:
    """The other's are enough; a drafter whose context the prompt is beyond never sends any."""
    k = several(scheme)
    live = dict.fromkeys(range(k - 1), NEAR)
    for context, letters in ((2, 4), (4, 4), (8, 4), (12, 4)):
        servers = [(NEAR, range(k - 1)), (replace(NEAR, context=context), [k - 1])]
        target, drafters = parties(TARGET, servers if k > 1 else servers[1:], k)
        request = Request("a" * letters, 15, 2, scheme, k, 3)
        generation = target.begin(request)
        (pieces,), said = play(target, drafters, [generation], 1)
        assert len(made(pieces)) == 15
        for server, frame in said:
            if isinstance(frame, Tokens) and frame.kind == "drafts" and server == k - 1:
                assert bool(frame.packed) == (frame.position + 3 <= context) or frame.position >= letters + 12
        if context <= 4:
            assert made(pieces) == [token for _, verified in by_hand(request, TARGET, live)
                                    for token in verified.tokens]
        if scheme == "gls-strong":
            assert made(pieces) == made(run(*parties(TARGET, [], k), request)[0])


def test_without_drafts_to_come_every_block_is_one_token() -> None:
    """L = 0, and no draft server: the same text, of a token for each call."""
    for scheme in SCHEMES:
        alone, _ = run(*parties(TARGET, [], 3), Request(PROMPT, 6, 3, scheme, several(scheme), 3))
        target, drafters = parties(TARGET, [(NEAR, range(3))], 3)
        pieces, finished = run(target, drafters, Request(PROMPT, 6, 3, scheme, several(scheme), 0))
        assert pieces == alone
        assert (finished.blocks, finished.round_trips, finished.tokens_sent) == (6, 0, 0)
        assert (finished.drafted, finished.accepted) == ([], [])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_text_ends_before_the_first_stop_text(scheme: str) -> None:
    """Whatever pieces it spans; a piece never gives more than what is certain to stay."""
    spans = 0
    target, drafters = parties(TARGET, [(NEAR, range(3))], 3)
    for seed in range(12):
        request = Request(PROMPT, 16, seed, scheme, several(scheme), 2)
        whole = TARGET.tokenizer.decode(made(run(target, drafters, request)[0]))
        for at in (0, 3, 9):
            stop = whole[at : at + 3]
            pieces, finished = run(target, drafters, replace(request, stop=("bbbbbbbb", stop, "z")))
            found = whole.index(stop)
            assert "".join(piece.text for piece in pieces) == whole[:found]
            assert (finished.reason, finished.tokens) == ("stop", found + 3)
            assert TARGET.tokenizer.decode(made(pieces)) == whole[: found + 3]
            spans += len(pieces[-1].tokens) < 3
    assert spans > 5


def test_what_might_have_become_a_stop_text_is_there_at_the_end() -> None:
    target, _ = parties(TARGET, [], 1)
    request = Request(PROMPT, 6, 0, "none")
    assert [piece.text for piece in run(target, [], request)[0]] == [*"bcacab"]
    pieces, finished = run(target, [], replace(request, stop=("cabz",)))
    assert [piece.text for piece in pieces] == ["b", "", "", "ca", "", "cab"]
    assert finished.reason == "length"


def test_a_text_ends_with_the_token_for_it() -> None:
    """The token counts, and has no text; what was drafted beyond it is dropped."""
    model = Toy(3, 1, ends=True)
    drafter, beyond = Toy(3, 2, 0.1, model, ends=True), 0
    for scheme, seed in itertools.product(SCHEMES, range(6)):
        target, drafters = parties(model, [(drafter, range(3))], 3)
        request = Request("bc", 30, seed, scheme, several(scheme), 4)
        pieces, finished = run(target, drafters, request)
        text = made(pieces)
        assert (finished.reason, finished.tokens) == ("end", len(text))
        assert text[-1] == 0 and 0 not in text[:-1]
        assert "".join(piece.text for piece in pieces) == model.tokenizer.decode(text[:-1])
        expected = [token for _, verified in by_hand(request, model, dict.fromkeys(range(several(scheme)), drafter))
                    for token in verified.tokens]
        assert text == expected[: len(text)]
        beyond += sum(finished.accepted) > len(text) - len(pieces)
    assert beyond > 0


# Frames that cannot be.


FIVE = Toy(5, 6)
FIVE_NEAR = Toy(5, 7, 1.0, FIVE)
HALF = np.array([0.5, 0.5], "<f4").tobytes()


def drafts(tokens: Sequence[int], position: int = 2, probabilities: bytes = b"") -> Tokens:
    """Of V = 5, which takes 3 bits: 5 to 7 are no tokens."""
    return Tokens.of("drafts", 0, position, 0, bits.pack(np.array(tokens, np.int64), 3), probabilities)


def p_of(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


@pytest.mark.parametrize(("scheme", "frame", "text"), [
    ("gls", drafts([4, 5]), "drafts of stream 0: expected tokens from 0 to 4, got 5"),
    ("gls", drafts([7, 1]), "drafts of stream 0: expected tokens from 0 to 4, got 7"),
    ("gls", drafts([4, 1], 3), "drafts of stream 0: expected position 2, got 3"),
    ("gls", drafts([4, 1, 0]),
     "drafts of stream 0: expected 1 of 2 tokens; .* expected 1 bytes for 2 values of 3 bits, got 2"),
    ("gls", Tokens.of("drafts", 0, 2, 0, b"\x01"),
     "drafts of stream 0: expected 1 of 2 tokens; .* expected zeros after 2 values of 3 bits"),
    ("gls", replace(drafts([4, 1]), check=1), "checksum: expected 0x.{4} for these drafts, got 0x0001"),
    ("gls", replace(drafts([4, 1]), packed=b"\x88"), "checksum: expected 0x.{4} for these drafts, got 0x"),
    ("specinfer", replace(drafts([4, 1], probabilities=HALF), probabilities=HALF[::-1]), "checksum: expected 0x"),
    ("gls", replace(drafts([4, 1]), kind="accepted"),
     "accepted: expected none from the draft server of stream 0, got some of position 2"),
    ("gls", Tokens.of("drafts", 0, 2, 1, bits.pack(np.array([3, 4, 1]), 3)),
     "drafts of stream 0: expected up to 0 supposed tokens, got 1"),
    ("gls", drafts([4, 1], probabilities=HALF), r"expected 0 bytes of p\(x\) for 2 tokens in scheme gls, got 8"),
    ("gls", drafts([4, 1], probabilities=HALF[:7]), r"expected 0 bytes of p\(x\) for 2 tokens in scheme gls, got 7"),
    ("specinfer", drafts([], probabilities=HALF[:3]), r"expected 0 bytes of p\(x\) for 0 tokens .*, got 3"),
    ("specinfer", drafts([4, 1]), r"expected 8 bytes of p\(x\) for 2 tokens in scheme specinfer, got 0"),
    ("specinfer", drafts([4, 1], probabilities=HALF[:7]), r"expected 8 bytes of p\(x\) .*, got 7"),
    ("specinfer", drafts([4, 1], probabilities=HALF * 2), r"expected 8 bytes of p\(x\) .*, got 16"),
    ("specinfer", drafts([4, 1], probabilities=p_of(0.5, 0)), r"drafts of stream 0: expected p\(x\) above 0 .* got"),
    ("specinfer", drafts([4, 1], probabilities=p_of(0.5, -1)), r"expected p\(x\) above 0 .* got .*-1"),
    ("specinfer", drafts([4, 1], probabilities=p_of(0.5, 1.5)), r"expected p\(x\) above 0 and up to 1, got .*1\.5"),
    ("specinfer", drafts([4, 1], probabilities=p_of(0.5, math.nan)), r"expected p\(x\) above 0 .* got .*nan"),
    ("specinfer", drafts([4, 1], probabilities=p_of(0.5, math.inf)), r"expected p\(x\) above 0 .* got .*inf"),
    ("specinfer", Row(0, 2, 0, 0, 0, bytes(10), checksum_of(2, 0, bytes(10))),
     r"row: expected that of nothing at 2, got \(0, 0\) at 2"),
    ("gls", Spent(0, 1.0, NO_TRAFFIC, NO_TRAFFIC, True),
     "spent: expected it once, after done, from the draft server of stream 0"),
])
def test_a_frame_that_a_draft_server_cannot_mean_fails_no_request(scheme: str, frame: Tokens | Row | Spent, text: str
                                                                  ) -> None:
    """The draft server loses its stream; the requests go on without it, and as if it had never been there."""
    target, drafters = parties(FIVE, [(FIVE_NEAR, [0]), (FIVE_NEAR, [1])], 2)
    request, other = Request(PROMPT, 8, 1, scheme, 2, 2), Request(PROMPT, 8, 2, "gls-strong", 2, 2)
    generations = [target.begin(request), target.begin(other)]
    with pytest.raises(FrameError, match=text):
        target.receive(0, carried(frame)[0])
    target.leave(0)
    pieces, said = play(target, drafters, generations, 1)
    assert {server for server, _ in said} == {1}
    assert made(pieces[0]) == [token for _, verified in by_hand(request, FIVE, {1: FIVE_NEAR})
                               for token in verified.tokens]
    assert made(pieces[1]) == made(run(*parties(FIVE, [], 2), other)[0])


def test_drafts_that_come_twice_count_once() -> None:
    target, drafters = parties(FIVE, [(FIVE_NEAR, [0]), (FIVE_NEAR, [1])], 2)
    request = Request(PROMPT, 8, 1, "gls", 2, 2)
    generation = target.begin(request)
    (answer,) = drafts_of(drafters[0], generation, 0)
    generation.outgoing = deque((server, frame) for server, frame in generation.outgoing if server == 1)
    for _ in range(2):
        target.receive(0, answer)
        assert not generation.ready
    (pieces,), _ = play(target, drafters, [generation], 1)
    alone, finished = run(*parties(FIVE, [(FIVE_NEAR, [0]), (FIVE_NEAR, [1])], 2), request)
    assert pieces == alone
    assert (generation.finished.late_drafts, generation.finished.wasted) == (1, 2)
    assert (finished.late_drafts, finished.wasted) == (0, 0)


def test_a_draft_server_that_takes_no_part_has_nothing_to_say() -> None:
    target, drafters = parties(FIVE, [(FIVE_NEAR, [0]), (FIVE_NEAR, [1])], 2)
    generation = target.begin(Request(PROMPT, 8, 1, "gls", 1, 2))
    assert generation.draft_servers == 1 and drafts_of(drafters[1], generation, 1) == []
    with pytest.raises(FrameError, match="tokens: expected nothing for request 0 from the draft server of stream 1"):
        target.receive(1, drafts([4, 1]))


@pytest.mark.parametrize("frame", [Wanted(0, 2, 0, 0), Done(0), Ack(7)])
def test_frames_that_no_draft_server_sends_are_refused(frame: Frame) -> None:
    target, _ = parties(FIVE, [(FIVE_NEAR, [0])], 1)
    target.begin(Request(PROMPT))
    with pytest.raises(FrameError, match=r"(frame|ack): expected .* got (Wanted|Done|7)"):
        target.receive(0, frame)


def row_wanted() -> tuple[TargetSession, list[DraftSession], Generation, Row]:
    """A request whose target waits for the first row of stream 0, and that row; K = 2 on two servers."""
    for seed in itertools.count():
        target, drafters = parties(FIVE, [(FIVE_NEAR, [0]), (FIVE_NEAR, [1])], 2)
        generation = target.begin(Request(PROMPT, 8, seed, "specinfer", 2, 2))
        for drafter in drafters:
            for answer in drafts_of(drafter, generation, drafter.stream):
                target.receive(drafter.stream, answer)
        generation.outgoing.clear()
        if generation.step() is None:
            ((server, wanted),) = generation.outgoing
            if wanted == Wanted(0, 2, 0, 0):
                (row,) = drafters[server].receive(wanted)
                assert isinstance(row, Row) and not generation.ready
                return target, drafters, generation, row
    raise AssertionError


def with_packed(row: Row, packed: bytes, count: int = 0) -> Row:
    return replace(row, count=count, packed=packed, checksum=checksum_of(row.position, count, packed))


def halves(*values: float) -> bytes:
    return np.array(values, "<f2").tobytes()


@pytest.mark.parametrize(("change", "text"), [
    (lambda row: replace(row, stream=1), r"row: expected that of \(0, 0\) at 2, got \(1, 0\) at 2"),
    (lambda row: replace(row, depth=1), r"row: expected that of \(0, 0\) at 2, got \(0, 1\) at 2"),
    (lambda row: replace(row, position=3), r"row: expected that of \(0, 0\) at 2, got \(0, 0\) at 3"),
    (lambda row: replace(row, checksum=row.checksum ^ 1), "checksum: expected 0x.{8} for these row, got 0x"),
    (lambda row: with_packed(row, row.packed[:-1]), "row: expected 10 bytes for 5 probabilities, got 9"),
    (lambda row: with_packed(row, halves(1, 0, 0, 0, math.nan)), "row: expected probabilities that sum .* got nan"),
    (lambda row: with_packed(row, halves(1, 0, 0, 0, math.inf)), "row: expected probabilities that sum .* got inf"),
    (lambda row: with_packed(row, halves(2, 0, 0, 0, -1)), "row: expected probabilities that sum to about 1, got"),
    (lambda row: with_packed(row, halves(0, 0, 0, 0, 0)), "row: expected probabilities that sum to about 1, got 0.0"),
    (lambda row: with_packed(row, bits.pack(np.array([1, 1]), 3) + halves(0.5, 0.5), 2), "row: expected rising tokens"),
    (lambda row: with_packed(row, bits.pack(np.array([1, 5]), 3) + halves(0.5, 0.5), 2),
     r"row: expected rising tokens from 0 to 4, got \[1, 5\]"),
])
def test_a_row_that_was_not_wanted_or_is_none_is_refused(change: Callable[[Row], Row], text: str) -> None:
    """The draft server loses its stream, and with it the target the row that it needs."""
    target, _, generation, row = row_wanted()
    with pytest.raises(FrameError, match=text):
        target.receive(0, change(row))
    assert not generation.ready
    target.leave(0)
    with pytest.raises(TransportError, match="draft server of stream 0: lost when its distribution was needed"):
        generation.step()


def test_drafts_that_come_while_a_row_is_wanted_are_late() -> None:
    target, _, generation, row = row_wanted()
    target.receive(0, drafts([1, 1], probabilities=HALF))
    assert generation.finished.late_drafts == 1 and not generation.ready
    target.receive(0, row)
    assert generation.ready


def test_a_row_comes_from_the_draft_server_that_was_asked() -> None:
    """Else the one that was asked would seem to be in the wrong, once it answers."""
    target, _, generation, row = row_wanted()
    with pytest.raises(FrameError, match="row: expected"):
        target.receive(1, row)
    assert generation.finished.rows_sent == 0


def test_a_row_comes_once_and_the_block_goes_on_with_it() -> None:
    target, _, generation, row = row_wanted()
    target.receive(0, row)
    assert generation.ready and generation.finished.rows_sent == 1
    with pytest.raises(FrameError, match=r"row: expected that of nothing at 2, got \(0, 0\) at 2"):
        target.receive(0, row)


def test_a_draft_server_that_is_lost_while_its_row_is_wanted_fails_the_request() -> None:
    """To go on without its draft, because its test has failed, would change the distribution of the text."""
    target, _, generation, _ = row_wanted()
    target.leave(0)
    assert generation.ready
    with pytest.raises(TransportError, match="draft server of stream 0: lost when its distribution was needed"):
        generation.step()


def test_frames_of_requests_that_are_over_are_refused() -> None:
    target, drafters = parties(FIVE, [(FIVE_NEAR, [0])], 1)
    run(target, drafters, Request(PROMPT, 8, 1, "gls"))
    for frame in (drafts([4, 1]), Spent(0, 1.0, NO_TRAFFIC, NO_TRAFFIC, True),
                  Tokens.of("drafts", 7, 2, 0, b"\x80"), Row(0, 2, 0, 0, 0, b"", 0)):
        with pytest.raises(FrameError, match=f"expected a request under way, got {frame.request}"):
            target.receive(0, carried(frame)[0])


@pytest.mark.parametrize("scheme", ["gls", "specinfer"])
def test_a_request_that_is_given_up_does_not_disturb_the_next(scheme: str) -> None:
    """Its drafts, and what it took, are still under way when the next one begins."""
    target, drafters = parties(FIVE, [(FIVE_NEAR, [0])], 1)
    first = target.begin(Request(PROMPT, 8, 1, scheme, 1, 2))
    late: list[Tokens | Row | Spent] = [*drafts_of(drafters[0], first, 0)]
    first.outgoing.clear()
    first.stop("failed")
    target.end(first)
    ((_, done),) = first.outgoing
    assert isinstance(done, Done)
    late.append(Spent(done.request, drafters[0].done(done), NO_TRAFFIC, NO_TRAFFIC, True))
    request = Request(PROMPT + "c", 8, 2, scheme, 1, 2)
    second = target.begin(request)
    for frame in late:
        target.receive(0, frame)
    (pieces,), _ = play(target, drafters, [second], 1)
    assert pieces == run(*parties(FIVE, [(FIVE_NEAR, [0])], 1), request)[0]


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme not in SINGLE])
def test_a_draft_server_that_joins_meanwhile_takes_part_from_then_on(scheme: str) -> None:
    """On the streams of one that was lost; the target says all, and how much of it was generated."""
    for seed in range(5):
        target, drafters = parties(FIVE, [(FIVE_NEAR, [0]), (FIVE_NEAR, [1])], 2)
        request = Request(PROMPT, 20, seed, scheme, 2, 2)
        generation = target.begin(request)
        target.leave(0)
        text: list[int] = []
        while len(text) < 3:
            (pieces,), _ = play(target, drafters[1:], [generation], seed, blocks=1)
            text += made(pieces)
        newcomer = DraftSession(FIVE_NEAR, SEED, [0], still)
        introduce(target, newcomer)
        assert target.complete
        (pieces,), said = play(target, [newcomer, drafters[1]], [generation], seed)
        if scheme == "none":
            assert not said
            continue
        (frame,) = [frame for server, frame in said if server == 0 and isinstance(frame, Prompt)]
        whole = [0, 1, *text, *made(pieces)]
        told = bits.unpack(frame.packed, frame.count, 3).tolist()
        assert (told, frame.made, frame.max_tokens) == (whole[: frame.count], frame.count - 2, 20)
        assert frame.count == 2 + len(text)
        assert any(server == 0 and isinstance(frame, Tokens) and frame.kind == "drafts" for server, frame in said)
        if scheme == "gls-strong":
            assert whole[2:] == made(run(*parties(FIVE, [], 2), request)[0])


# A draft server's side.


def prompt(tokens: Sequence[int] = (0, 1), **changes: object) -> Prompt:
    packed = bits.pack(np.array(tokens, np.int64), 3)
    whole = Prompt(0, 5, "gls", 1, 2, 8, (1.0,), 0, 1.0, len(tokens), packed, checksum_of(0, len(tokens), packed))
    return replace(whole, **changes)  # type: ignore[arg-type]


def accepted(tokens: Sequence[int], position: int = 2, request: int = 0) -> Tokens:
    return Tokens.of("accepted", request, position, len(tokens), bits.pack(np.array(tokens, np.int64), 3))


SPECINFER = prompt(scheme="specinfer")


@pytest.mark.parametrize(("frames", "text"), [
    ([prompt(scheme="best")], "prompt: expected a scheme of gls, .*, got 'best'"),
    ([prompt(temperatures=())], "prompt: expected 1 temperatures, one for each draft, got 0"),
    ([prompt(temperatures=(1.0, 1.0))], "prompt: expected 1 temperatures, one for each draft, got 2"),
    ([prompt(temperatures=(-1.0,))], "prompt: temperature: expected 0 .* got -1.0"),
    ([prompt(temperatures=(math.nan,))], "prompt: temperature: expected 0 .* got nan"),
    ([prompt(top_p=0.0)], "prompt: top_p: expected above 0 up to 1, got 0.0"),
    ([prompt([0, 5])], r"prompt: expected tokens from 0 to 4, got \[0, 5\]"),
    ([prompt([])], r"prompt: expected tokens from 0 to 4, got \[\]"),
    ([prompt(drafts=0, temperatures=())], "prompt: expected 1 to 256 drafts of up to 128 tokens, got 0 of 2"),
    ([prompt(drafts=257, temperatures=(1.0,) * 257)], "prompt: expected 1 to 256 drafts .* got 257 of 2"),
    ([prompt(length=129)], "prompt: expected 1 to 256 drafts of up to 128 tokens, got 1 of 129"),
    ([prompt(checksum=1)], "checksum: expected 0x.{8} for these tokens of a prompt, got 0x00000001"),
    ([prompt(count=4)], "checksum: expected"),
    ([prompt(count=4, checksum=checksum_of(0, 4, prompt().packed))], "expected 2 bytes for 4 values of 3 bits, got 1"),
    ([prompt(made=2)], "prompt: expected fewer tokens made than its 2, and than 8 to make, got 2"),
    ([prompt(made=1, max_tokens=1)], "prompt: expected fewer tokens made than its 2, and than 1 to make, got 1"),
    ([prompt(ahead=9)], "prompt: expected to draft up to 8 blocks ahead, and none in schemes that test ratios, got 9"),
    ([prompt(scheme="specinfer", ahead=1)], "prompt: expected to draft up to 8 blocks ahead, and none in .*, got 1"),
    ([prompt(), accepted([1], 3)], "accepted: expected position 2, got 3"),
    ([prompt(), accepted([1]), accepted([1])], "accepted: expected position 3, got 2"),
    ([prompt(), accepted([])], r"accepted: expected tokens from 0 to 4, got \[\]"),
    ([prompt(), accepted([1, 6])], r"accepted: expected tokens from 0 to 4, got \[1, 6\]"),
    ([prompt(), replace(accepted([1]), check=1)], "checksum: expected 0x.{4} for these accepted, got 0x0001"),
    ([prompt(), accepted([1], request=1)], "frame: expected a prompt, or accepted or wanted of a request under way"),
    ([prompt(), Wanted(0, 2, 0, 0)], "wanted: expected a token drafted at 2 in a scheme that tests ratios"),
    ([SPECINFER, Wanted(0, 2, 0, 2)], "wanted: expected a token drafted at 2 .* got stream 0, depth 2 at 2"),
    ([SPECINFER, Wanted(0, 2, 1, 0)], "wanted: expected a token drafted at 2 .* got stream 1, depth 0 at 2"),
    ([SPECINFER, Wanted(0, 3, 0, 0)], "wanted: expected a token drafted at 2 .* got stream 0, depth 0 at 3"),
    ([SPECINFER, accepted([1]), Wanted(0, 2, 0, 0)], "wanted: expected a token drafted at 3 .* depth 0 at 2"),
    ([replace(SPECINFER, max_tokens=3), accepted([1]), Wanted(0, 3, 0, 1)],
     "wanted: expected a token drafted at 3 .* depth 1 at 3"),
    ([Wanted(0, 2, 0, 0)], "frame: expected a prompt, .* got Wanted"),
    ([prompt(), drafts([1])], "frame: expected a prompt, .* got Tokens"),
    ([prompt(), Ack(0)], "frame: expected a prompt, .* got Ack"),
])
def test_a_frame_that_a_target_cannot_mean_is_refused(frames: list[Frame], text: str) -> None:
    """The last of them; those before it are answered."""
    _, (drafter,) = parties(FIVE, [(FIVE_NEAR, [0])], 1)
    *before, last = frames
    for frame in before:
        assert [*drafter.receive(carried(frame)[0])]
    with pytest.raises(FrameError, match=text):
        [*drafter.receive(carried(last)[0])]


def test_a_prompt_for_none_of_its_streams_is_refused_by_a_draft_server() -> None:
    _, (drafter,) = parties(FIVE, [(FIVE_NEAR, [1])], 2)
    with pytest.raises(FrameError, match="prompt: expected"):
        [*drafter.receive(prompt())]


def test_a_draft_server_drafts_once_it_has_agreed() -> None:
    drafter = DraftSession(FIVE_NEAR, SEED, [0], still)
    with pytest.raises(FrameError, match="prompt: expected"):
        [*drafter.receive(prompt())]
    with pytest.raises(FrameError, match="terms: expected the stream of this draft server, got none"):
        drafter.agree(TargetSession(FIVE, SEED, 1, still).terms)


def test_a_request_is_over_once_it_is_done_whatever_was_wrong_with_it() -> None:
    _, (drafter,) = parties(FIVE, [(FIVE_NEAR, [0])], 1)
    with pytest.raises(FrameError):
        [*drafter.receive(prompt(scheme="best"))]
    assert drafter.requests == 0 and drafter.done(Done(0)) == 0.0
    first = [*drafter.receive(prompt())]
    assert drafter.requests == 1
    drafter.done(Done(0))
    assert [*drafter.receive(prompt())] == first


def test_a_draft_server_leaves_the_last_token_to_the_target() -> None:
    _, (drafter,) = parties(FIVE, [(FIVE_NEAR, [0])], 1)
    frames = (replace(SPECINFER, max_tokens=4), accepted([1]), accepted([1], 3), accepted([1], 4))
    answers = [[*drafter.receive(frame)] for frame in frames]
    assert [[len(answer.probabilities) for answer in each if isinstance(answer, Tokens)] for each in answers] == [
        [8], [8], [4], []]


# Joining.


@pytest.mark.parametrize(("model", "seed", "streams", "text"), [
    (Toy(6, 1), SEED, [0], "items: the encoder has 5, the decoder expects 6"),
    (Toy(9, 1), SEED, [0], "items: the encoder has 5, the decoder expects 9"),  # which takes another width, too
    (Toy(5, 1, ends=True), SEED, [0], "vocabulary: the encoder has '.{16}', the decoder expects '.{16}'"),
    (FIVE, bytes(31) + b"1", [0], "seed_digest: the encoder has '.{16}', the decoder expects '.{16}'"),
    (FIVE, SEED, [1], r"streams: expected some of \[0, 2\], those of 0 to 2 that are free, got \[1\]"),
    (FIVE, SEED, [0, 1], r"streams: expected some of \[0, 2\], .* got \[0, 1\]"),
    (FIVE, SEED, [2, 3], r"streams: expected some of \[0, 2\], .* got \[2, 3\]"),
    (FIVE, SEED, [2, 2], r"streams: expected some of \[0, 2\], .* got \[2, 2\]"),
])
def test_a_draft_server_that_does_not_fit_is_refused(model: Toy, seed: bytes, streams: list[int], text: str) -> None:
    """And leaves its streams free."""
    target, _ = parties(FIVE, [(FIVE_NEAR, [1])], 3)
    with pytest.raises(TermsError, match=text):
        introduce(target, DraftSession(model, seed, streams, still))
    introduce(target, DraftSession(FIVE_NEAR, SEED, [2, 0], still))
    assert target.complete


def test_a_draft_server_without_streams_is_assigned_the_lowest_that_is_free() -> None:
    target, (_, first, second) = parties(FIVE, [(FIVE_NEAR, [1]), (FIVE_NEAR, []), (FIVE_NEAR, [])], 3)
    assert (first.stream, second.stream, target.drafting, target.complete) == (0, 2, 3, True)
    with pytest.raises(TermsError, match=r"streams: expected some of \[\], .* got another draft server"):
        introduce(target, DraftSession(FIVE_NEAR, SEED, [], still))
    target.leave(0)
    assert (target.drafting, target.complete) == (2, False)
    again = DraftSession(FIVE_NEAR, SEED, [], still)
    introduce(target, again)
    assert again.stream == 0


def test_a_draft_server_that_has_not_agreed_takes_no_part() -> None:
    target, _ = parties(FIVE, [], 1)
    drafter = DraftSession(FIVE_NEAR, SEED, [0], still)
    answer = target.join(drafter.join())
    assert target.drafting == 0
    assert target.begin(Request(PROMPT)).draft_servers == 0
    target.receive(0, drafter.agree(answer))
    assert target.begin(Request(PROMPT)).draft_servers == 1


