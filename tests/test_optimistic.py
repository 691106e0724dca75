"""Speculative decoding under way: drafts ahead of their verdict, late and lost draft servers, resumed requests.

`chaos` plays a request with all that can happen to it, in an order that chance takes.
"""

import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from test_speculation import (
    FAR,
    LAYOUTS,
    NEAR,
    PROMPT,
    SEED,
    START,
    TARGET,
    check,
    drafts_of,
    law_of,
    made,
    parties,
    run,
    still,
    strong_text,
)
from toy import Toy

from glsnet import bits
from glsnet.coupling import draw_y
from glsnet.drafting import DraftSession, request_key
from glsnet.errors import FrameError, TermsError, TransportError
from glsnet.frames import NO_TRAFFIC, Done, Frame, OfRequest, Prompt, Row, Spent, Tokens, Wanted, carried
from glsnet.generation import Piece, Request
from glsnet.language.sampling import Sampling
from glsnet.speculation import Generation, TargetSession, introduce
from glsnet.verification import RATIOS, SCHEMES, SINGLE

FREE = [scheme for scheme in SCHEMES if scheme not in RATIOS]


class Clock:
    """Seconds, set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Server:
    """A draft server and its stream, each way first in, first out; a new stream whenever it has joined again."""

    def __init__(self, target: TargetSession, session: DraftSession) -> None:
        self.target, self.session = target, session
        self.down: deque[OfRequest] = deque()
        self.up: deque[Frame] = deque()
        self.here = False

    def join(self) -> None:
        introduce(self.target, self.session)
        self.here = True

    def leave(self) -> None:
        self.target.leave(self.session.stream)
        self.down.clear()
        self.up.clear()
        self.here = False

    def take(self, count: int) -> None:
        """Read some of the frames that have come."""
        frames = [carried(self.down.popleft())[0] for _ in range(count)]
        while frames and not isinstance(frames[-1], Done):
            done = max((at for at, frame in enumerate(frames) if isinstance(frame, Done)), default=-1)
            self.up.extend(self.session.receive(*frames[done + 1 :]))
            frames = frames[: done + 1]
        for frame in frames:
            if isinstance(frame, Done):
                self.up.append(Spent(frame.request, self.session.done(frame), NO_TRAFFIC, NO_TRAFFIC, True))

    def work(self) -> None:
        if (frame := self.session.work()) is not None:
            self.up.append(frame)

    def say(self) -> None:
        self.target.receive(self.session.stream, carried(self.up.popleft())[0])


def chaos(request: Request, servers: Sequence[Server], target: TargetSession, clock: Clock, seed: int, losses: float
          ) -> tuple[list[int], Generation]:
    """Whatever can happen next happens, by chance, to the end, but that a row comes too late.

    Each draft server may be lost, and come back, again and again.
    """
    rng = np.random.default_rng(seed)
    weights = {name: float(rng.uniform(0.02, 1)) for name in ("take", "work", "say", "step", "expire")}
    weights |= {"leave": losses, "join": 0.1}
    generation, text = target.begin(request), [*request.made]

    def step() -> None:
        if (piece := generation.step()) is not None:
            text.extend(piece.tokens)

    def expire() -> None:
        assert generation.deadline is not None
        clock.now = max(clock.now, generation.deadline) + 1e-9
        generation.expire()

    while not generation.settled:
        for at, frame in generation.to_send():
            next(server for server in servers if server.session.stream == at).down.append(frame)
        clock.now += 0.01
        moves: list[tuple[str, Callable[[], object]]] = []
        for server in servers:
            if server.here:
                assert len(server.down) <= 24  # whoever does not read is not told for ever
                moves += [("take", partial(server.take, int(rng.integers(1, len(server.down) + 1))))
                          ] if server.down else []
                moves += [("work", server.work)] if server.session.busy else []
                moves += [("say", server.say)] if server.up else []
                moves += [("leave", server.leave)]
            else:
                moves += [("join", server.join)]
        moves += [("step", step)] if generation.ready and not generation.finished.reason else []
        row = generation._block.wanted is not None and not generation.finished.reason
        moves += [("expire", expire)] if generation.deadline is not None and not row else []
        chances = np.array([weights[name] for name, _ in moves])
        moves[rng.choice(len(moves), p=chances / chances.sum())][1]()
    target.end(generation)
    return text, generation


def served(servers: Sequence[tuple[Toy, Sequence[int]]], streams: int, patience: float | None = 1.0
           ) -> tuple[TargetSession, list[Server], Clock]:
    """A target with draft servers that have joined, each a party of its own."""
    clock = Clock()
    target = TargetSession(TARGET, SEED, streams, clock, patience)
    joined = [Server(target, DraftSession(model, SEED, own, clock, bytes([1 + at] * 8)))
              for at, (model, own) in enumerate(servers)]
    for server in joined:
        server.join()
    return target, joined, clock


# Ahead.


@pytest.mark.parametrize("scheme", FREE)
def test_drafting_ahead_changes_no_token(scheme: str) -> None:
    """Every piece is the same to the bit, whichever servers have which streams; fewer are waited for."""
    trips = Counter[int]()
    k = 1 if scheme in SINGLE else 3
    for seed, layout in itertools.product(range(3), LAYOUTS):
        texts = []
        for ahead in (0, 1, 2, 8):
            target, drafters = parties(TARGET, [(NEAR, own) for own in layout], 3)
            pieces, finished = run(target, drafters, Request(PROMPT, 20, seed, scheme, k, 1 + seed % 4, ahead=ahead))
            texts.append(pieces)
            trips[ahead] += finished.round_trips
            assert finished.tokens_sent >= finished.wasted >= 0
            assert ahead or (finished.wasted, finished.late_drafts) == (0, 0)
        assert all(each == texts[0] for each in texts)
    assert scheme == "none" or trips[8] <= trips[2] <= trips[1] < trips[0]


def test_with_the_targets_own_model_one_block_is_waited_for() -> None:
    """All that a drafter supposes is right, up to where the text ends: nothing is wasted."""
    for scheme, length, tokens in itertools.product(("daliri", "gls", "gls-strong"), (1, 3, 4), range(1, 20)):
        target, drafters = parties(TARGET, [(TARGET, [0])], 1)
        pieces, finished = run(target, drafters, Request(PROMPT, tokens, 1, scheme, 1, length, ahead=3))
        assert finished.round_trips == (tokens > 1) and finished.wasted == 0
        assert finished.blocks == -(-tokens // (length + 1))
        assert made(pieces) == made(run(*parties(TARGET, [], 1), Request(PROMPT, tokens, 1, scheme))[0])


def test_a_text_ends_within_a_drafters_context_however_far_it_drafts_ahead() -> None:
    for context, ahead in itertools.product((4, 7, 12, 64), (1, 3)):
        request = Request(PROMPT, 20, 3, "gls-strong", 2, 3, ahead=ahead)
        target, drafters = parties(TARGET, [(replace(NEAR, context=context), [0]), (NEAR, [1])], 2)
        alone = made(run(*parties(TARGET, [], 2), request)[0])
        assert made(run(target, drafters, request)[0]) == alone


def prompted(ahead: int = 2, scheme: str = "gls", seed: int = 1, max_tokens: int = 20
             ) -> tuple[TargetSession, Generation, DraftSession, Tokens]:
    """A request with one drafter, K = 1 and L = 2, and its first drafts, which have not arrived."""
    target, (drafter,) = parties(TARGET, [(NEAR, [0])], 1)
    generation = target.begin(Request(PROMPT, max_tokens, seed, scheme, 1, 2, ahead=ahead))
    (drafts,) = drafts_of(drafter, generation, 0)
    generation.outgoing.clear()
    assert isinstance(drafts, Tokens)
    return target, generation, drafter, drafts


def accepted(tokens: Sequence[int], position: int) -> Tokens:
    return Tokens.of("accepted", 0, position, len(tokens), bits.pack(np.array(tokens), 2))


def tokens_of(frame: Tokens) -> list[int]:
    return [*map(int, bits.unpack(frame.packed, frame.count + 2, 2))]


def worked(drafter: DraftSession) -> list[Tokens]:
    """All that it drafts ahead."""
    frames = []
    while drafter.busy:
        if (frame := drafter.work()) is not None:
            frames.append(frame)
    return frames


def test_drafts_ahead_are_those_that_it_would_make_once_it_is_told() -> None:
    for ahead, scheme, seed in itertools.product((1, 2, 5), ("gls", "equality-check"), range(8)):
        _, _, drafter, first = prompted(ahead, scheme, seed)
        frames = worked(drafter)
        assert [frame.position for frame in frames] == [5 + 3 * at for at in range(ahead)]
        assert all(frame.count == 1 and frame.kind == "drafts" for frame in frames)
        _, _, told, same = prompted(0, scheme, seed)
        assert same == first and not told.busy
        before = tokens_of(first)
        for frame in frames:
            supposed, *drafts = tokens_of(frame)
            (answer,) = told.receive(accepted([*before, supposed], frame.position - 3))
            assert isinstance(answer, Tokens) and answer.position == frame.position
            assert tokens_of(answer) == drafts
            before = drafts


@pytest.mark.parametrize(("scheme", "streams"), [("gls", [1]), ("gls-strong", [0, 1, 2]), ("equality-check", [0])])
def test_what_is_supposed_of_the_target_is_its_own_draw_by_the_drafters_model(scheme: str, streams: list[int]) -> None:
    """Over all streams where the target's draw is; of the first of its own where that must be alive."""
    for seed in range(20):
        target, (drafter,) = parties(TARGET, [(NEAR, [1, 2])], 3)
        generation = target.begin(Request(PROMPT, 20, seed, scheme, 3, 2, ahead=1))
        (drafts,) = drafts_of(drafter, generation, 1)
        (ahead,) = worked(drafter)
        first = bits.unpack(drafts.packed, 4, 2).tolist()[:2]
        (supposed, *_) = bits.unpack(ahead.packed, 5, 2).tolist()
        assert supposed == draw_y(request_key(SEED, seed), 4, 1, NEAR.next([*START, *first]), streams)[0]


