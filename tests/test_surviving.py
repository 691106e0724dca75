"""Sessions that go on whatever happens, frame by frame: every round once, as if nothing had happened.

The same of whole services, with kill -9 and connections that are cut, is in test_killed.py.
"""

import random
from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from glsnet import compression
from glsnet.codes import Code, decoding
from glsnet.compression import ACK_FRAMES, WINDOW_FRAMES, DecoderSession, EncoderSession, Outcomes
from glsnet.errors import DamageError, FrameError, TermsError
from glsnet.frames import Ack, End, Frame, Indices, Join, Lost, Refusal, Terms, from_bytes, to_bytes
from glsnet.joining import new_party
from glsnet.journal import Entry
from glsnet.randomness import seed_from_integer
from glsnet.sources.gaussian import Gaussian, noisy_observation

SEED = seed_from_integer(7)
CODE = decoding(partial(noisy_observation, noise_variance=0.5))
K, SIZE, FRAMES = 3, 3, 2 * WINDOW_FRAMES + 40  # decoders, rounds in a frame, frames
FEW = 40  # frames of runs that are made again and again
RNG = np.random.default_rng(5)
A = RNG.standard_normal(SIZE * FRAMES)
T = A[:, None] + 0.5**0.5 * RNG.standard_normal((A.size, K))


def encoder(decoders: int = K, next_round: int = 0) -> EncoderSession:
    return EncoderSession("s", Code(Gaussian(0.0, 1.0), "gls", decoders, 8, sigma2=0.01), SEED, next_round)


def decoder(stream: int | None = None, next_round: int = 0, party: bytes = b"") -> DecoderSession:
    return DecoderSession("s", CODE, SEED, Terms(), stream, next_round, party or new_party())


def join(host: EncoderSession, own: DecoderSession) -> None:
    ack = own.agree(host.join(own.join()))
    host.receive(own.stream, ack)


def encode(host: EncoderSession, frames: int) -> list[Indices]:
    """The next frames of A."""
    made = []
    for _ in range(frames):
        made.append(host.encode(A[host.next_round :][:SIZE])[0])
    return made


def sent(host: EncoderSession, stream: int) -> list[Frame]:
    """All that can be sent now."""
    return list(iter(partial(host.outgoing, stream), None))


def decode(own: DecoderSession, frame: Frame) -> tuple[Outcomes, Ack | None]:
    assert isinstance(frame, Indices)
    return own.decode(frame, T[frame.first_round :][: frame.count, own.stream])


def rounds_of(frames: list[Frame]) -> list[int]:
    """The first rounds of frames, all of them Indices."""
    return [frame.first_round for frame in frames if isinstance(frame, Indices)]


