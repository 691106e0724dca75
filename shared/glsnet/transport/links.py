"""Real TCP links that misbehave: proxies on loopback between parties and whom they dial. A process of its own.

    main           the command: `python -m glsnet.transport.links --help`
    _control       JSON lines on standard input, one answered before the next
    _by_itself     no orders: time begins with the first connection
    Link           one party's link: where it listens, the faults that come and go, its connections
    _Connection    one that a party has dialled, and its continuation to the target
    _Stream        one direction of a connection: read, delayed, delivered in order
    _Way           one direction of a link, all connections together: faults in force, chances, what has come of them

`transport.simulated` says what each kind of fault does to messages; here it does so to chunks of bytes, that is to
whatever one read gives, up to 64 KiB:

- A chunk leaves when the link is free, at `rate`, piece by piece; each piece then takes what the latencies have drawn
  for the chunk, and what the slicer adds. Nothing overtakes what was sent before it on its connection.
- In a black hole (timeout) chunks, ends and resets are held, and sent when it lifts.
- limit_data closes a connection once exactly `size` of its bytes have come through in that direction.
- reset_peer resets what is open (RST), and what is accepted while it lasts; with `down`, nobody listens either.

At most 1 MiB is held per stream, and little that waits for a slow link; then nothing is read, and TCP slows the sender.
Accepting takes no time. A process has at most 1024 sockets, two for each connection.
"""

import asyncio
import itertools
import json
import math
import random
import selectors
import signal
import socket
import struct
import sys
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from glsnet.errors import CallerError, GlsnetError, TransportError
from glsnet.faults import OF_PARTIES, SIMULATED, Fault, concerns, delay, faults_of, read_trace, schedule, share
from glsnet.faults import read as read_faults

CHUNK = 1 << 16
ROOM = 1 << 20  # bytes held on one direction of a connection beyond which nothing is read
AHEAD = 0.1  # seconds: nothing is read for a link that is not free so soon
PIECE = 1448  # bytes: what crosses a slow link at once is a segment, or
PIECE_SECONDS = 0.005  # what takes so long
Note = Callable[..., None]


def main(
    to: Annotated[str, typer.Option(help="HOST:PORT to forward to.")],
    link: Annotated[list[str], typer.Option(help="Name of a party, `decoder 0`; one link for each.")],
    journal: Annotated[Path, typer.Option(help="File for what happens, a JSON object on each line.")],
    faults: Annotated[Path | None, typer.Option(help="JSON file: a list of faults, with the keys of a scenario's "
                                                "[[faults]]; or a .toml file of those.")] = None,
    seed: Annotated[int, typer.Option(help="Of all chance.")] = 0,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Serve here, the first link on PORT, the next "
                                               "on PORT + 1, and so on, and take no orders. Default: on this machine "
                                               "alone, on ports that the system chooses.")] = None,
) -> None:
    """Put links that misbehave in front of any TCP service.

    The first line of output has the links' addresses; dial these. Lines of JSON on standard input, each answered by
    one: `{"start": true}` begins the faults' time, `{"add": {"on": "decoder 0", "kind": "latency", "delay": 0.1}}` adds
    one, counting from now, and answers with its number, `{"remove": 0}` ends one, `{"report": true}` gives delays and
    bytes. The links end with standard input, or with SIGTERM.

    With --listen there are no orders: the faults' time begins with the first connection, and SIGTERM is the end.

    By hand: `python -m glsnet.transport.links --to 127.0.0.1:7000 --link "decoder 0" --faults slow.json --journal
    links.jsonl`, with `[{"on": "decoder *", "kind": "bandwidth", "rate": 10000, "at": 5, "for": 10}]` in slow.json.
    """
    try:
        with asyncio.Runner(loop_factory=_fine_loop) as runner:
            runner.run(_serve(to, link, _read(faults), seed, journal, listen))
    except GlsnetError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2 if isinstance(error, CallerError) else 1) from None