def test_a_verdict_as_supposed_has_no_answer_and_another_has() -> None:
    for other in (False, True):
        _, _, drafter, first = prompted()
        second, third = worked(drafter)
        tokens = [*tokens_of(first), tokens_of(second)[0]]
        if other:
            tokens[-1] = (tokens[-1] + 1) % 3
        answers = [*drafter.receive(accepted(tokens, 2))]
        if other:
            (answer,) = answers
            assert isinstance(answer, Tokens) and (answer.position, answer.count) == (5, 0)
            assert [frame.position for frame in worked(drafter)] == [8, 11]
        else:
            assert answers == []
            (fourth,) = worked(drafter)  # room for one more
            assert (third.position, fourth.position) == (8, 11)
            ends = [*tokens_of(second)[1:], tokens_of(third)[0], *tokens_of(third)[1:], tokens_of(fourth)[0]]
            assert [*drafter.receive(accepted(ends, 5))] == []  # two verdicts in one frame


def test_a_block_that_is_begun_is_finished_at_once_if_the_verdict_asks_for_it() -> None:
    _, _, drafter, first = prompted(ahead=1)
    (second,) = worked(prompted(ahead=1)[2])
    drafter.work()
    answers = [*drafter.receive(accepted([*tokens_of(first), tokens_of(second)[0]], 2))]
    assert answers == [second]


