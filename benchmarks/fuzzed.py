"""What is fuzzed: every entry point of a service, the valid conversations it can have, and how one is played to it.

    entries   all of them, by name: sessions (frames in, frames out), then handlers and loops (messages in pipes), then
              journals
    others    messages of any conversation, to mix in

A player makes a new session, plays, and then looks whether what was to be left as it was has been: what is refused
changes nothing, nothing is under way any more, no task and no broadcast is left, and in the strong scheme the text is
what it would have been.
"""

import asyncio
import random
import tempfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest import mock

import numpy as np
from mutations import Repair, repaired
from numpy.typing import NDArray

from glsnet.codes import Code, decoding
from glsnet.compression import DecoderSession, EncoderSession, Outcomes, Samples
from glsnet.conversation import AliceSession, BobSession, Draw
from glsnet.coupling import Scheme
from glsnet.drafting import DraftSession
from glsnet.errors import FrameError, GlsnetError, TransportError
from glsnet.frames import (
    NO_TRAFFIC,
    Ack,
    Done,
    End,
    Frame,
    Indices,
    Join,
    Lost,
    Refusal,
    Row,
    Spent,
    Terms,
    Tokens,
    Turn,
    from_bytes,
    terms_to_proto,
    to_bytes,
)
from glsnet.generation import Asked, Piece, Request
from glsnet.images import code as image_code
from glsnet.images import model as image_model
from glsnet.journal import Entry as Record
from glsnet.language.synthetic import SyntheticModel
from glsnet.randomness import seed_digest, seed_from_integer
from glsnet.sources.gaussian import Gaussian, SideInformation
from glsnet.speculation import Generation, TargetSession
from glsnet.transport import control, exchange, parties, speculating
from glsnet.transport.exchange import Broadcast
from glsnet.transport.journal import recorded
from glsnet.transport.meter import Reading
from glsnet.transport.pipes import Dialled
from glsnet.v1 import control_pb2, generation_pb2

SEED = seed_from_integer(1)
T = TypeVar("T")


class Entry(NamedTuple):
    """An entry point.

    Attributes:
        share: of all inputs, in proportion.
        valid: conversations that are right.
        play: one, by the number of the valid one that it was made of; raises GlsnetError as the session does.
        repair: checks made right.
    """

    share: int
    valid: list[list[bytes]]
    play: Callable[[int, list[bytes]], None]
    repair: Repair = repaired


# The world that inputs are played in.


class Scripted:
    """A `Dialled` whose peer says so much, whatever it hears, and ends the stream."""

    peer, name = "fuzz", None

    def __init__(self, said: Iterable[bytes]) -> None:
        self._said = iter(said)

    async def read(self) -> bytes | None:
        """See `Pipe`."""
        await asyncio.sleep(0)
        return next(self._said, None)

    async def write(self, data: bytes) -> None:
        """See `Pipe`."""
        await asyncio.sleep(0)

    async def close(self) -> None:
        """See `Dialled`."""

    def reading(self) -> Reading:
        """See `Dialled`."""
        return Reading(0, 0, 0, 0)


class Obliging(Scripted):
    """The pipe of a decoder that joins a session and acknowledges whatever it is sent."""

    def __init__(self, session: str) -> None:
        super().__init__([])
        self._answers: asyncio.Queue[Frame] = asyncio.Queue()
        self._answers.put_nowait(Join(session, None, Terms()))

    async def read(self) -> bytes | None:
        """See `Pipe`."""
        return to_bytes(await self._answers.get())

    async def write(self, data: bytes) -> None:
        """See `Pipe`."""
        match from_bytes(data):
            case Terms():
                self._answers.put_nowait(Ack(0))
            case Indices(first_round, count):
                self._answers.put_nowait(Ack(first_round + count))
            case End(rounds) | Lost(rounds):
                self._answers.put_nowait(Ack(rounds))