def keep(monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
    """Have encoders keep so many frames at most."""
    monkeypatch.setattr(compression, "HISTORY_BYTES", frames * (len(encode(encoder(), 1)[0].packed) + 512))


def test_a_decoder_that_comes_back_is_sent_what_it_has_not_just_as_it_was() -> None:
    host, own = encoder(), decoder()
    join(host, own)
    frames = encode(host, 10)
    first = sent(host, own.stream)
    assert first == frames
    for frame in first[:4]:  # and the others are lost
        decode(own, frame)
    host.leave(own.stream)
    encode(host, 2)
    join(host, own)
    again = sent(host, own.stream)
    assert again[:6] == frames[4:] and rounds_of(again) == [SIZE * n for n in range(4, 12)]
    for frame in again:
        decode(own, frame)
    assert own.next_round == host.next_round and own.digest == host.digest


def test_a_frame_that_comes_twice_is_known_and_one_that_is_missing_is_damage() -> None:
    host, own = encoder(), decoder()
    join(host, own)
    frames = encode(host, 3)
    assert not own.has(frames[0])
    decode(own, frames[0])
    assert own.has(frames[0]) and not own.has(frames[1])
    with pytest.raises(DamageError, match=f"first_round: expected {SIZE}, the next, got {2 * SIZE}"):
        decode(own, frames[2])
    assert own.next_round == SIZE


def test_a_slow_decoder_stalls_nobody() -> None:
    host = encoder()
    fast, slow, silent = decoder(), decoder(), decoder()
    for own in (fast, slow, silent):
        join(host, own)
    host.leave(silent.stream)
    while host.next_round < A.size:
        while host.open and host.next_round < A.size:
            encode(host, 1)
        for frame in sent(host, fast.stream):
            _, ack = decode(fast, frame)
            if ack is not None:
                host.receive(fast.stream, ack)
    waiting = sent(host, slow.stream)
    assert len(waiting) == WINDOW_FRAMES  # all that it is sent before it acknowledges something
    assert fast.digest == host.digest
    while waiting:
        _, ack = decode(slow, waiting.pop(0))
        if ack is not None:
            host.receive(slow.stream, ack)
            waiting += sent(host, slow.stream)
    assert slow.digest == host.digest


def test_the_one_that_is_ahead_sets_the_pace_not_one_that_catches_up() -> None:
    host = encoder()
    ahead, back = decoder(), decoder()
    join(host, ahead)
    encode(host, WINDOW_FRAMES)
    assert len(sent(host, ahead.stream)) == WINDOW_FRAMES and not host.open
    join(host, back)
    assert not host.open
    for frame in sent(host, back.stream)[:ACK_FRAMES]:
        _, ack = decode(back, frame)
    assert ack is not None
    host.receive(back.stream, ack)
    assert host.open  # now it is the one that is ahead


def test_a_decoder_that_is_too_far_behind_is_told_and_says_which_rounds_it_lost(
        monkeypatch: pytest.MonkeyPatch) -> None:
    kept = WINDOW_FRAMES + 4
    keep(monkeypatch, kept)
    host, own, late = encoder(), decoder(), decoder()
    join(host, own)
    for indices in encode(host, 2):
        decode(own, indices)
    host.leave(own.stream)
    encode(host, FRAMES - 2)
    for who, since in ((own, 2), (late, 0)):
        join(host, who)
        lost, *rest = sent(host, who.stream)
        assert lost == Lost(SIZE * (FRAMES - kept))
        assert isinstance(lost, Lost)
        who.skip(lost)
        who.skip(lost)  # which changes nothing any more
        assert who.lost == [(SIZE * since, lost.next_round)]
        for frame in rest:
            decode(who, frame)
        assert rounds_of(rest)[0] == who.lost[0][1]


def test_a_window_is_a_window_when_what_it_began_with_is_not_kept_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(monkeypatch, WINDOW_FRAMES)
    host, own, silent = encoder(), decoder(), decoder()
    for who in (own, silent):
        join(host, who)
    got: list[Frame] = []
    while host.next_round < A.size:
        encode(host, 1)
        got += sent(host, silent.stream)
        for frame in sent(host, own.stream):
            _, ack = decode(own, frame)
            if ack is not None:
                host.receive(own.stream, ack)
    assert len(got) == WINDOW_FRAMES
    ack = None
    for frame in got:
        _, ack = decode(silent, frame)
    assert ack is not None
    host.receive(silent.stream, ack)
    lost, *rest = sent(host, silent.stream)
    assert lost == Lost(SIZE * (FRAMES - WINDOW_FRAMES)) and len(rest) == WINDOW_FRAMES - 1


def test_many_bytes_of_frames_are_kept_and_never_fewer_than_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(monkeypatch, 0)
    host = encoder()
    encode(host, FRAMES)
    own = decoder(next_round=SIZE * (FRAMES - WINDOW_FRAMES))
    join(host, own)
    assert len(rounds_of(sent(host, own.stream))) == WINDOW_FRAMES


def test_a_party_has_its_stream_back_even_if_the_old_connection_still_looks_alive() -> None:
    host = encoder()
    own, other = decoder(), decoder()
    join(host, own)
    join(host, other)
    encode(host, 5)
    for frame in sent(host, own.stream)[:2]:
        decode(own, frame)
    join(host, own)  # nobody has said leave
    assert (own.stream, other.stream) == (0, 1)
    assert rounds_of(sent(host, own.stream)) == [2 * SIZE, 3 * SIZE, 4 * SIZE]
    for who in (decoder(stream=0), DecoderSession("s", CODE, SEED, Terms(), 0)):  # another party, or one that says none
        with pytest.raises(TermsError, match="stream: expected one that is free, got 0, on which a decoder has joined"):
            join(host, who)
    host.leave(own.stream)
    join(host, decoder(stream=0))  # once it is gone, another may have its stream
    with pytest.raises(TermsError, match="stream: expected one that is free, got 0"):  # and it gets no other one
        join(host, own)


def test_a_party_without_a_wish_gets_the_stream_that_it_had() -> None:
    host = encoder()
    parties = [decoder() for _ in range(K)]
    for own in parties:
        join(host, own)
    for k in (0, 2):
        host.leave(k)
    join(host, parties[2])
    assert parties[2].stream == 2


def test_an_encoder_that_restarts_with_its_journal_sends_the_same_frames() -> None:
    host, own = encoder(), decoder()
    join(host, own)
    journal = [Entry(*host.encode(A[n : n + SIZE])) for n in range(0, 30, SIZE)]
    for frame in sent(host, own.stream)[:3]:
        decode(own, frame)
    again = encoder()
    for entry in journal:
        again.restore(entry.frame, entry.outcomes)
    assert (again.next_round, again.digest) == (host.next_round, host.digest)
    with pytest.raises(FrameError, match="first_round: expected 30, the next, got 0"):
        again.restore(journal[0].frame, journal[0].outcomes)
    join(again, own)
    assert sent(again, own.stream) == [entry.frame for entry in journal[3:]]
    assert encode(again, 1) == encode(host, 1)


def test_an_encoder_that_restarts_without_one_codes_the_same_again_and_those_ahead_wait() -> None:
    host = encoder()
    ahead, behind = decoder(), decoder()
    for own in (ahead, behind):
        join(host, own)
    frames = encode(host, 9)
    for own, count in ((ahead, 9), (behind, 4)):
        for frame in sent(host, own.stream)[:count]:
            decode(own, frame)
    again = encoder(next_round=min(ahead.next_round, behind.next_round))
    for own in (ahead, behind):
        join(again, own)
    assert again.open
    assert encode(again, 5) == frames[4:]
    assert sent(again, ahead.stream) == []
    assert sent(again, behind.stream) == frames[4:]
    encode(again, 1)
    assert rounds_of(sent(again, ahead.stream)) == rounds_of(sent(again, behind.stream)) == [9 * SIZE]


def test_a_decoder_ahead_of_frames_that_are_cut_otherwise_is_an_error() -> None:
    host, own = encoder(), decoder(next_round=SIZE + 1)
    encode(host, 2)
    join(host, own)
    with pytest.raises(FrameError, match=f"next_round: expected the first round of a frame, got {SIZE + 1}"):
        host.outgoing(own.stream)


@pytest.mark.parametrize("frames", [0, 1, ACK_FRAMES - 1, ACK_FRAMES, ACK_FRAMES + 1, 2 * ACK_FRAMES])
def test_the_end_is_acknowledged_if_that_leaves_anything(frames: int) -> None:
    host, own = encoder(1), decoder()
    join(host, own)
    encode(host, frames)
    assert host.finished == set()
    end = host.end()
    while (frame := host.outgoing(0)) != end:
        assert frame is not None
        _, ack = decode(own, frame)
        if ack is not None:
            host.receive(0, ack)
    assert end == End(SIZE * frames) and not own.ended
    assert host.finished == ({0} if frames % ACK_FRAMES == 0 else set())
    last = own.end(end)
    assert own.ended and (last is None) == (frames % ACK_FRAMES == 0)
    if last is not None:
        host.receive(0, last)
    assert host.finished == {0}
    host.leave(0)
    assert host.finished == {0}


def test_a_last_ack_that_is_lost_is_made_up_for_by_joining_again() -> None:
    host, own = encoder(1), decoder()
    join(host, own)
    encode(host, 3)
    host.end()
    for frame in sent(host, 0)[:-1]:
        decode(own, frame)
    assert own.end(host.end()) == Ack(3 * SIZE)  # which never comes
    host.leave(0)
    assert host.finished == set()
    join(host, own)
    assert sent(host, 0) == [End(3 * SIZE)]
    assert own.end(End(3 * SIZE)) is None  # its first Ack said it all
    assert host.finished == {0}


def test_who_has_left_on_purpose_is_not_waited_for_unless_it_comes_back() -> None:
    host, own = encoder(1), decoder()
    join(host, own)
    encode(host, 3)
    host.end()
    with pytest.raises(FrameError, match="refused by the decoder: 'no'"):
        host.receive(0, Refusal("no"))
    host.leave(0)
    assert host.finished == {0}
    join(host, own)
    assert host.finished == set()
    for frame in sent(host, 0)[:-1]:
        decode(own, frame)
    last = own.end(host.end())
    assert last is not None
    host.receive(0, last)
    assert host.finished == {0}


def test_acks_that_go_back_or_ahead_are_refused() -> None:
    host, own = encoder(1), decoder()
    join(host, own)
    encode(host, 4)
    host.outgoing(0)
    host.outgoing(0)
    host.receive(0, Ack(SIZE))
    for wrong in (0, SIZE - 1, 2 * SIZE + 1, 3 * SIZE):
        with pytest.raises(FrameError, match=f"ack: expected next_round from {SIZE} to {2 * SIZE}, got {wrong}"):
            host.receive(0, Ack(wrong))
    host.receive(0, Ack(2 * SIZE))
    host.leave(0)
    host.join(Join("s", 0, Terms()))  # back from nothing: a decoder without a journal
    host.receive(0, Ack(0))
    assert rounds_of(sent(host, 0))[0] == 0


class Peer:
    """A decoder, its journal, and the frames that are on their way to it and from it."""

    def __init__(self, stream: int, journalled: bool) -> None:
        self.stream, self.journalled = stream, journalled
        self.journal: list[Outcomes] = []
        self.party = new_party()
        self.restart()
        self.down: deque[bytes] = deque()
        self.up: deque[bytes] = deque()
        self.joined = False

    def restart(self) -> None:
        """As a new process; one without a journal is told by the lab where to go on, and has the outcomes there."""
        party = self.party if self.journalled else new_party()
        first = 0 if self.journalled or not self.journal else _end(self.journal[-1])
        self.session = decoder(self.stream, first, party)
        for outcomes in self.journal if self.journalled else ():
            self.session.restore(outcomes)

    def cut(self, host: EncoderSession, noticed: bool) -> None:
        """The connection is lost; the encoder may notice it only when the decoder is back."""
        self.down.clear()
        self.up.clear()
        self.joined = False
        if noticed and self.stream in host.acknowledged:
            host.leave(self.stream)

    def join(self, host: EncoderSession) -> None:
        if self.stream in host.acknowledged and not self.journalled:
            host.leave(self.stream)  # a new party waits until the old one is found dead
        arrived = from_bytes(to_bytes(self.session.join()))
        assert isinstance(arrived, Join)
        self.down.append(to_bytes(host.join(arrived)))
        self.joined = True

    def take(self) -> None:
        """One frame that has come."""
        frame = from_bytes(self.down.popleft())
        ack: Ack | None = None
        match frame:
            case Terms():
                ack = self.session.agree(frame)
            case Lost():
                self.session.skip(frame)
            case Indices() if not self.session.has(frame):
                outcomes, ack = decode(self.session, frame)
                self.journal.append(outcomes)
            case End():
                ack = self.session.end(frame)
        if ack is not None:
            self.up.append(to_bytes(ack))


def _end(outcomes: Outcomes) -> int:
    return outcomes.first_round + outcomes.message.size


def undisturbed() -> tuple[bytes, list[list[Outcomes]]]:
    """What the run is to come to: the encoder's digest, and each decoder's outcomes."""
    host = encoder()
    frames = encode(host, FEW)
    came = []
    for k in range(K):
        own = decoder(k)
        own.agree(host.join(own.join()))
        came.append([decode(own, frame)[0] for frame in frames])
    return host.digest, came


@pytest.mark.parametrize("journalled", [True, False])
@pytest.mark.parametrize("part", range(4))
def test_any_faults_in_any_order_leave_every_round_once_and_as_it_was(
        monkeypatch: pytest.MonkeyPatch, part: int, journalled: bool) -> None:
    """Cuts, noticed or not, lost and damaged frames, restarts of either side, slow readers: 50 seeds of 600 steps."""
    monkeypatch.setattr(compression, "WINDOW_FRAMES", 2 * ACK_FRAMES)  # which few frames fill
    digest, expected = undisturbed()
    for seed in range(50 * part, 50 * (part + 1)):
        peers, host = interleaved(random.Random(seed), journalled)
        for peer, right in zip(peers, expected, strict=True):
            assert [outcomes.first_round for outcomes in peer.journal] == [each.first_round for each in right], seed
            for got, each in zip(peer.journal, right, strict=True):
                assert got.matches(each).all(), seed
                assert got.reconstruction is not None and each.reconstruction is not None
                assert np.array_equal(got.reconstruction, each.reconstruction), seed
            assert peer.session.lost == []
            assert not journalled or peer.session.digest == digest
        assert host.next_round == SIZE * FEW
        assert not journalled or host.digest == digest


def interleaved(rng: random.Random, journalled: bool) -> tuple[list[Peer], EncoderSession]:
    """A run in which anything may happen for 600 steps, and then nothing bad any more."""
    host, journal = encoder(), list[Entry]()
    peers = [Peer(k, journalled) for k in range(K)]
    likes = [rng.random() for _ in peers]  # how fast each is

    def restarted() -> EncoderSession:
        again = encoder(next_round=0 if journalled else min(peer.session.next_round for peer in peers))
        for entry in journal if journalled else ():
            again.restore(entry.frame, entry.outcomes)
        for peer in peers:
            peer.cut(again, noticed=False)
        return again

    def step(bad: bool) -> None:
        nonlocal host
        peer = rng.choices(peers, likes if bad else None)[0]
        what = rng.random()
        if host.next_round < SIZE * FEW:
            if host.open:
                entry = Entry(*host.encode(A[host.next_round :][:SIZE]))
                journal.append(entry)
        elif peer.stream not in host.finished:
            host.end()
        if bad and what < 0.01:
            host = restarted()
        elif bad and what < 0.04:
            peer.cut(host, noticed=rng.random() < 0.5)
            peer.restart()
        elif bad and what < 0.1:
            peer.cut(host, noticed=rng.random() < 0.5)
        elif bad and what < 0.12 and len(peer.down) > 1:
            del peer.down[rng.randrange(len(peer.down) - 1)]  # the next one shows it
        elif bad and what < 0.16 and (way := rng.choice((peer.down, peer.up))):
            at = rng.randrange(len(way))
            damaged = bytearray(way[at])
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            way[at] = bytes(damaged)
        elif not peer.joined:
            peer.join(host)
        elif what < 0.5:
            if (frame := host.outgoing(peer.stream)) is not None:
                peer.down.append(to_bytes(frame))
        elif what < 0.8 and peer.down:
            guarded(peer, host, peer.take)
        elif peer.up:
            guarded(peer, host, lambda: host.receive(peer.stream, from_bytes(peer.up.popleft())))
        assert all(len(each.down) <= 2 * ACK_FRAMES + 2 for each in peers)  # a window, Terms, and End

    for _ in range(600):
        step(bad=True)
    for _ in range(100_000):
        if len(host.finished) == K and all(peer.session.ended for peer in peers):
            return peers, host
        step(bad=False)
    raise AssertionError("it does not come to an end")


def guarded(peer: Peer, host: EncoderSession, action: Callable[[], None]) -> None:
    """Whoever finds a frame damaged, or missing, ends the stream."""
    try:
        action()
    except DamageError:
        peer.cut(host, noticed=True)