def test_of_frames_together_only_the_last_is_answered() -> None:
    _, _, drafter, _ = prompted(0)
    (answer,) = drafter.receive(accepted([1], 2), accepted([2, 2], 3))
    assert isinstance(answer, Tokens) and answer.position == 5
    _, _, one_by_one, _ = prompted(0)
    *_, last = [*one_by_one.receive(accepted([1], 2)), *one_by_one.receive(accepted([2, 2], 3))]
    assert answer == last


def test_drafts_ahead_whose_context_is_another_are_never_verified() -> None:
    """Though the position is right: the target adds another token than was supposed, wherever the frame is then."""
    for early, seed in itertools.product((False, True), range(40)):
        target, generation, drafter, first = prompted(seed=seed)
        second, third = worked(drafter)
        for frame in (first, second, third) if early else (first,):
            target.receive(0, frame)
        piece = generation.step()
        assert piece is not None
        ((_, verdict),) = generation.to_send()
        for frame in () if early else (second, third):
            target.receive(0, frame)
        right = piece.tokens == [*tokens_of(first), tokens_of(second)[0]]
        assert (piece.tokens[:-1] == tokens_of(first)) or not right
        assert generation.ready == right
        assert generation.finished.wasted == (0 if right else 4)
        answers = [*drafter.receive(verdict)]
        assert (answers == []) == right
        for answer in answers:
            target.receive(0, answer)
        assert generation.ready and generation.finished.late_drafts == 0


