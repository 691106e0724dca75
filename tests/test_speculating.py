"""Speculative decoding over gRPC: real servers on port 0 in this process, with models of a few tokens."""

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from network import CLOCK, NET, PATIENCE, SEED, Text, network, text_of
from toy import Toy, Wide

from glsnet import bits
from glsnet.drafting import DraftSession
from glsnet.errors import CallerError, FrameError, TermsError
from glsnet.frames import Frame, Prompt, Row, Tokens
from glsnet.generation import Asked, Piece
from glsnet.speculation import TargetSession, generate, introduce
from glsnet.transport import speculating
from glsnet.transport.parties import nothing
from glsnet.transport.security import Security
from glsnet.verification import SCHEMES, SINGLE

TARGET = Toy(9, seed=1)
DRAFTER, OTHER = Toy(9, seed=2, spread=0.7, like=TARGET), Toy(9, seed=3)


def drafter(streams: Sequence[int] = (0, 1, 2, 3), model: Toy = DRAFTER, kind: type[DraftSession] = DraftSession
            ) -> DraftSession:
    return kind(model, SEED, streams, CLOCK)


def here(asked: Asked, target: Toy = TARGET, model: Toy = DRAFTER) -> Text:
    """The same without a network."""
    session, one = TargetSession(target, SEED, 4, CLOCK), drafter(model=model)
    introduce(session, one)
    return text_of(list(generate(session, [one], asked.request(4))))


def asked_of(scheme: str, seed: int = 7, **more: Any) -> Asked:
    return replace(Asked("abc", 24, seed, scheme=scheme, length=3, drafts=1 if scheme in SINGLE else 3), **more)


def test_every_scheme_gives_over_grpc_what_it_gives_in_process() -> None:
    async def run() -> None:
        async with network(TARGET, [drafter([2]), drafter([0, 1, 3])]) as net:
            for scheme in SCHEMES:
                asked = asked_of(scheme, temperature=0.8, top_k=7)
                (tokens, over), (expected, direct) = await net.text(asked), here(asked)
                assert tokens == expected, scheme
                for name in ("reason", "tokens", "blocks", "drafted", "accepted", "tokens_sent", "probabilities_sent",
                             "rows_sent", "round_trips", "information_up"):
                    assert getattr(over, name) == getattr(direct, name), (scheme, name)
                assert over.alone
                if scheme != "none":
                    assert over.up.packed < over.up.protobuf < over.up.stream < (over.up.ip or over.up.stream + 1)
    asyncio.run(run())


def test_one_draft_and_strong_texts_do_not_depend_on_schemes_drafters_or_length() -> None:
    async def run() -> None:
        one = [here(asked_of(scheme, drafts=1))[0] for scheme in ("none", "daliri", "gls", "gls-strong")]
        assert all(each == one[0] for each in one)
        strong = here(asked_of("gls-strong"))[0]
        for drafters in ([], [drafter()], [drafter([0], OTHER), drafter([2], TARGET)], [drafter([1], OTHER)]):
            async with network(TARGET, drafters) as net:
                for scheme in ("none", "daliri", "gls", "gls-strong"):
                    assert (await net.text(asked_of(scheme, drafts=1)))[0] == one[0]
                for length in (0, 1, 5):
                    assert (await net.text(asked_of("gls-strong", length=length)))[0] == strong
    asyncio.run(run())


def test_requests_at_the_same_time_keep_their_streams_and_seeds_apart() -> None:
    asked = [asked_of(scheme, seed) for seed, scheme in enumerate(
        ("gls", "gls-strong", "specinfer", "leviathan", "kseq", "block-verification", "daliri", "equality-check"))]

    async def run() -> None:
        async with network(TARGET, [drafter([0, 1]), drafter([2, 3])]) as net:
            texts = await asyncio.gather(*map(net.text, asked))
            assert [tokens for tokens, _ in texts] == [here(each)[0] for each in asked]
            assert [each.requests for each in net.drafters] == [0, 0]
    asyncio.run(run())