class World:
    """A `Net` in which every peer says so much; nothing is waited for."""

    def __init__(self, said: Sequence[bytes] = ()) -> None:
        self.random, self._said = random.Random(1), said

    @asynccontextmanager
    async def dial(self, address: str, peer: str) -> AsyncIterator[Dialled]:
        """See `Net`."""
        yield Scripted(self._said)

    async def compute(self, function: Callable[..., T], *arguments: object) -> T:
        """See `Net`."""
        return function(*arguments)

    def proven(self, join: Join) -> Join:
        """See `Net`."""
        return join

    def local(self, seconds: float) -> float:
        """No time at all."""
        return 0.0


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: UNHANDLED.append(context))
    return loop


UNHANDLED: list[dict[str, Any]] = []  # errors that nobody has looked at: of tasks, of callbacks


def _run(*coroutines: Coroutine[Any, Any, None], turns: int = 1000) -> None:
    """Run the first to its end, or to so many turns of the loop, and then cancel all; raise what it, or any, raised."""
    async def all_of_them() -> None:
        tasks = [asyncio.ensure_future(each) for each in coroutines]
        for _ in range(turns):
            await asyncio.sleep(0)
            if all(task.done() for task in tasks):
                break
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(3):  # what these have cancelled ends, too
            await asyncio.sleep(0)
        errors = [each for each in results if isinstance(each, BaseException)]
        errors = [each for each in errors if not isinstance(each, asyncio.CancelledError)]
        for error in sorted(errors, key=lambda each: isinstance(each, GlsnetError)):
            raise error

    try:
        _loop().run_until_complete(all_of_them())
    finally:
        left = asyncio.all_tasks(_loop())
        assert not left, f"tasks left: {left}"
        assert not UNHANDLED, f"errors nobody looked at: {UNHANDLED}"


def _same(session: object, before: str) -> None:
    """A session that has refused something is what it was before."""
    assert _state(session) == before, f"refused, and changed:\n{before}\n{_state(session)}"


def _state(session: object) -> str:
    return repr(vars(session))


def _first(said: Iterator[bytes], kind: type[T]) -> T:
    frame = from_bytes(next(said, b""))
    if not isinstance(frame, kind):
        raise FrameError(f"frame: expected {kind.__name__} first, got {type(frame).__name__}")
    return frame


# Compression.

SOURCE, SIDE = Gaussian(0.5, 2.0), SideInformation(0.9, 0.1, 0.1)
CODES = [Code(SOURCE, "gls", 2, 8, 0.01), Code(SOURCE, "gls", 2, 8, 0.01, packing="entropy"),
         Code(SOURCE, "nested", 2, 6, step=0.5), Code(SOURCE, "split-trellis", 2, 8, step=0.5)]
OPEN = "s"  # the session


def _still() -> float:
    return 0.0


MODEL = image_model.load("digits")
IMAGES = [image_code.ImageCode(MODEL, "gls", 2, 4, 64, MODEL.betas[0], _still),
          image_code.ImageCode(MODEL, "wyner-ziv", 2, MODEL.counts[2], None, None, _still)]


@cache
def _coded(code: Code | image_code.ImageCode) -> list[Record]:
    """Three frames of five samples, or images."""
    session, rng = EncoderSession(OPEN, code, SEED), np.random.default_rng(1)
    samples = rng.normal(0.5, 1.4, (3, 5)) if isinstance(code, Code) else _pixels(rng, MODEL.shape.half)
    return [Record(*session.encode(a)) for a in samples]


def _pixels(rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (3, 5, size), np.uint8)


def _encoder(code: Code | image_code.ImageCode) -> EncoderSession:
    session = EncoderSession(OPEN, code, SEED)
    for each in _coded(code):
        session.restore(each.frame, each.outcomes)
    session.end()
    return session


def _to_encoder() -> list[list[bytes]]:
    expected = replace(CODES[0].terms(), protocol=2, seed_digest=seed_digest(SEED))
    joins = [Join(OPEN, None, Terms()), Join(OPEN, 1, expected, (), 5, b"12345678")]
    return [[*map(to_bytes, [join, *answers])] for join in joins
            for answers in ([Ack(join.next_round), Ack(10), Ack(15)], [Ack(join.next_round), Refusal("no")])]


def _play_encoder(choice: int, said: list[bytes]) -> None:
    session = _encoder(CODES[0])
    _hosted(session, iter(said))