def _fine_loop() -> asyncio.AbstractEventLoop:
    """One that waits to the microsecond; those of epoll wait to the next millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def _read(path: Path | None) -> tuple[Fault, ...]:
    if path is None:
        return ()
    if path.suffix == ".toml":
        return _checked(read_faults(path))
    try:
        tables = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CallerError(f"--faults: expected a JSON file, or a .toml one, got {path}: {error}") from error
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise CallerError(f"--faults: expected a list of objects in {path}")
    return _checked(faults_of(tables))


def _checked(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    for fault in faults:
        if fault.trace is not None:
            read_trace(fault.trace)
    return faults


async def _serve(to: str, names: Sequence[str], faults: Sequence[Fault], seed: int, journal: Path,
                 listen: str | None = None) -> None:
    loop = asyncio.get_running_loop()
    start: float | None = None

    def note(event: str, **more: Any) -> None:
        t = None if start is None else round(loop.time() - start, 6)
        file.write(json.dumps({"t": t, "event": event, **more}) + "\n")

    def begin() -> None:
        nonlocal start
        start = loop.time()
        note("start")

    try:
        file = journal.open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise CallerError(f"--journal: expected a file that can be written, got {journal}: {error.strerror}") from error
    with file:
        note("faults", seed=seed, faults=[each.model_dump(by_alias=True, exclude_none=True) for each in faults])
        async with _listening(to, names, seed, note, listen) as links:
            print(json.dumps({"links": {each.name: each.address for each in links}}), flush=True)
            control = asyncio.ensure_future((_control if listen is None else _by_itself)(links, faults, begin))
            for signum in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(signum, control.cancel)
            await asyncio.wait([control])
        note("report", ways=[row for each in links for row in each.report()])
        if not control.cancelled():
            control.result()


@asynccontextmanager
async def _listening(to: str, names: Sequence[str], seed: int, note: Note, listen: str | None
                     ) -> AsyncIterator[list["Link"]]:
    host, _, port = (listen or "127.0.0.1:0").rpartition(":")
    if not (host and port.isdecimal() and int(port) + len(names) <= 65536):
        raise CallerError(f"--listen: expected HOST:PORT, and ports for {len(names)} links, got {listen!r}")
    try:
        links = [Link(name, to, seed, note, (host, int(port) and int(port) + n)) for n, name in enumerate(names)]
    except OSError as error:
        raise TransportError(f"{listen}: cannot be listened on: {error.strerror}") from error
    try:
        for link in links:
            await link.listen()
        yield links
    finally:
        for link in links:
            await link.close()


async def _control(links: Sequence["Link"], faults: Iterable[Fault], begin: Callable[[], None]) -> None:
    """Do as the lines of standard input say, until it ends."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    known = dict(enumerate(faults))
    numbers = itertools.count(len(known))
    started = False

    async def obey(order: Any) -> dict[str, Any]:
        nonlocal started
        match order:
            case {"start": True} if not started:
                started = True
                _start(links, known, begin)
                return {"start": True}
            case {"add": dict(table)}:
                (fault,) = _checked(faults_of([table]))
                number = next(numbers)
                known[number] = fault
                for link in links if started else ():
                    link.follow(number, fault, loop.time())
                return {"add": number}
            case {"remove": int(number)} if known.pop(number, None) is not None:
                for link in links:
                    await link.remove(number)
                return {"remove": number}
            case {"report": True}:
                return {"report": [row for link in links for row in link.report()]}
        raise CallerError(f"expected start (once), add, remove (of a fault that there is) or report, got {order}")

    while line := await reader.readline():
        try:
            answer = await obey(json.loads(line))
        except ValueError as error:  # CallerError, or no JSON
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


async def _by_itself(links: Sequence["Link"], faults: Iterable[Fault], begin: Callable[[], None]) -> None:
    """Begin with the first connection, and go on until it is cancelled."""
    met = [asyncio.ensure_future(link.met.wait()) for link in links]
    await asyncio.wait(met, return_when=asyncio.FIRST_COMPLETED)
    for each in met:
        each.cancel()
    _start(links, dict(enumerate(faults)), begin)
    await asyncio.Event().wait()


def _start(links: Sequence["Link"], faults: Mapping[int, Fault], begin: Callable[[], None]) -> None:
    begin()
    for link in links:
        for number, fault in faults.items():
            link.follow(number, fault, asyncio.get_running_loop().time())