@pytest.mark.parametrize(("change", "text"), [
    (lambda frame: Tokens.of("drafts", 0, 6, 1, frame.packed), "expected 5 as the position of any ahead, got 6"),
    (lambda frame: Tokens.of("drafts", 0, 5, 2, frame.packed), "expected up to 1 supposed tokens, got 2"),
    (lambda frame: Tokens.of("drafts", 0, 5, 1, b""), "expected 1 of 2 tokens; .* expected 1 bytes for 3 values"),
    (lambda frame: Tokens.of("drafts", 0, 5, 1, b"\xff\x00"), "expected 1 of 2 tokens"),
    (lambda frame: Tokens.of("drafts", 0, 5, 1, b"\xc0"), "expected tokens from 0 to 2, got 3"),
    (lambda frame: Tokens.of("drafts", 0, 5, 0, b"\x00"), "expected position 2, got 5"),
    (lambda frame: replace(frame, kind="accepted"), "accepted: expected none from the draft server of stream 0"),
])
def test_drafts_ahead_that_cannot_be_are_refused(change: Callable[[Tokens], Tokens], text: str) -> None:
    target, generation, drafter, first = prompted()
    target.receive(0, first)
    frame, third = worked(drafter)
    with pytest.raises(FrameError, match=text):
        target.receive(0, change(frame))
    target.receive(0, frame)  # nothing has changed
    target.receive(0, third)
    with pytest.raises(FrameError, match="expected up to 2 blocks ahead, got more"):
        target.receive(0, Tokens.of("drafts", 0, 11, 1, b"\x00"))
    assert generation.ready


def test_nothing_is_ahead_of_drafts_that_have_not_come() -> None:
    target, _, drafter, _ = prompted()
    frame, _ = worked(drafter)
    with pytest.raises(FrameError, match="expected none as the position of any ahead, got 5"):
        target.receive(0, frame)


def test_a_target_goes_on_with_the_drafts_that_were_right() -> None:
    """It does not wait for those that have supposed something else, and must draft anew; they catch up."""
    went_on = 0
    for seed in range(20):
        target, drafters = parties(TARGET, [(TARGET, [0]), (FAR, [1])], 2)
        generation = target.begin(Request(PROMPT, 12, seed, "gls", 2, 2, ahead=1))
        for drafter in drafters:
            for answer in drafts_of(drafter, generation, drafter.stream):
                target.receive(drafter.stream, answer)
            for frame in worked(drafter):
                target.receive(drafter.stream, frame)
        generation.outgoing.clear()
        generation.step()
        if not generation._block.answers.keys() ^ {0}:
            assert generation.ready
            went_on += 1
        assert generation.finished.round_trips == 1 + (not generation.ready)
    assert went_on > 5


# Whatever happens.


@pytest.mark.parametrize("ahead", [0, 1, 3])
@pytest.mark.parametrize("losses", [0.0, 0.02, 0.1])
def test_a_strong_text_is_the_same_whatever_happens(ahead: int, losses: float) -> None:
    """Frames that cross, deadlines, draft servers lost and back: it ends, nothing raises, and the text is the one."""
    counts = Counter[str]()
    for seed in range(24):
        target, servers, clock = served([(NEAR, [0, 2]), (FAR, [1])], 3)
        request = Request(PROMPT, 16, seed % 4, "gls-strong", 3, 1 + seed % 4, ahead=ahead)
        text, generation = chaos(request, servers, target, clock, seed, losses)
        assert text == strong_text(seed % 4, 16)
        finished = generation.finished
        assert finished.reason == "length" and finished.tokens == 16
        assert finished.wasted <= finished.tokens_sent
        counts.update(late=finished.late_drafts, wasted=finished.wasted, verified=finished.tokens_sent)
        for server in servers:  # and the next request finds all in order
            if not server.here:
                server.join()
        again, _ = chaos(replace(request, seed=9), servers, target, clock, seed, 0.0)
        assert again == strong_text(9, 16)
    assert counts["late"] > 0 and counts["wasted"] < counts["verified"]