def _hosted(session: EncoderSession | BobSession | TargetSession, said: Iterator[bytes],
            each: Callable[[], None] = lambda: None) -> None:
    """What `exchange.Broadcast` does with a stream, `each` after each frame; then nothing of it is left."""
    join = _first(said, Join)
    before = _state(session)
    try:
        stream = session.join(join).stream
    except GlsnetError:
        _same(session, before)
        raise
    assert stream is not None
    try:
        for data in said:
            frame = from_bytes(data)
            if isinstance(frame, Join):
                continue
            before = _state(session)
            try:
                session.receive(stream, frame)
            except GlsnetError:
                if not isinstance(frame, Refusal):
                    _same(session, before)
                raise
            each()
            for _ in range(1000):
                if (out := session.outgoing(stream)) is None:
                    break
                to_bytes(out)
            else:
                raise AssertionError("there is always more to send")
    finally:
        session.leave(stream)
        assert not session.acknowledged, session.acknowledged


def _to_decoder() -> list[list[bytes]]:
    said: list[list[Frame]] = []
    codes: list[Code | image_code.ImageCode] = [*CODES, *IMAGES]
    for code in codes:
        terms = _encoder(code).join(Join(OPEN, None, Terms()))
        indices = [each.frame for each in _coded(code)]
        said += [[terms, *indices, End(15)], [terms, Lost(5), *indices[1:], End(15)]]
    return [[*map(to_bytes, each)] for each in said]


def _decoder(choice: int) -> DecoderSession:
    of = _image_code if _of_images(choice) else decoding(lambda _: SIDE)
    return DecoderSession(OPEN, of, SEED, Terms(), party=b"12345678")


def _image_code(terms: Terms) -> image_code.ImageCode:
    return image_code.code_of(terms, MODEL, _still)


def _of_images(choice: int) -> bool:
    return choice >= 2 * len(CODES)


def _side(choice: int, count: int) -> Samples:
    """What a decoder knows of so many samples, or images."""
    return np.zeros((count, MODEL.shape.side), np.uint8) if _of_images(choice) else np.zeros(count)


def _play_decoder(choice: int, said: list[bytes]) -> None:
    """What `parties.run_decoder` does."""
    session, frames = _decoder(choice), iter(said)
    to_bytes(session.agree(_first(frames, Terms)))
    for data in frames:
        frame, before = from_bytes(data), _state(session)
        ack: Ack | None = None
        try:
            match frame:
                case End():
                    ack = session.end(frame)
                case Lost():
                    session.skip(frame)
                case Indices(_, count) if not session.has(frame):
                    session.check(frame)
                    _, ack = session.decode(frame, _side(choice, count))
        except FrameError:
            _same(session, before)
            raise
        if ack is not None:
            to_bytes(ack)
        to_bytes(session.join())


# Couplings.

SCHEMES = [Scheme("low-communication", 1, 0.1), Scheme("whole-distribution"), Scheme("gumbel")]
P = np.arange(1.0, 9.0) / 36
ROUNDS = 4


@cache
def _talked(scheme: Scheme) -> tuple[list[bytes], list[bytes]]:
    """What Alice has said, and Bob."""
    bob, alice = BobSession(OPEN, SEED, scheme, P.size), AliceSession(OPEN, SEED, Terms())
    terms = bob.join(alice.join())
    agreed = alice.agree(terms)
    bob.receive(0, agreed)
    hers, his = alice.begin(Draw(ROUNDS, P)), bob.begin(Draw(ROUNDS, P[::-1]))
    ups: list[Frame] = [alice.join(), agreed]
    downs: list[Frame] = [terms]
    up, down = [*hers.take(None)], [*his.take(None)]
    while up or down:
        ups += up
        downs += down
        up, down = ([turn for heard in down for turn in hers.take(heard)],
                    [turn for heard in up for turn in his.take(heard)])
    assert hers.drawn is not None and his.drawn is not None
    alice.finish(hers.drawn)
    bob.finish(his.drawn)
    end = bob.end()
    return [*map(to_bytes, [*ups, alice.end(end)])], [*map(to_bytes, [*downs, end])]