class Link:
    """Between a party and whom it dials; `address` is what to dial, `met` is set once somebody has."""

    def __init__(self, name: str, to: str, seed: int, note: Note, at: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        """`at` is where to listen; port 0 lets the system choose."""
        self.name, self.address, self.met = name, "", asyncio.Event()
        host, _, port = to.rpartition(":")
        self._to = host.strip("[]"), int(port)
        self._seed, self._note = seed, note
        self._ways = {direction: _Way(name, direction, seed) for direction in ("down", "up")}
        self._following: dict[int, asyncio.Task[None]] = {}
        self._refusals: dict[int, str] = {}  # faults that let none connect, and their kinds
        self._connections: set[asyncio.Task[None]] = set()
        self._dialled = self._resets = 0
        self._place = _bound(*at)  # keeps the port while nobody listens
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Accept connections."""
        host, port = self._place.getsockname()[:2]
        self.address = f"{host}:{port}"
        self._server = await asyncio.start_server(self._connected, sock=_bound(host, port), limit=CHUNK)

    async def close(self) -> None:
        """End all faults and connections."""
        for number in list(self._following):
            await self.remove(number)
        self._hang_up()
        self._place.close()
        await self._reset()

    def follow(self, number: int, fault: Fault, origin: float) -> None:
        """Have a fault come and go, if it is on this link; `origin` is where on the loop's clock its times begin."""
        if concerns(fault, self.name) and fault.kind not in (*OF_PARTIES, *SIMULATED):
            self._following[number] = asyncio.create_task(self._follow(number, fault, origin))

    async def remove(self, number: int) -> None:
        """End a fault."""
        if (task := self._following.pop(number, None)) is not None:
            task.cancel()
            await asyncio.wait([task])

    def report(self) -> list[dict[str, Any]]:
        """What has happened so far in each direction.

        Delays are of chunks from read to written, in seconds; `rate` is of bytes that had to wait for the link, per
        second.
        """
        return [{"link": self.name, "direction": direction, **way.report(), "connections": self._dialled,
                 "resets": self._resets} for direction, way in self._ways.items()]

    async def _follow(self, number: int, fault: Fault, origin: float) -> None:
        for onset, until in schedule(fault, self._seed, number, self.name):
            await _at(origin + onset)
            try:
                await self._begin(number, fault, origin + onset)
                await _at(origin + until)
            finally:
                await self._lift(number, fault)

    async def _begin(self, number: int, fault: Fault, onset: float) -> None:
        self._note("onset", link=self.name, fault=number, kind=fault.kind)
        if fault.kind not in ("reset_peer", "down"):
            for way in self._ways_of(fault):
                way.begin(number, fault, onset)
            return
        self._refusals[number] = fault.kind
        if fault.kind == "down":
            self._hang_up()
        await self._reset()

    async def _lift(self, number: int, fault: Fault) -> None:
        self._note("lifted", link=self.name, fault=number, kind=fault.kind)
        if fault.kind not in ("reset_peer", "down"):
            for way in self._ways_of(fault):
                way.lift(number, fault)
            return
        self._refusals.pop(number, None)
        if fault.kind == "down" and "down" not in self._refusals.values():
            await self.listen()

    def _ways_of(self, fault: Fault) -> list["_Way"]:
        return [way for direction, way in self._ways.items() if fault.direction in (direction, "both")]

    def _hang_up(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _reset(self) -> None:
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusals:
            self._note("refused", link=self.name)
            _rst(writer)
            return
        number, self._dialled = self._dialled, self._dialled + 1
        self.met.set()
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._to, limit=CHUNK)
        except (OSError, asyncio.CancelledError):  # nobody there, or a fault has come meanwhile
            end = "reset"
            _rst(writer)
        else:
            self._note("connected", link=self.name, connection=number)
            end = await _carried(_Stream(self._ways["up"], reader, far_writer, self._noted(number, "up")),
                                 _Stream(self._ways["down"], far_reader, writer, self._noted(number, "down")))
        self._connections.discard(task)
        self._resets += end == "reset"
        self._note(end, link=self.name, connection=number)

    def _noted(self, connection: int, direction: str) -> Note:
        def note(event: str, **more: Any) -> None:
            self._note(event, link=self.name, connection=connection, direction=direction, **more)

        return note


async def _carried(up: "_Stream", down: "_Stream") -> str:
    """Forward both directions of a connection until it is over; says how that was: closed, limited or reset."""
    end = "reset"
    try:
        async with asyncio.TaskGroup() as tasks:
            for stream in (up, down):
                tasks.create_task(stream.read())
                tasks.create_task(stream.deliver())
        end = "closed"
    except* _Limited:
        end = "limited"
    except* OSError:
        pass  # either side has reset it: so does the other
    except* asyncio.CancelledError:
        pass  # a fault has
    for writer in (up.sink, down.sink):
        if end == "reset":
            _rst(writer)
        else:
            writer.close()
    return end


class _Limited(Exception):
    """So many bytes are through."""


class _Then(Enum):
    """What follows a piece."""

    MORE = 0  # of the same chunk
    NEXT = 1
    END = 2
    LIMIT = 3
    RESET = 4


@dataclass(frozen=True)
class _Piece:
    """Bytes of a chunk that was read at `since`; they are to be there at `due`, and may have `waited` for the link."""

    data: bytes
    then: _Then
    since: float
    due: float
    waited: bool


class _Stream:
    """One direction of one connection."""

    def __init__(self, way: "_Way", source: asyncio.StreamReader, sink: asyncio.StreamWriter, note: Note) -> None:
        self.sink = sink
        self._way, self._source, self._note = way, source, note
        self._loop = asyncio.get_running_loop()
        self._line: asyncio.Queue[_Piece] = asyncio.Queue()
        self._read = 0  # bytes
        self._held = 0  # bytes read and not delivered
        self._room = asyncio.Event()
        self._last = 0.0  # when what was put on the line last arrives

    async def read(self) -> None:
        """Put on the line what comes, and how it ends."""
        then, data = _Then.NEXT, b""
        while then == _Then.NEXT:
            await self._until_room()
            try:
                data = await self._source.read(CHUNK)
                then = _Then.NEXT if data else _Then.END
            except OSError:
                data, then = b"", _Then.RESET
            if data:
                data, then = self._met(data)
            self._held += len(data)
            self._put(data, then, self._loop.time())

    async def deliver(self) -> None:
        """Take from the line what is due.

        Raises:
            OSError, _Limited: the connection is over.
        """
        way = self._way
        while True:
            piece = await self._line.get()
            await _at(piece.due)
            self.sink.write(piece.data)
            await self.sink.drain()
            self._held -= len(piece.data)
            self._room.set()
            way.delivered(piece, self._loop.time())
            if piece.then == _Then.RESET:
                raise ConnectionResetError
            if piece.then in (_Then.END, _Then.LIMIT):
                self.sink.write_eof()
            if piece.then == _Then.LIMIT:
                raise _Limited
            if piece.then == _Then.END:
                return

    async def _until_room(self) -> None:
        await _at(self._way.free - AHEAD)
        while self._held > ROOM:
            self._room.clear()
            await self._room.wait()

    def _met(self, data: bytes) -> tuple[bytes, _Then]:
        """What limits and corruption leave of a chunk."""
        way, first = self._way, self._read
        self._read += len(data)
        if (chance := way.strikes("corrupt", self._loop.time())) is not None:
            bit = chance.randrange(8 * len(data))
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            data = bytes(damaged)
            way.events["corrupted"] += 1
            self._note("corrupted", byte=first + bit // 8, bit=bit % 8)
        left = min((each.fault.size or 0 for each in way.of("limit_data")), default=math.inf) - first
        if len(data) >= left:
            return data[: max(0, int(left))], _Then.LIMIT
        return data, _Then.NEXT

    def _put(self, data: bytes, then: _Then, since: float) -> None:
        """On the line, or in the black hole."""
        way = self._way
        if way.of("timeout"):
            way.held.append(lambda: self._put(data, then, since))
            return
        now = self._loop.time()
        slow_close = sum(each.fault.delay or 0.0 for each in way.of("slow_close")) if then == _Then.END else 0.0
        later = slow_close + sum(delay(each.fault, now - each.onset, each.random) for each in way.of("latency"))
        pieces = way.pieces(len(data))
        for start, end, sliced in pieces:
            waited = bool(way.of("bandwidth")) and way.free > now
            self._last = max(self._last, way.crossed(end - start, now) + later + sliced)
            piece = _Piece(data[start:end], then if end == len(data) else _Then.MORE, since, self._last, waited)
            self._line.put_nowait(piece)


@dataclass(frozen=True)
class _Active:
    """A fault in force, by its number."""

    number: int
    fault: Fault
    onset: float
    random: random.Random


class _Way:
    """One direction of a link."""

    def __init__(self, link: str, direction: str, seed: int) -> None:
        self.free = 0.0  # when all that waits to leave has left
        self.held: list[Callable[[], None]] = []  # what is in the black hole
        self.events: Counter[str] = Counter()
        self._active: dict[str, list[_Active]] = {}  # by kind
        self._chances: dict[int, random.Random] = {}  # by fault; they go on when it comes again
        self._link, self._direction, self._seed = link, direction, seed
        self._delays = array("d")
        self._before = 0.0  # when the piece before was through
        self._saturated = [0, 0.0]  # bytes of pieces that had waited for the link, and seconds since those before them

    def begin(self, number: int, fault: Fault, onset: float) -> None:
        """A fault comes."""
        if number not in self._chances:
            self._chances[number] = random.Random(f"{self._seed} {number} {self._link} {self._direction}")
        self._active.setdefault(fault.kind, []).append(_Active(number, fault, onset, self._chances[number]))

    def lift(self, number: int, fault: Fault) -> None:
        """A fault goes."""
        self._active[fault.kind] = [each for each in self.of(fault.kind) if each.number != number]
        if not self.of("timeout"):
            held, self.held = self.held, []
            for put in held:
                put()

    def of(self, kind: str) -> Sequence[_Active]:
        """The faults of a kind."""
        return self._active.get(kind, ())

    def strikes(self, kind: str, now: float) -> random.Random | None:
        """Whether a fault of chance strikes now: then its chances, to say how."""
        for each in self.of(kind):
            if each.random.random() < share(each.fault, now - each.onset) * (each.fault.chance or 0.0):
                return each.random
        return None

    def crossed(self, size: int, now: float) -> float:
        """When so many bytes, after all before them, have left at the rate."""
        if not self.of("bandwidth"):
            return now
        self.free = max(now, self.free) + size / self._rate()
        return self.free

    def pieces(self, size: int) -> list[tuple[int, int, float]]:
        """What crosses at once of so many bytes: from, below, and seconds that slicers add."""
        slicers = [(each.fault.size or 1, each.fault.gap or 0.0) for each in self.of("slicer")]
        steps = [step for step, _ in slicers]
        if self.of("bandwidth"):
            steps.append(max(PIECE, int(self._rate() * PIECE_SECONDS)))
        edges = sorted({0, *(edge for step in steps for edge in range(0, size, step))})
        return [(start, end, sum(start // step * gap for step, gap in slicers))
                for start, end in zip(edges, [*edges[1:], size], strict=True)]

    def delivered(self, piece: _Piece, now: float) -> None:
        """A piece is through."""
        self.events["bytes"] += len(piece.data)
        if piece.waited:
            self._saturated[0] += len(piece.data)
            self._saturated[1] += now - self._before
        self._before = now
        if piece.then != _Then.MORE and piece.data:
            self.events["chunks"] += 1
            self._delays.append(now - piece.since)

    def report(self) -> dict[str, Any]:
        """What has happened."""
        row: dict[str, Any] = {name: self.events[name] for name in ("chunks", "bytes", "corrupted")}
        size, seconds = self._saturated
        row["rate"] = size / seconds if seconds else None
        delays = np.array(self._delays)
        names = ("mean_delay", "sd_delay", "p50_delay", "p99_delay")
        figures = [delays.mean(), delays.std(), *np.quantile(delays, (0.5, 0.99))] if delays.size else [None] * 4
        return {**row, **{name: None if x is None else float(x) for name, x in zip(names, figures, strict=True)}}

    def _rate(self) -> float:
        return min(each.fault.rate or math.inf for each in self.of("bandwidth"))


def _bound(host: str, port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((host, port))
    return bound


def _rst(writer: asyncio.StreamWriter) -> None:
    """Close a connection by a reset, if its peer has not."""
    if writer.transport.is_closing():
        return
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _at(time: float) -> None:
    """Wait until the loop's clock shows it."""
    if (wait := time - asyncio.get_running_loop().time()) > 0:
        await asyncio.sleep(wait)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command()(main)
    app()