@pytest.mark.parametrize("scheme", ["gls", "equality-check", "daliri", "gls-strong"])
def test_texts_are_distributed_as_the_targets_whatever_happens(scheme: str) -> None:
    """In a race between two servers and deadlines, drafting ahead: an exact sample, of 4 tokens and of their end."""
    law, counts = law_of(TARGET, 4, Sampling()), Counter[tuple[int, ...]]()
    k = 1 if scheme in SINGLE else 3
    target, servers, clock = served([(NEAR, [0, 2]), (NEAR, [1])], 3)
    for seed in range(300):
        request = Request(PROMPT, 4, seed, scheme, k, 1 + seed % 2, ahead=seed % 3)
        text, _ = chaos(request, servers, target, clock, seed, 0.01)
        counts[tuple(text)] += 1
    check(counts, law, scheme)


@pytest.mark.parametrize("scheme", RATIOS)
def test_texts_of_ratio_schemes_are_exact_as_long_as_rows_come(scheme: str) -> None:
    """Draft servers are late, and lost, and come back to draft once more what a row is wanted of."""
    law, counts = law_of(TARGET, 4, Sampling()), Counter[tuple[int, ...]]()
    k = 1 if scheme in SINGLE else 3
    target, servers, clock = served([(NEAR, [0, 2]), (NEAR, [1])], 3)
    for seed in range(200):
        request = Request(PROMPT, 4, seed, scheme, k, 1 + seed % 3)
        text, _ = chaos(request, servers, target, clock, seed, 0.01)
        counts[tuple(text)] += 1
    check(counts, law, scheme)


# Deadlines.


def both(clock: Clock, patience: float | None = 2.0, scheme: str = "gls", ahead: int = 0
         ) -> tuple[TargetSession, Generation, list[Server]]:
    """A request of two servers, which have its prompt."""
    target = TargetSession(TARGET, SEED, 2, clock, patience)
    servers = [Server(target, DraftSession(NEAR, SEED, [k], clock, bytes([1 + k] * 8))) for k in range(2)]
    for server in servers:
        server.join()
    generation = target.begin(Request(PROMPT, 30, 1, scheme, 2, 2, ahead=ahead))
    send(generation, servers)
    return target, generation, servers


def send(generation: Generation, servers: Sequence[Server]) -> None:
    for at, frame in generation.to_send():
        servers[at].down.append(frame)


def answer(server: Server) -> None:
    """All that it has to say, to all that it has been told."""
    if server.down:
        server.take(len(server.down))
    while server.up:
        server.say()


def test_a_block_waits_until_its_deadline_and_no_longer_for_who_is_late() -> None:
    clock = Clock()
    _, generation, (quick, slow) = both(clock)
    assert generation.deadline == 2.0
    answer(quick)
    assert not generation.ready and generation.deadline == 2.0
    clock.now = 2.5
    generation.expire()
    assert generation.ready and generation.deadline is None and generation.finished.wait_seconds == 2.5
    for _ in range(3):
        assert generation.step()
        send(generation, [quick, slow])
        assert len(slow.down) == 1 and not generation.ready  # nothing piles up
        answer(quick)
        assert generation.ready
    assert generation.finished.late_drafts == 0
    answer(slow)  # the first block's, at last: it is told the rest at once
    assert generation.finished.late_drafts == 1
    send(generation, [quick, slow])
    (frame,) = slow.down
    assert isinstance(frame, Tokens) and (frame.kind, frame.position) == ("accepted", 2)
    assert generation.step()
    send(generation, [quick, slow])
    assert len(slow.down) == 1  # it has not shown yet that it is in time
    answer(quick)
    assert generation.ready
    clock.now += 1.0
    answer(slow)
    send(generation, [quick, slow])
    answer(slow)  # in step again
    assert generation.step()
    send(generation, [quick, slow])
    answer(quick)
    assert not generation.ready
    answer(slow)
    assert generation.ready and generation.finished.late_drafts == 2