def _play_bob(choice: int, said: list[bytes]) -> None:
    session = BobSession(OPEN, SEED, SCHEMES[choice], P.size)
    under_way = session.begin(Draw(ROUNDS, P[::-1]))
    turns = [*under_way.take(None)]

    def talk() -> None:
        while session.turns and under_way.drawn is None:
            turns.extend(under_way.take(session.turns.popleft()))
        for turn in turns:
            to_bytes(turn)
        if under_way.drawn is not None and session.next_round == 0:
            session.finish(under_way.drawn)
            session.say(session.end())

    _hosted(session, iter(said), talk)


def _play_alice(choice: int, said: list[bytes]) -> None:
    session, frames = AliceSession(OPEN, SEED, Terms()), iter(said)
    session.agree(_first(frames, Terms))
    under_way = session.begin(Draw(ROUNDS, P))
    turns = [*under_way.take(None)]
    for data in frames:
        match frame := from_bytes(data):
            case Turn() if under_way.drawn is None:
                turns += under_way.take(frame)
            case End() if under_way.drawn is not None:
                session.finish(under_way.drawn)
                to_bytes(session.end(frame))
                return
            case _:
                raise FrameError("frame: expected a turn, or end")
    for turn in turns:
        to_bytes(turn)


# Speculative decoding.

TARGET, DRAFTER = SyntheticModel(1, 0.0, 32, 64), SyntheticModel(1, 0.5, 32, 64)
REQUESTS = [
    Request("ab", 12, scheme="gls-strong", drafts=2, length=3, ahead=2),
    Request("ab", 12, scheme="gls", drafts=2, length=3),
    Request("ab", 12, scheme="specinfer", drafts=2, length=3),
    Request("ab", 12, scheme="kseq", drafts=2, length=3),
    Request("ab", 12, scheme="block-verification", length=3),
]


def _target() -> TargetSession:
    return TargetSession(TARGET, SEED, 2, _still)


@cache
def _drafted(number: int) -> tuple[list[bytes], list[bytes]]:
    """What a draft server of both streams has said, and the target."""
    target, drafter = _target(), DraftSession(DRAFTER, SEED, [0, 1], _still)
    terms = target.join(drafter.join())
    agreed = drafter.agree(terms)
    target.receive(0, agreed)
    ups: list[Frame] = [drafter.join(), agreed]
    downs: list[Frame] = [terms]

    def arrive(answers: Iterable[Frame]) -> None:
        for answer in answers:
            ups.append(answer)
            target.receive(0, answer)

    generation = target.begin(REQUESTS[number])
    while not generation.settled:
        for _, frame in generation.to_send():
            downs.append(frame)
            if isinstance(frame, Done):
                drafter.done(frame)
                arrive([Spent(frame.request, 0.5, NO_TRAFFIC, NO_TRAFFIC, True)])
            else:
                arrive(drafter.receive(frame))
        while drafter.busy:
            if (drafts := drafter.work()) is not None:
                arrive([drafts])
        if not generation.finished.reason:
            generation.step()
    return [*map(to_bytes, ups)], [*map(to_bytes, downs)]


@cache
def _strong_text() -> list[int]:
    generation = _target().begin(REQUESTS[0])
    return _finished(generation)


def _finished(generation: Generation) -> list[int]:
    """All tokens that are left, without waiting."""
    tokens: list[int] = []
    for _ in range(100):
        if generation.finished.reason:
            return tokens
        if not generation.ready:
            generation.expire()
        if (piece := generation.step()) is not None:
            tokens += piece.tokens
    raise AssertionError("it goes on and on")


def _play_target(choice: int, said: list[bytes]) -> None:
    target = _target()
    generations: list[Generation] = []
    tokens: list[int] = []

    def verify() -> None:
        if not generations:
            generations.append(target.begin(REQUESTS[choice]))
        while generations[0].ready and not generations[0].finished.reason:
            if (piece := generations[0].step()) is not None:
                tokens.extend(piece.tokens)

    try:
        _hosted(target, iter(said), verify)
    finally:
        generation = generations[0] if generations else target.begin(REQUESTS[choice])
        try:
            tokens += _finished(generation)
            if choice == 0:
                assert tokens == _strong_text(), f"expected the text {_strong_text()}, got {tokens}"
        except TransportError:
            pass  # a row that was wanted is lost
        finally:
            target.end(generation)
        speculating._reply(generation.finished)
        assert target.drafting == 0 and not target._generations, vars(target)