@pytest.mark.parametrize(("asked", "text"), [
    (asked_of("gls", prompt="a" * 64), "prompt: expected at most 63 tokens, which leaves one .* got 64"),
    (asked_of("gls", drafts=5), "drafts: expected K up to 4, the target's streams, got 5"),
    (asked_of("gls", drafts=0), "drafts: expected K from 1 to 256, got 0"),
    (asked_of("leviathan", drafts=2), "drafts: expected K = 1 for scheme leviathan, got 2"),
    (asked_of("gls", length=129), "length: expected L from 0 to 128, got 129"),
    (asked_of("best"), "scheme: expected one of gls, .* got 'best'"),
    (asked_of("gls", temperature=-1.0), "temperature"),
    (asked_of("gls", max_tokens=0), "max_tokens: expected at least 1, got 0"),
    (asked_of("gls", draft_temperatures=(1.0,)), "temperatures: expected 3, one for each draft, or none, got 1"),
    (asked_of("kseq", draft_temperatures=(1.0, 1.0, 0.5)), "temperatures: expected one for all drafts of scheme kseq"),
])
def test_a_request_that_is_not_possible_is_a_clear_error_and_the_server_lives(asked: Asked, text: str) -> None:
    async def run() -> None:
        async with network(TARGET, [drafter()]) as net:
            with pytest.raises(CallerError, match=text):
                await net.text(asked)
            assert (await net.text(asked_of("gls")))[0] == here(asked_of("gls"))[0]
    asyncio.run(run())


def test_draft_servers_that_do_not_go_with_the_target_are_refused() -> None:
    async def run() -> None:
        async with network(TARGET, [drafter([0, 1])]) as net:
            for session, text in (
                (drafter([2], Toy(8, 1)), "items: the encoder has 9, the decoder expects 8"),
                (drafter([2], Toy(9, 1, ends=True)), "vocabulary: the encoder has"),
                (DraftSession(DRAFTER, bytes(32), [2], CLOCK), "seed_digest: the encoder has"),
                (drafter([1, 2]), r"streams: expected some of \[2, 3\], .* got \[1, 2\]"),
                (drafter([4]), r"streams: expected some of \[2, 3\], .* got \[4\]"),
            ):
                with pytest.raises(TermsError, match=text):
                    await speculating.run_draft(NET, session, net.address, nothing, PATIENCE)
            assert (await speculating.status(net.address, Security())).drafting == 2
    asyncio.run(run())


class Rogue(DraftSession):
    """A draft server whose second block of drafts is not what it should be, in the request with seed 13."""

    break_it: Callable[[Tokens], Tokens]
    wrong: int | None = None  # the request

    def receive(self, *frames: Frame) -> Iterator[Tokens | Row]:
        prompts = [frame for frame in frames if isinstance(frame, Prompt)]
        self.wrong = next((prompt.request for prompt in prompts if prompt.seed == 13), self.wrong)
        for answer in super().receive(*frames):
            wrong = self.wrong == answer.request and not prompts
            yield self.break_it(answer) if wrong and isinstance(answer, Tokens) else answer


def tokens_beyond(frame: Tokens) -> Tokens:
    return Tokens.of("drafts", frame.request, frame.position, 0, bits.pack(np.full(3, 9), 4))


def tokens_elsewhere(frame: Tokens) -> Tokens:
    return Tokens.of("drafts", frame.request, frame.position + 1, 0, frame.packed)


def tokens_too_few(frame: Tokens) -> Tokens:
    return Tokens.of("drafts", frame.request, frame.position, 0, frame.packed[:1])


def tokens_damaged(frame: Tokens) -> Tokens:
    return replace(frame, check=frame.check ^ 1)