def test_a_newcomer_is_waited_for_once_it_has_answered() -> None:
    clock = Clock()
    _, generation, (quick, other) = both(clock)
    other.leave()
    answer(quick)
    other.join()
    for _ in range(2):
        assert generation.ready and generation.step()
        send(generation, [quick, other])
        assert [type(frame) for frame in other.down] == [Prompt]
        answer(quick)
    answer(other)
    assert generation.finished.late_drafts == 1 and generation.step()
    send(generation, [quick, other])
    answer(quick)
    assert not generation.ready
    answer(other)
    assert generation.ready


def test_who_stays_slow_is_waited_for_once() -> None:
    """Each answer takes longer than patience: only the first block has to wait for it."""
    clock = Clock()
    _, generation, (quick, slow) = both(clock)
    waits = 0
    for _ in range(8):
        answer(quick)
        if not generation.ready:
            clock.now += 2.0
            generation.expire()
            waits += 1
        assert generation.step()
        send(generation, [quick, slow])
        clock.now += 2.5
        answer(slow)
        send(generation, [quick, slow])
    assert waits == 1 and generation.finished.late_drafts >= 4


def test_drafts_that_come_after_the_deadline_but_before_the_block_is_verified_are_welcome() -> None:
    clock = Clock()
    _, generation, (quick, slow) = both(clock)
    answer(quick)
    clock.now = 2.0
    generation.expire()
    answer(slow)
    assert generation.finished.late_drafts == 0
    assert generation.step()
    send(generation, [quick, slow])
    answer(quick)
    assert not generation.ready  # it is waited for again
    answer(slow)
    assert generation.ready


def test_without_patience_there_is_no_deadline() -> None:
    clock = Clock()
    _, generation, (quick, _) = both(clock, None)
    answer(quick)
    clock.now = 1e9
    assert generation.deadline is None and not generation.ready


def test_a_late_draft_server_does_not_hold_up_the_end() -> None:
    """Its number is not free before it has said what the request took."""
    clock = Clock()
    target, generation, servers = both(clock)
    generation.expire()
    while not generation.finished.reason:
        assert generation.ready and generation.step()
    assert generation.settled and not generation.answered
    target.end(generation)
    other = target.begin(Request(PROMPT, 4, 2, "gls-strong", 2))
    assert other.number == 1
    target.end(other)
    for each in (generation, other):
        send(each, servers)
    for server in servers:
        answer(server)
    assert target.begin(Request(PROMPT)).number == 0


def test_a_late_draft_server_has_no_part_in_new_requests_until_it_answers() -> None:
    clock = Clock()
    target, generation, (quick, slow) = both(clock)
    answer(quick)
    clock.now = 2.5
    generation.expire()
    assert generation.step()
    others = [target.begin(Request(PROMPT, 9, seed, "gls", 2, 2)) for seed in range(3)]
    assert [each.draft_servers for each in others] == [1, 1, 1]
    answer(slow)
    assert [each.draft_servers for each in others] == [2, 2, 2]
    for each in others:
        send(each, [quick, slow])
    answer(slow)
    answer(quick)
    for each in others:
        assert each.ready and each.step()


def test_what_was_spent_is_waited_for_until_a_deadline() -> None:
    clock = Clock()
    _, generation, (quick, slow) = both(clock)
    generation.stop("failed")
    send(generation, [quick, slow])
    answer(quick)
    assert not generation.settled and generation.deadline == 2.0
    generation.expire()
    assert generation.settled


@pytest.mark.parametrize("scheme", ["specinfer", "kseq", "leviathan", "block-verification"])
def test_a_draft_server_that_comes_back_in_time_is_asked_for_its_row_again(scheme: str) -> None:
    """It drafts the same once more: the text is as if nothing had been."""
    lost = 0
    for seed in range(4):
        request = Request(PROMPT, 12, seed, scheme, 1 if scheme in SINGLE else 2, 2)
        expected, _ = run(*parties(TARGET, [(NEAR, [0]), (NEAR, [1])], 2), request)
        target, servers, _ = served([(NEAR, [0]), (NEAR, [1])], 2)
        generation, pieces = target.begin(request), list[Piece]()
        while not generation.finished.reason:
            send(generation, servers)
            for server in servers:
                if any(isinstance(frame, Wanted) for frame in server.down):
                    server.leave()
                    assert not generation.ready and generation.deadline is not None
                    server.join()
                    send(generation, servers)
                    assert [type(frame) for frame in server.down] == [Prompt, Wanted]
                    lost += 1
                answer(server)
            assert generation.ready
            if (piece := generation.step()) is not None:
                pieces.append(piece)
        assert pieces == expected and generation.finished.late_drafts > 0
    assert lost > 4