def _play_drafter(choice: int, said: list[bytes]) -> None:
    session, frames = DraftSession(DRAFTER, SEED, [0, 1], _still), iter(said)
    session.agree(_first(frames, Terms))
    for data in frames:
        frame, before = from_bytes(data), _state(session)
        if isinstance(frame, Done):
            session.done(frame)
            continue
        try:
            answers: list[Tokens | Row] = [*session.receive(frame)]
        except GlsnetError:
            _same(session, before)
            raise
        while session.busy:
            if (drafts := session.work()) is not None:
                answers.append(drafts)
        for answer in answers:
            to_bytes(answer)


# Handlers and loops.


def _play_join(choice: int, said: list[bytes]) -> None:
    """Into an encoder's session, Bob's, and a target's while it generates."""
    sessions: list[Any] = [_encoder(CODES[0]), BobSession(OPEN, SEED, SCHEMES[0], P.size), _target()]
    session = sessions[choice]
    broadcast = Broadcast(session)
    broadcasts = {session.session: broadcast}
    joins = exchange.serve_join(Scripted(said), broadcasts)
    if choice < 2:
        _run(joins)
    else:
        replies = Replies([_asked("ab", 0)])
        try:
            _run(joins, speculating.serve_generate(replies, World(), broadcast))
        finally:
            assert replies.tokens == _strong_text(), f"expected the text {_strong_text()}, got {replies.tokens}"
            assert not session._generations
    assert not session.acknowledged and not broadcast._sending


class Replies(Scripted):
    """A client's pipe that keeps the tokens."""

    def __init__(self, said: Iterable[bytes]) -> None:
        super().__init__(said)
        self.tokens: list[int] = []

    async def write(self, data: bytes) -> None:
        """See `Pipe`."""
        await super().write(data)
        self.tokens += generation_pb2.GenerateReply.FromString(data).piece.tokens


def _asked(prompt: str, ahead: int, **more: Any) -> bytes:
    asked = Asked(prompt, 12, scheme="gls-strong", drafts=2, length=3, ahead=ahead, **more)
    return speculating._request(asked).SerializeToString()


def _play_generate(choice: int, said: list[bytes]) -> None:
    session = _target()
    try:
        _run(speculating.serve_generate(Scripted(said), World(), Broadcast(session)))
    finally:
        assert not session._generations


def _play_client(choice: int, said: list[bytes]) -> None:
    async def generate() -> None:
        async for _ in speculating.generate("there:1", Asked("ab"), 0.0, World(said).dial):
            pass

    _run(generate())


OWN = control.Own(patience=0.0)


def _orders(open_: control_pb2.Open, *orders: control_pb2.Order) -> list[bytes]:
    return [each.SerializeToString() for each in (control_pb2.Order(open=open_), *orders)]


def _samples(values: Sequence[float]) -> control_pb2.Order:
    return control_pb2.Order(samples=control_pb2.Samples(values=np.array(values, "<f8").tobytes()))


def _all_orders(decoder: bool) -> list[list[bytes]]:
    """Of a code, of a code that goes on, of a coupling, and of codes for images."""
    own: dict[str, Any] = {}
    if decoder:
        own["decoder"] = control_pb2.Decoder(encoder="there:1", stream=0, slope=0.9, intercept=0.1, residual=0.1)
    def code(of: Code | image_code.ImageCode, **more: Any) -> control_pb2.Open:
        return control_pb2.Open(session=OPEN, seed=SEED, terms=terms_to_proto(of.terms()), wait_for=1, **own, **more)

    samples = _samples([0.5, -1.0, 2.0, 0.0, 1.5])
    images = [control_pb2.Order(samples=control_pb2.Samples(pixels=each.tobytes()))
              for each in _pixels(np.random.default_rng(1), MODEL.shape.side if decoder else MODEL.shape.half)]
    scheme = Terms(scheme="gumbel", decoders=1, items=P.size)
    draw = control_pb2.Order(draw=control_pb2.Draw(rounds=ROUNDS, probabilities=P.astype("<f8").tobytes()))
    return [
        _orders(code(CODES[0]), samples, samples, samples),
        _orders(code(CODES[2], next_round=5, patience=1.0), samples, samples),
        _orders(control_pb2.Open(session=OPEN, seed=SEED, terms=terms_to_proto(scheme), **own), draw),
        *(_orders(code(of), *images) for of in IMAGES),
    ]