@pytest.mark.parametrize(("break_it", "text"), [
    (tokens_beyond, "drafts of stream 3: expected tokens from 0 to 8, got 9"),
    (tokens_elsewhere, r"drafts of stream 3: expected position \d+"),
    (tokens_too_few, r"drafts of stream 3: expected .* bytes"),
])
def test_a_draft_server_that_breaks_the_protocol_is_gone_and_stops_no_request(
    caplog: pytest.LogCaptureFixture, break_it: Callable[[Tokens], Tokens], text: str,
) -> None:
    async def run() -> None:
        rogue = drafter([3], kind=Rogue)
        assert isinstance(rogue, Rogue)
        rogue.break_it = break_it
        async with network(TARGET, [drafter([0, 1, 2]), rogue]) as net:
            asked = [asked_of("gls-strong", seed, drafts=4) for seed in (1, 2, 13)]
            texts = await asyncio.gather(*map(net.text, asked))
            assert [tokens for tokens, _ in texts] == [here(each)[0] for each in asked]
            await until(lambda: net.tasks[1].done() or net.session.drafting == 4)
            if net.tasks[1].done():  # it was told why; else it was just writing, has not heard it, and joined again
                assert isinstance(net.tasks[1].exception(), FrameError)
            assert re.search(text, caplog.text)
            assert (await net.text(asked[2]))[0] == here(asked[2])[0]
    asyncio.run(run())


def test_a_draft_server_whose_frame_was_damaged_on_its_way_joins_again() -> None:
    async def run() -> None:
        rogue = drafter([3], kind=Rogue)
        assert isinstance(rogue, Rogue)
        rogue.break_it = tokens_damaged
        async with network(TARGET, [drafter([0, 1, 2]), rogue]) as net:
            asked = [asked_of("gls-strong", seed, drafts=4) for seed in (1, 2, 13)]
            texts = await asyncio.gather(*map(net.text, asked))
            assert [tokens for tokens, _ in texts] == [here(each)[0] for each in asked]
            await until(lambda: net.session.drafting == 4)
            assert (await net.text(asked[0]))[0] == here(asked[0])[0]
            assert not net.tasks[1].done()
    asyncio.run(run())


@pytest.mark.parametrize("scheme", ["gls-strong", "gls", "equality-check"])
def test_a_draft_server_that_is_lost_stops_no_request(scheme: str) -> None:
    async def run() -> None:
        asked = asked_of(scheme, max_tokens=40)
        async with network(TARGET, [drafter([0, 1]), drafter([2])]) as net:
            tokens: list[int] = []
            async for reply in speculating.generate(net.address, asked):
                if isinstance(reply, Piece):
                    tokens += reply.tokens
                    if len(tokens) < 10:
                        continue
                    net.tasks[1].cancel()
            assert len(tokens) == 40
            if scheme == "gls-strong":
                assert tokens == here(asked)[0]
            with suppress(asyncio.CancelledError):
                await net.tasks[1]
            assert (await net.text(asked))[1].tokens == 40
    asyncio.run(run())


def test_a_client_that_goes_away_ends_its_request() -> None:
    async def run() -> None:
        async with network(TARGET, [drafter()]) as net:
            call = speculating.generate(net.address, asked_of("gls", max_tokens=60))
            async for reply in call:
                assert isinstance(reply, Piece)
                break
            await call.aclose()
            assert (await net.text(asked_of("gls")))[0] == here(asked_of("gls"))[0]
            await until(lambda: net.drafters[0].requests == 0)
    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    deadline = CLOCK() + 10
    while not condition():
        assert CLOCK() < deadline
        await asyncio.sleep(0.01)  # another task's doing, of which no event tells


@pytest.mark.parametrize(("drafts", "length"), [(8, 4), (4, 4), (2, 4)])
def test_a_round_of_tokens_costs_few_bytes_beside_its_bits(drafts: int, length: int) -> None:
    """V = 151,936: 18 bits a token; the draft server's whole stream within 1.5 times that and 40 bytes a round."""
    model = Wide(151_936, 1)

    async def run() -> None:
        async with network(model, [DraftSession(model, SEED, range(drafts), CLOCK)], drafts) as net:
            _, finished = await net.text(Asked("ab", 15, drafts=drafts, length=length))
            assert finished.information_up == 18 * finished.tokens_sent
            assert finished.up.packed * 8 - finished.information_up < 8 * finished.round_trips
            assert finished.up.stream <= 1.5 * finished.up.packed + 40 * finished.round_trips
    asyncio.run(run())