def test_another_party_is_not_asked_for_a_row_it_never_had() -> None:
    for seed in itertools.count():
        target, servers, _ = served([(NEAR, [0])], 1)
        generation = target.begin(Request(PROMPT, 12, seed, "leviathan", 1, 2))
        send(generation, servers)
        answer(servers[0])
        if generation.step() is None:
            break
    servers[0].leave()
    for party in (b"", bytes(8)):
        Server(target, DraftSession(FAR, SEED, [0], still, party)).join()
        assert [type(frame) for _, frame in generation.to_send()] == [Prompt]
        target.leave(0)
    generation.expire()
    with pytest.raises(TransportError, match="draft server of stream 0: lost when its distribution was needed"):
        generation.step()


# Joining again.


def test_a_party_gets_its_streams_back_though_its_old_stream_is_not_over() -> None:
    target = TargetSession(TARGET, SEED, 3, still)
    several, one = DraftSession(NEAR, SEED, [2, 0], still, bytes([1] * 8)), DraftSession(NEAR, SEED, [], still,
                                                                                        bytes([2] * 8))
    introduce(target, several)
    introduce(target, one)
    assert one.stream == 1 and target.complete
    for session in (several, one, one, several):
        introduce(target, session)
        assert target.complete
    assert (several.stream, one.stream) == (2, 1)
    for party in (b"", bytes([3] * 8)):
        with pytest.raises(TermsError, match=r"streams: expected some of \[\], .* got \[2\]"):
            introduce(target, DraftSession(NEAR, SEED, [2], still, party))
    target.leave(1)
    with pytest.raises(TermsError, match=r"streams: expected some of \[1\], .* got \[0\]"):
        introduce(target, DraftSession(NEAR, SEED, [0], still, bytes([2] * 8)))
    introduce(target, one)
    assert one.stream == 1 and target.complete


def test_what_a_draft_server_had_under_way_is_forgotten_when_it_joins_again() -> None:
    clock = Clock()
    _, generation, (server, other) = both(clock)
    answer(server)
    assert server.session.requests == 1
    server.join()
    assert server.session.requests == 0
    send(generation, [server, other])
    assert len(server.down) == 1
    answer(server)
    answer(other)
    assert server.session.requests == 1 and generation.ready


def test_a_prompt_for_a_request_under_way_takes_its_place() -> None:
    _, _, drafter, first = prompted(0)
    target, (other,) = parties(TARGET, [(NEAR, [0])], 1)
    generation = target.begin(Request(PROMPT, 20, 1, "gls", 1, 2))
    ((_, prompt),) = generation.to_send()
    assert [*drafter.receive(accepted([1], 2))]
    assert [*drafter.receive(prompt)] == [first] == [*other.receive(prompt)]
    assert drafter.requests == 1


# Resumed.


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_strong_text_that_is_resumed_is_the_same(ahead: int) -> None:
    """At whatever token it was cut off; the text of the pieces, too, across stop texts that span the seam."""
    for seed, stop in itertools.product(range(4), ((), ("zz", "cab"), ("bca",))):
        request = Request(PROMPT, 16, seed, "gls-strong", 3, 2, stop=stop, ahead=ahead)
        whole, finished = run(*parties(TARGET, [(NEAR, range(3))], 3), request)
        for count in range(len(whole) + 1):
            before = whole[:count]
            again, end = run(*parties(TARGET, [(FAR, [1])], 3), replace(request, made=tuple(made(before))))
            assert made(before) + made(again) == made(whole)
            assert "".join(piece.text for piece in [*before, *again]) == "".join(piece.text for piece in whole)
            assert end.reason == finished.reason
            assert end.tokens == len(made(again))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_texts_that_are_resumed_are_distributed_as_the_targets(scheme: str) -> None:
    law, counts = law_of(TARGET, 4, Sampling()), Counter[tuple[int, ...]]()
    k = 1 if scheme in SINGLE else 2
    for seed in range(150):
        request = Request(PROMPT, 4, seed, scheme, k, 2)
        first, *_ = run(*parties(TARGET, [(NEAR, range(k))], k), request)[0]
        rest, _ = run(*parties(TARGET, [(FAR, [0])], k), replace(request, made=tuple(first.tokens)))
        counts[(*first.tokens, *made(rest))] += 1
    check(counts, law, scheme)