def _play_encoder_orders(choice: int, said: list[bytes]) -> None:
    """With decoders that oblige, once it has opened."""
    broadcasts: exchange.Broadcasts = {}

    async def joining() -> None:
        while not broadcasts:
            await asyncio.sleep(0)
        (name, broadcast), = broadcasts.items()
        await asyncio.gather(*(exchange.serve_join(Obliging(name), broadcasts)
                               for _ in range(min(broadcast.session.decoders, 2))), return_exceptions=True)

    with mock.patch.object(control, "GrpcNet", lambda *_: World()):
        try:
            _run(control.conduct_encoder(Scripted(said), broadcasts, OWN), joining())
        finally:
            assert not broadcasts


def _play_decoder_orders(choice: int, said: list[bytes]) -> None:
    to_decoder = _to_decoder()
    encoder = [to_decoder[0], to_decoder[5], _talked(SCHEMES[2])[1], *to_decoder[2 * len(CODES) :: 2]][choice]
    with mock.patch.object(control, "GrpcNet", lambda *_: World(encoder)):
        _run(control.conduct_decoder(Scripted(said), None, OWN))


def _play_decoder_loop(choice: int, said: list[bytes]) -> None:
    async def side(_: int, count: int) -> Samples:
        return _side(choice, count)

    async def run() -> None:
        await parties.run_decoder(World(said), _decoder(choice), "there:1", parties.nothing, side, parties.nothing,
                                  NoRecords(), 0.0)

    _run(run())


class NoRecords:
    """A `Journal` of nothing."""

    def __iter__(self) -> Iterator[Record]:
        return iter(())

    def append(self, entry: Record, /) -> None:
        """See `Journal`."""


def _play_alice_loop(choice: int, said: list[bytes]) -> None:
    async def draws() -> AsyncIterator[Draw]:
        yield Draw(ROUNDS, P)

    async def run() -> None:
        await parties.run_alice(World(said), AliceSession(OPEN, SEED, Terms()), "there:1", parties.nothing, draws(),
                                parties.nothing)

    _run(run())


def _play_drafter_loop(choice: int, said: list[bytes]) -> None:
    session = DraftSession(DRAFTER, SEED, [0, 1], _still)
    _run(speculating.run_draft(World(said), session, "there:1", parties.nothing, 0.0))


def _reports() -> list[list[bytes]]:
    samples = np.array([0.5, 1.0])
    outcomes = Outcomes(0, *(np.arange(2),) * 3, samples)
    images = replace(outcomes, reconstruction=np.ones((2, 3), np.float32))
    traffic = control._traffic(NO_TRAFFIC, NO_TRAFFIC)
    closed = control_pb2.Closed(rounds=2, digest=b"1", meter=control_pb2.Meter(setup=traffic, rounds=traffic),
                                seconds=control_pb2.Seconds(networks=1.0))
    drawn = control_pb2.Drawn(count=2, items=bytes(16), indices=[1, 2], bits_sent=3.0)
    opened = control_pb2.Report(opened=control_pb2.Opened(next_round=3))
    return [[each.SerializeToString()] for each in (
        opened, control._outcomes(outcomes), control._outcomes(images), control_pb2.Report(drawn=drawn),
        control_pb2.Report(closed=closed))]


