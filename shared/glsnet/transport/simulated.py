"""A simulated network in virtual time: every party's `pipes.Net`, links with faults, processes that crash.

    Network        the parties, their links, what they listen to; a digest of all that has happened
    _World         one party's Net: what it dials is a connection, with an end here and one at the listener
    _End           either end, a `pipes.Pipe`: what has come and is not read yet
    _Stream        one direction of one connection: its order
    _Way           one direction of a link, all connections together: rate, delays, losses, black holes
    _Connection, _Link, _Party    what belongs together, and is lost together
    Realised       what has come of a link's faults

A link joins a party that dials to whoever listens, and has that party's name. What a message meets on it:

- It leaves when the link is free: its bytes, with those of HTTP/2, gRPC and TCP/IP, at `rate`. Then it takes what the
  latencies draw, and arrives after all that its sender has put on the connection before, unless reordered.
- Lost, it is sent again after 0.2 s, and after twice as long each further time, as by TCP; what is behind it waits.
- In a black hole (timeout) it is held, and sent when that lifts.
- Duplicated, it comes twice; corrupt, with one bit flipped; reordered, without latency, past those under way.
- Sliced, it is whole when its last slice has come. A slow close delays the end of a stream. reset_peer and down lose
  the connections that are open, and refuse others while they last; limit_data loses one once so much has passed.

A connection on which nothing can come through for `silence` seconds is lost at both ends, as by gRPC's keepalive: in a
black hole of either direction, in losses in a row, or because the peer is paused. A paused party computes, reads and
writes nothing, though its timers run. Acknowledgements of TCP are not modelled.
"""

import asyncio
import hashlib
import json
import math
import random
import zlib
from array import array
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from glsnet.errors import GlsnetError, TransportError
from glsnet.faults import OF_PARTIES, Fault, concerns, delay, schedule, share
from glsnet.frames import Join
from glsnet.transport.meter import Reading
from glsnet.transport.pipes import Dialled, Net, Pipe
from glsnet.transport.rpc import CONNECT_SECONDS, STATUS