def test_a_text_that_had_ended_is_not_gone_on_with() -> None:
    ending = Toy(3, 1, ends=True)
    for made_, max_tokens, stop, reason in (((1, 2), 2, (), "length"), ((1, 0), 9, (), "end"),
                                            ((1, 2), 9, ("bc",), "stop")):
        target, drafters = parties(ending, [(ending, [0])], 1)
        pieces, finished = run(target, drafters, Request("bc", max_tokens, made=made_, stop=stop))
        assert (pieces, finished.reason, finished.tokens, finished.context) == ([], reason, 0, 0)
    target, _ = parties(replace(TARGET, context=8), [], 1)
    assert run(target, [], Request("aaaa", 9, made=(1,) * 4))[1].reason == "length"


def test_tokens_made_that_cannot_be_are_refused() -> None:
    target, _ = parties(replace(TARGET, context=8), [], 1)
    for made_, text in (((3,), r"made: expected tokens from 0 to 2, got \[3\]"),
                        ((-1,), r"made: expected tokens from 0 to 2, got \[-1\]"),
                        ((1,) * 5, "made: expected at most 4 tokens, as many as the target's context has room for")):
        with pytest.raises(ValueError, match=text):
            target.begin(Request("aaaa", 9, made=made_))


# What is kept.


def test_a_timeline_says_what_happened_when() -> None:
    clock = Clock()
    target = TargetSession(TARGET, SEED, 1, clock, timeline=True)
    drafter = DraftSession(TARGET, SEED, [0], clock)
    introduce(target, drafter)
    generation = target.begin(Request(PROMPT, 6, 1, "gls", 1, 2, ahead=1))
    (drafts,) = drafts_of(drafter, generation, 0)
    generation.outgoing.clear()
    for frame in (drafts, *worked(drafter)):
        clock.now += 1
        target.receive(0, frame)
    while not generation.finished.reason:
        clock.now += 1
        generation.step()
    assert generation.timeline is not None
    assert [tuple(mark) for mark in generation.timeline] == [
        (0, "asked", 0, 0.0), (0, "drafts", 0, 1.0), (0, "ahead", 0, 2.0), (0, "verify", -1, 3.0),
        (0, "verified", -1, 3.0), (1, "asked", 0, 3.0), (1, "verify", -1, 4.0), (1, "verified", -1, 4.0)]
    assert generation.timeline is not target.begin(Request(PROMPT)).timeline
    assert TargetSession(TARGET, SEED, 1, clock).begin(Request(PROMPT)).timeline is None


def test_frames_that_come_while_a_block_is_verified_wait_for_the_next() -> None:
    """`verify` may run elsewhere meanwhile: drafts are late then, and a server that leaves has drafted."""
    clock = Clock()
    for leaves in (False, True):
        target, generation, (quick, slow) = both(clock)
        answer(quick)
        generation.expire()
        verified = generation.verify()
        if leaves:
            target.leave(0)
        answer(slow)
        assert generation.finished.late_drafts == 1
        piece = generation.accept(verified)
        assert piece is not None
        _, alone, (one, _) = both(clock)
        answer(one)
        alone.expire()
        assert piece == alone.step()


def test_rows_are_sent_once_for_each_time_that_they_are_wanted() -> None:
    for seed in range(20):
        target, servers, _ = served([(NEAR, [0]), (NEAR, [1])], 2)
        generation = target.begin(Request(PROMPT, 12, seed, "specinfer", 2, 2))
        wanted = sent = 0
        while not generation.finished.reason:
            send(generation, servers)
            for server in servers:
                wanted += sum(isinstance(frame, Wanted) for frame in server.down)
                if server.down:
                    server.take(len(server.down))
                sent += sum(isinstance(frame, Row) for frame in server.up)
                answer(server)
            generation.step()
        assert wanted == sent == generation.finished.rows_sent