def _play_report(choice: int, said: list[bytes]) -> None:
    call: Any = Scripted(said)
    lab = control.Conductor(call)
    asked: Callable[[], Awaitable[object]] = [lab.opened, lab.outcomes, lab.outcomes_or_closed, lab.drawn,
                                              lab.closed][choice]

    async def ask() -> None:
        await asked()

    _run(ask())


# Journals.


@cache
def _folder() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    """A folder for as long as this process lives, and the journal that is in it."""
    folder = tempfile.TemporaryDirectory(prefix="glsnet-fuzz-")
    with recorded(Path(folder.name), OPEN, seed_digest(SEED)) as journal:
        for each in _coded(CODES[0]):
            journal.append(each)
    path, = Path(folder.name).iterdir()
    return folder, path


def _journal() -> list[list[bytes]]:
    data, records = _folder()[1].read_bytes(), []
    while data:
        size = 8 + int.from_bytes(data[:4], "little")
        records.append(data[:size])
        data = data[size:]
    return [records]


def _rerecorded(data: bytes) -> bytes:
    """A record with its length and check made right."""
    return len(data[8:]).to_bytes(4, "little") + zlib.crc32(data[8:]).to_bytes(4, "little") + data[8:]


def _play_journal(choice: int, said: list[bytes]) -> None:
    """What a service does when it is started again."""
    folder, path = _folder()
    path.write_bytes(b"".join(said))
    with recorded(Path(folder.name), OPEN, seed_digest(SEED)) as journal:
        entries = [*journal]
        session = EncoderSession(OPEN, CODES[0], SEED, entries[0].outcomes.first_round if entries else 0)
        for entry in entries:
            session.restore(entry.frame, entry.outcomes)
        journal.append(_coded(CODES[0])[0])
        assert len([*journal]) == len(entries) + 1


def _play_frame(choice: int, said: list[bytes]) -> None:
    for data in said:
        to_bytes(from_bytes(data))


@cache
def entries() -> dict[str, Entry]:
    """All that is fuzzed."""
    to_target, to_drafter = zip(*map(_drafted, range(len(REQUESTS))), strict=True)
    to_bob, to_alice = zip(*map(_talked, SCHEMES), strict=True)
    to_encoder, to_decoder = _to_encoder(), _to_decoder()
    asked = [[_asked("ab", 0)], [_asked("abc", 2, stop=("xyz", "q"), temperature=0.5, top_k=5, top_p=0.9, made=(1, 2),
                                        draft_temperatures=(0.5, 1.0))]]
    pieces = [speculating._reply(Piece("ab", [1, 2], [0, 1])),
              speculating._reply(_target().begin(REQUESTS[0]).finished)]
    frames = sorted({data for all_said in (to_encoder, to_decoder, to_target, to_drafter, to_bob, to_alice)
                     for said in all_said for data in said})
    return {
        "frame": Entry(500, [[data] for data in frames], _play_frame),
        "encoder": Entry(100, to_encoder, _play_encoder),
        "decoder": Entry(100, to_decoder, _play_decoder),
        "bob": Entry(60, [*to_bob], _play_bob),
        "alice": Entry(60, [*to_alice], _play_alice),
        "target": Entry(30, [*to_target], _play_target),
        "drafter": Entry(30, [*to_drafter], _play_drafter),
        "join": Entry(20, [to_encoder[0], to_bob[0], to_target[0]], _play_join),
        "encoder's orders": Entry(15, _all_orders(decoder=False), _play_encoder_orders, bytes),
        "decoder's orders": Entry(15, _all_orders(decoder=True), _play_decoder_orders, bytes),
        "decoder's loop": Entry(15, to_decoder, _play_decoder_loop),
        "alice's loop": Entry(10, [*to_alice], _play_alice_loop),
        "drafter's loop": Entry(15, [*to_drafter], _play_drafter_loop),
        "generate": Entry(10, asked, _play_generate, bytes),
        "client": Entry(10, [pieces], _play_client, bytes),
        "reports": Entry(10, _reports(), _play_report, bytes),
        "journal": Entry(10, _journal(), _play_journal, _rerecorded),
    }


@cache
def others() -> list[bytes]:
    """Messages of any conversation."""
    return sorted({data for entry in entries().values() for said in entry.valid for data in said})