T = TypeVar("T")
ROOM = 1 << 20  # bytes of messages on one direction of a connection beyond which its writer waits
RETRANSMIT = 0.2  # seconds
FRAMING = 14  # bytes around a message: HTTP/2's DATA, 9, and gRPC's prefix, 5
SEGMENT = 52  # bytes of TCP/IP around everything that is sent: IPv4, and TCP with timestamps
LEGS = (0, 0, 302, 149)  # stream bytes of dialling, up, down: SYN, SYN-ACK; settings and headers, as gRPC's are
CLOSE, TRAILERS, RESET = 9, 52, 13  # stream bytes of a dialler's end, of a handler's, and of leaving early
Handler = Callable[[Pipe], Awaitable[None]]
Cost = Callable[[str], float]
Start = Callable[[str], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Realised:
    """What a link has done in one direction.

    Attributes:
        link: the party that dials.
        direction: down, to this party, or up.
        events: how many messages were sent, delivered, held, duplicated, corrupted, reordered, or dropped by a reader
            that had left; how often one, or what opens or ends a stream, was lost and sent again.
        broken: how many connections were.
        mean, sd, p50, p99: seconds from writing to delivery, of all delivered; NaN of none.
    """

    link: str
    direction: str
    events: Counter[str]
    broken: int
    mean: float
    sd: float
    p50: float
    p99: float

    def as_row(self) -> dict[str, Any]:
        """Ready for JSON, named as the real links' reports are; None of no messages."""
        delays = {f"{name}_delay": None if math.isnan(value) else value for name, value in (
            ("mean", self.mean), ("sd", self.sd), ("p50", self.p50), ("p99", self.p99))}
        return {"link": self.link, "direction": self.direction, **self.events, "broken": self.broken, **delays}


def _no_time(_: str) -> float:
    return 0.0


class Network:
    """Everything between and around the parties of one run, on the running `virtual.VirtualLoop`."""

    def __init__(self, seed: int, faults: Sequence[Fault] = (), *, silence: float = 10.0,
                 record: Callable[[bytes], None] | None = None) -> None:
        """An empty network.

        Args:
            seed: of all chance in it.
            faults: of links and parties; their times are virtual seconds from the loop's start.
            silence: virtual seconds in which nothing can come through after which a connection is lost.
            record: takes each line of the trace, JSON.
        """
        self._seed, self._faults, self._silence = seed, faults, silence
        self._loop = asyncio.get_running_loop()
        self._listeners: dict[str, Handler] = {}
        self._record, self._hash = record, hashlib.sha256()
        self._parties: dict[str, _Party] = {}
        self._links: dict[str, _Link] = {}

    @property
    def digest(self) -> str:
        """SHA-256 of the trace so far, hex."""
        return self._hash.hexdigest()

    def listen(self, address: str, handler: Handler) -> None:
        """Have a handler serve each stream to an address: the name of the party that listens, or NAME:WHAT."""
        self._listeners[address] = handler

    def hang_up(self, address: str) -> None:
        """Nobody listens there any more; streams that are open go on."""
        self._listeners.pop(address, None)

    def net(self, party: str, cost: Cost = _no_time) -> Net:
        """A party's world.

        Args:
            party: its name, which its link has, too.
            cost: virtual seconds that computing takes, by the function's name.
        """
        return _World(self, self._party(party), self._link(party), cost)

    def spawn(self, party: str, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Have a party do something; it ends at its crash. An error that is no GlsnetError ends the whole run."""
        tasks = self._party(party).tasks
        task = self._loop.create_task(work, name=party)
        tasks[task] = None
        task.add_done_callback(tasks.pop)
        task.add_done_callback(_raised)
        return task

    def crash(self, party: str) -> None:
        """Kill a party: it does nothing more, nobody listens at its addresses, its peers find their streams lost."""
        self._note("crash", party)
        crashed = self._party(party)
        for address in [each for each in self._listeners if _owner(each) == party]:
            self.hang_up(address)
        for end in list(crashed.ends):
            end.leave()
        for task in list(crashed.tasks):
            task.cancel()
        crashed.resume()

    def pause(self, party: str) -> None:
        """Stop a party, as by SIGSTOP; its peers lose it after `silence`."""
        self._note("pause", party)
        paused = self._party(party)
        paused.running.clear()
        paused.pauses += 1
        self._loop.call_later(self._silence, paused.unanswered, paused.pauses)

    def resume(self, party: str) -> None:
        """Let a paused party go on."""
        self._note("resume", party)
        self._party(party).resume()

    def play(self, start: Start, parties: Iterable[str], over: Mapping[str, asyncio.Event]) -> None:
        """Start parties, some of them late; kill, restart, pause and resume them, as the faults say.

        Args:
            start: what a party does, from its start, the first or another.
            parties: their names.
            over: per party, set once nothing is to happen to it any more; also set here, of one killed for good.
        """
        for name in parties:
            own = [(number, fault) for number, fault in enumerate(self._faults) if concerns(fault, name)]
            late = max((fault.at for _, fault in own if fault.kind == "late"), default=0.0)
            self._loop.call_at(late, self._start, name, start)
            for number, fault in own:
                if fault.kind == "kill":
                    self._follow(number, fault, name, partial(self._kill, name, over[name]),
                                 partial(self._restart, name, start, over[name]))
                elif fault.kind == "pause":
                    self._follow(number, fault, name, partial(self._pause, name), partial(self.resume, name))

    def realised(self) -> list[Realised]:
        """What has happened so far, per link and direction."""
        return [way.realised() for link in self._links.values() for way in link.ways.values()]

    def _start(self, name: str, start: Start) -> None:
        self._note("start", name)
        self.spawn(name, start(name))

    def _pause(self, name: str, *_: float) -> None:
        self.pause(name)

    def _kill(self, name: str, over: asyncio.Event, _: float, until: float) -> None:
        if over.is_set() or not self._party(name).tasks:
            return
        self.crash(name)
        self._party(name).killed = True
        if until == math.inf:
            over.set()

    def _restart(self, name: str, start: Start, over: asyncio.Event) -> None:
        if self._party(name).killed and not over.is_set():
            self._party(name).killed = False
            self._start(name, start)

    def _note(self, event: str, of: str, more: str = "") -> None:
        self._trace(f'{{"t":{self._loop.time()!r},"event":"{event}","link":{json.dumps(of)}{more}}}\n')

    def _trace(self, line: str) -> None:
        data = line.encode()
        self._hash.update(data)
        if self._record is not None:
            self._record(data)

    def _party(self, name: str) -> "_Party":
        if name not in self._parties:
            self._parties[name] = _Party(random.Random(f"{self._seed} {name}"))
        return self._parties[name]

    def _link(self, name: str) -> "_Link":
        if name not in self._links:
            self._links[name] = _Link(self, name)
        return self._links[name]

    def _follow(self, number: int, fault: Fault, of: str, begin: Callable[[float, float], None],
                end: Callable[[], None]) -> None:
        """Call `begin`, with the times of onset and end, and `end`, whenever a fault comes and goes."""
        loop, times = self._loop, schedule(fault, self._seed, number, of)

        def wait() -> None:
            span = next((span for span in times if span[1] > loop.time()), None)
            if span is not None and span[0] > loop.time():
                loop.call_at(span[0], come, *span)
            elif span is not None:  # what is sent now has to meet it
                come(*span)

        def come(onset: float, until: float) -> None:
            begin(onset, until)
            if until < math.inf:
                loop.call_at(until, go)

        def go() -> None:
            end()
            wait()

        wait()


class _Party:
    """A process: what a crash ends, and a pause holds."""

    def __init__(self, chance: random.Random) -> None:
        self.random = chance
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.ends: dict[_End, None] = {}
        self.running = asyncio.Event()
        self.running.set()
        self.pauses = 0
        self.held: list[Callable[[], object]] = []  # what has come to it while it was paused
        self.killed = False

    def when_running(self, call: Callable[[], object]) -> None:
        """Now, or when it is resumed."""
        if self.running.is_set():
            call()
        else:
            self.held.append(call)

    def resume(self) -> None:
        self.running.set()
        held, self.held = self.held, []
        for call in held:
            call()

    def unanswered(self, pauses: int) -> None:
        """It has been paused for too long, unless that pause is over."""
        if pauses == self.pauses and not self.running.is_set():
            for end in list(self.ends):
                end.connection.lose("nothing came for too long")


class _World:
    """A party's `pipes.Net`."""

    def __init__(self, network: Network, party: _Party, link: "_Link", cost: Cost) -> None:
        self.random = party.random
        self._network, self._party, self._link, self._cost = network, party, link, cost

    @asynccontextmanager
    async def dial(self, address: str, peer: str) -> AsyncIterator[Dialled]:
        """See `pipes.Net`; takes two round trips."""
        await self._party.running.wait()
        near = _Connection(self._network, self._link, self._party, address, peer).near
        try:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await near.opened()
            except TimeoutError:
                raise TransportError(f"{peer}: nothing answered within {CONNECT_SECONDS:.0f} s") from None
            yield near
        finally:
            near.leave()

    async def compute(self, function: Callable[..., T], *arguments: object) -> T:
        """At once, but its result takes its time."""
        result = function(*arguments)
        await asyncio.sleep(self._cost(getattr(function, "__name__", type(function).__name__)))
        await self._party.running.wait()
        return result

    def proven(self, join: Join) -> Join:
        """Nobody else is here."""
        return join

    def local(self, seconds: float) -> float:
        """See `pipes.Net`: less, on a clock that is fast."""
        return seconds / math.prod(self._link.clocks.values())


class _End:
    """One end of a connection."""

    name = None

    def __init__(self, connection: "_Connection", party: _Party, peer: str) -> None:
        self.connection, self.party, self.peer = connection, party, peer
        self.out: _Stream
        self.into: _Stream
        self.open = True  # until it has left, or ended, or the connection is lost
        self.ended = False  # well: nothing more comes than is there
        self.error: tuple[type[GlsnetError], str] | None = None
        self.task: asyncio.Task[None] | None = None  # the handler's
        self._inbox: deque[bytes] = deque()
        self._waiting: list[asyncio.Future[None]] = []
        party.ends[self] = None

    async def read(self) -> bytes | None:
        """See `Pipe`."""
        await self.party.running.wait()
        while not self._inbox:
            self._check()
            if self.ended:
                return None
            await self._change()
        data = self._inbox.popleft()
        self.into.taken(len(data))
        return data

    async def write(self, data: bytes) -> None:
        """See `Pipe`."""
        await self.party.running.wait()
        while self.open and self.out.queued > ROOM:
            await self._change()
        self._check()
        if not self.open:
            raise TransportError(f"{self.peer}: ended the stream while it was being sent to")
        self.out.send(data)

    async def close(self) -> None:
        """See `Dialled`."""
        if self.open:
            self.out.end(CLOSE, self.out.to.half)

    def reading(self) -> Reading:
        """See `Dialled`."""
        down, up = self.into, self.out
        return Reading(down.bytes, up.bytes, down.bytes + down.headers, up.bytes + up.headers)

    async def opened(self) -> None:
        """Until all of dialling is done."""
        while self.connection.handshake:
            self._check()
            await self._change()

    def leave(self) -> None:
        """Go away; the peer loses the stream."""
        if self.open:
            self._over((TransportError, f"{self.peer}: the stream was left"))
            self.out.end(RESET, self.out.to.fail, "went away")

    def finish(self, error: GlsnetError | None) -> None:
        """The handler is over: so is the stream, after what it has written."""
        if self.open:
            self._over((TransportError, f"{self.peer}: the stream is over"))
            # As over gRPC, where a status says which class of error it was, of those that have one.
            kind = next((each for each in STATUS if isinstance(error, each)), TransportError)
            self.out.end(TRAILERS, self.out.to.done, None if error is None else (kind, str(error)))

    def deliver(self, data: bytes, since: float) -> None:
        """A message is here."""
        if self.open:
            self.into.way.delivered(data, since)
            self._inbox.append(data)
            self.wake()
        else:
            self.into.way.happened("dropped", data)

    def half(self) -> None:
        """The dialler has closed its side."""
        self.ended = True
        self.wake()

    def done(self, error: tuple[type[GlsnetError], str] | None) -> None:
        """The handler is over, and what it has written is here."""
        if self.open:
            self.ended = True
            self._over(None if error is None else (error[0], f"{self.peer}: {error[1]}"))

    def fail(self, reason: str) -> None:
        """The connection is lost, and what was not read yet with it."""
        if self.open:
            self._inbox.clear()
            told = any(not each.done() for each in self._waiting)
            self._over((TransportError, f"{self.peer}: {reason}"))
            if self.task is not None and not told:  # it neither reads nor writes: as gRPC does
                self.party.when_running(self.task.cancel)

    def wake(self) -> None:
        """Have all that wait look again."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    async def _change(self) -> None:
        self._waiting.append(asyncio.get_running_loop().create_future())
        await self._waiting[-1]
        await self.party.running.wait()

    def _check(self) -> None:
        if self.error is not None:
            raise self.error[0](self.error[1])

    def _over(self, error: tuple[type[GlsnetError], str] | None) -> None:
        self.open, self.error = False, error
        del self.party.ends[self]
        self.connection.forget()
        self.wake()


class _Stream:
    """One direction of one connection."""

    def __init__(self, way: "_Way", writer: _End, to: _End) -> None:
        self.way, self.writer, self.to = way, writer, to
        self.queued = 0  # bytes of messages that were written and not read
        self.bytes = self.headers = 0  # that have passed the dialler's socket: of HTTP/2, of TCP/IP
        self._sent = 0  # bytes of HTTP/2
        self._last = 0.0  # when what was put on it last arrives

    def send(self, data: bytes) -> None:
        """Put a message on it."""
        way = self.way
        since = way.loop.time()
        way.happened("sent", data)
        copies, overtakes = 1, False
        if active := way.active:
            if "corrupt" in active and data and (chance := way.strikes("corrupt", since)) is not None:
                data = _flipped(data, chance)
                way.happened("corrupted", data)
            if "duplicate" in active and way.strikes("duplicate", since) is not None:
                copies = 2
                way.happened("duplicated", data)
            if "reorder" in active and way.strikes("reorder", since) is not None:
                overtakes = True
                way.happened("reordered", data)
        for _ in range(copies):
            self.queued += len(data)
            self.put(FRAMING + len(data), self.to.deliver, data, since, overtakes=overtakes)

    def end(self, size: int, arrive: Callable[..., None], *arguments: Any) -> None:
        """Put its end on it, or whatever closes a connection."""
        self.put(size, arrive, *arguments, wait=sum(each.fault.delay or 0.0 for each in self.way.of("slow_close")))

    def put(self, size: int, arrive: Callable[..., None], *arguments: Any, overtakes: bool = False, wait: float = 0.0
            ) -> None:
        """Have `arrive` called when `size` bytes, and the headers of TCP/IP, have crossed."""
        way = self.way
        if way.holes:
            way.hold(partial(self.put, size, arrive, *arguments, overtakes=overtakes, wait=wait))
            return
        now = way.loop.time()
        arrival, again, given_up = way.crossing(size + SEGMENT, now, overtakes) if way.active else (now, 0, False)
        self._sent += size
        if way.direction == "up":
            self._count(size, 1 + again)
        if given_up:
            arrive, arguments = self.writer.connection.lose, ("too much was lost",)
        elif "limit_data" in way.active and self._sent > min(each.fault.size or 0 for each in way.of("limit_data")):
            arrive, arguments = self.writer.connection.lose, ("closed after so many bytes",)
        arrival += wait
        if not overtakes:
            arrival = max(arrival, self._last)
        self._last = max(arrival, self._last)
        way.loop.call_at(arrival, self._arrived, size, arrive, arguments)

    def taken(self, size: int) -> None:
        """A message was read."""
        full = self.queued > ROOM
        self.queued -= size
        if full:
            self.writer.wake()

    def _arrived(self, size: int, arrive: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if self.way.direction == "down":
            self._count(size, 1)
        arrive(*arguments)

    def _count(self, size: int, segments: int) -> None:
        self.bytes += size
        self.headers += SEGMENT * segments


@dataclass(frozen=True)
class _Active:
    """A fault in force, by its number."""

    number: int
    fault: Fault
    onset: float
    random: random.Random


class _Way:
    """One direction of a link."""

    def __init__(self, network: Network, link: str, direction: str) -> None:
        self.loop, self.link, self.direction = network._loop, link, direction
        self.active: dict[str, list[_Active]] = {}  # by kind
        self.holes = 0
        self._network = network
        self._held: list[Callable[[], None]] = []
        self._free = 0.0  # when all that waits to leave has left
        self._chances: dict[int, random.Random] = {}  # by fault; they go on when it comes again
        self.broken = 0
        self._events: Counter[str] = Counter()
        self._delays = array("d")
        self._name = f'"link":{json.dumps(link)},"direction":"{direction}"'

    def begin(self, number: int, fault: Fault, onset: float) -> None:
        """A fault comes."""
        if number not in self._chances:
            self._chances[number] = random.Random(f"{self._network._seed} {number} {self.link} {self.direction}")
        self.active.setdefault(fault.kind, []).append(
            _Active(number, fault, onset, self._chances[number]))
        self.holes += fault.kind == "timeout"

    def lift(self, number: int, fault: Fault) -> None:
        """A fault goes."""
        left = [each for each in self.active.pop(fault.kind) if each.number != number]
        if left:
            self.active[fault.kind] = left
        if fault.kind == "timeout":
            self.holes -= 1
            if not self.holes:
                held, self._held = self._held, []
                for put in held:
                    put()

    def of(self, kind: str) -> Sequence[_Active]:
        """The faults of a kind."""
        return self.active.get(kind, ())

    def hold(self, put: Callable[[], None]) -> None:
        """Until the black hole is gone."""
        self._events["held"] += 1
        self._held.append(put)

    def strikes(self, kind: str, now: float) -> random.Random | None:
        """Whether a fault of chance strikes now: then its chances, to say how."""
        for each in self.of(kind):
            if each.random.random() < share(each.fault, now - each.onset) * (each.fault.chance or 0.0):
                return each.random
        return None

    def crossing(self, size: int, now: float, overtakes: bool) -> tuple[float, int, bool]:
        """When so many bytes of TCP/IP arrive, how often they were lost, and whether that was for too long."""
        at, active = now, self.active
        if "bandwidth" in active:
            at = self._free = max(now, self._free) + size / min(each.fault.rate or 0.0 for each in self.of("bandwidth"))
        for each in active.get("slicer", ()):
            at += (math.ceil(size / (each.fault.size or 1)) - 1) * (each.fault.gap or 0.0)
        if not overtakes:
            for each in active.get("latency", ()):
                at += delay(each.fault, now - each.onset, each.random)
        again, waited, silence = 0, 0.0, self._network._silence
        while "loss" in active and self.strikes("loss", now) is not None:
            self._events["lost"] += 1
            waited += RETRANSMIT * 2**again
            again += 1
            if waited > silence:
                return at + silence, again, True
        return at + waited, again, False

    def happened(self, event: str, data: bytes) -> None:
        """To a message."""
        self._events[event] += 1
        self._network._trace(f'{{"t":{self.loop.time()!r},"event":"{event}",{self._name},"bytes":{len(data)},'
                             f'"crc":{zlib.crc32(data)}}}\n')

    def delivered(self, data: bytes, since: float) -> None:
        """A message that was sent then is there."""
        self._delays.append(self.loop.time() - since)
        self.happened("delivered", data)

    def realised(self) -> Realised:
        """What has happened."""
        delays = np.frombuffer(self._delays) if self._delays else np.full(1, np.nan)
        p50, p99 = np.quantile(delays, (0.5, 0.99))
        return Realised(self.link, self.direction, Counter(self._events), self.broken, float(delays.mean()),
                        float(delays.std()), float(p50), float(p99))


class _Connection:
    """Two ends and what is between them, from the first step of dialling on."""

    def __init__(self, network: Network, link: "_Link", dialler: _Party, address: str, peer: str) -> None:
        self._network, self._link, self._address = network, link, address
        self.near = _End(self, dialler, peer)
        self.far = _End(self, network._party(_owner(address)), link.name)
        self.near.out = self.far.into = _Stream(link.ways["up"], self.near, self.far)
        self.near.into = self.far.out = _Stream(link.ways["down"], self.far, self.near)
        self.handshake = True
        link.connections[self] = None
        if link.refusals:
            self.lose("refused")
        else:
            self._leg(0)

    def _leg(self, number: int) -> None:
        """A step of dialling; the next goes the other way."""
        if not self.near.open:
            return
        if number % 2 and self._address not in self._network._listeners:
            self.near.into.put(0, self.lose, "nobody listens there")
        elif number < len(LEGS):
            to = (self.far, self.near)[number % 2]
            to.into.put(LEGS[number], to.party.when_running, partial(self._leg, number + 1))
        elif (handler := self._network._listeners.get(self._address)) is not None:
            self.handshake = False
            self.far.task = self._network.spawn(_owner(self._address), _served(handler, self.far))
            self.near.wake()
        else:
            self.lose("nobody listens there")

    def lose(self, reason: str) -> None:
        """Break it, at both ends at once."""
        if not (self.near.open or self.far.open):
            return
        for way in self._link.ways.values():
            way.broken += 1
        self._network._note("broken", self._link.name, f',"reason":{json.dumps(reason)}')
        self.near.fail(reason)
        self.far.fail(reason)

    def forget(self) -> None:
        """If both ends are over, nothing can happen to it any more."""
        if not (self.near.open or self.far.open):
            self._link.connections.pop(self, None)


class _Link:
    """All between a party and whom it dials, and its clock."""

    def __init__(self, network: Network, name: str) -> None:
        self.name = name
        self.ways = {direction: _Way(network, name, direction) for direction in ("down", "up")}
        self.connections: dict[_Connection, None] = {}
        self.refusals: dict[int, str] = {}  # faults that let none connect
        self.clocks: dict[int, float] = {}  # how many times as fast as time, by fault
        self._network = network
        self._holes = 0  # faults that are black holes now
        self._hole = 0  # number of the last black hole
        for number, fault in enumerate(network._faults):
            if concerns(fault, name) and fault.kind not in OF_PARTIES:
                network._follow(number, fault, name, partial(self._begin, number, fault),
                                partial(self._lift, number, fault))

    def _begin(self, number: int, fault: Fault, onset: float, _: float) -> None:
        self._network._note("onset", self.name, f',"kind":"{fault.kind}","fault":{number}')
        if fault.kind == "skew":
            self.clocks[number] = fault.factor or 1.0
        elif fault.kind in ("reset_peer", "down"):
            self.refusals[number] = fault.kind
            for connection in list(self.connections):
                connection.lose("reset")
        else:
            for way in self._ways_of(fault):
                way.begin(number, fault, onset)
        if fault.kind == "timeout":
            self._holes += 1
            if self._holes == 1:
                self._hole += 1
                self._network._loop.call_at(onset + self._network._silence, self._silent, self._hole)

    def _lift(self, number: int, fault: Fault) -> None:
        self._network._note("lifted", self.name, f',"kind":"{fault.kind}","fault":{number}')
        self._holes -= fault.kind == "timeout"
        self.clocks.pop(number, None)
        self.refusals.pop(number, None)
        if fault.kind not in ("skew", "reset_peer", "down"):
            for way in self._ways_of(fault):
                way.lift(number, fault)

    def _ways_of(self, fault: Fault) -> list[_Way]:
        return [way for direction, way in self.ways.items() if fault.direction in (direction, "both")]

    def _silent(self, hole: int) -> None:
        """A black hole has lasted long, unless it is gone; who dials into it has a deadline of its own."""
        if self._holes and hole == self._hole:
            for connection in list(self.connections):
                if not connection.handshake:
                    connection.lose("nothing came through for too long")


async def _served(handler: Handler, end: _End) -> None:
    """Have a handler serve a stream, and its dialler know how that has ended."""
    error: GlsnetError | None = None
    try:
        await handler(end)
    except GlsnetError as raised:
        error = raised
    end.finish(error)


def _owner(address: str) -> str:
    """The party that listens there."""
    return address.partition(":")[0]


def _raised(task: "asyncio.Task[Any]") -> None:
    """An error that no party makes on purpose is a bug; raised in a callback, it ends the run."""
    if not task.cancelled() and not isinstance(task.exception(), GlsnetError):
        task.result()


def _flipped(data: bytes, chance: random.Random) -> bytes:
    """With one bit, any, changed."""
    bit = chance.randrange(8 * len(data))
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)
