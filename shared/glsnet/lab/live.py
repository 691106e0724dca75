"""The live page of a run: what the lab knows of it, in a browser, while it goes on.

    page    serves it, from a thread of its own, for as long as the run goes on
    Live    what is to be seen: told by the run, looked at a few times a second

The page (live.html) is given the whole state each time, as JSON in server-sent events, and needs nothing else. When the
run is over it is given the last state, with the report, which it keeps.
"""

import asyncio
import io
import json
import math
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from importlib import resources
from typing import Annotated, Any

import typer
from rich.console import Console

from glsnet.errors import GlsnetError
from glsnet.faults import Fault
from glsnet.lab.feeding import Feed, Feeding
from glsnet.lab.tally import Mean
from glsnet.lab.trouble import Trouble
from glsnet.transport import web
from glsnet.transport.security import Security

LiveAt = Annotated[str | None, typer.Option("--live", metavar="HOST:PORT", help="Serve a page that shows the run in a "
                                            "browser while it goes on; port 0 lets the system choose. With this "
                                            "command's certificate it is https, for browsers that have one, too.")]
LOOK_SECONDS = 0.3
RATE_SECONDS = 2.0  # over which samples per second are taken
LAST_SECONDS = 2.0  # that viewers have to take the last state
MOST_POINTS = 300  # of a plot; when there are more, every second one goes
MOST_EVENTS = 50
REPORT_COLUMNS = 80
_UNITS = {"delay": " s", "jitter": " s", "rate": " B/s", "size": " B", "gap": " s", "chance": ""}
Show = Callable[[dict[str, Any], Console], None]


class Live:
    """What a run shows. The run's thread tells, the page's looks; what is told is set whole."""

    def __init__(self, title: str, what: str, unit: str, information: float | None) -> None:
        """`what` is run, in words; `unit` is what is counted; `information` are bits of an index."""
        tiles = [] if information is None else [_bits(unit, information, "information")]
        self._about = {"title": title, "what": what, "unit": unit, "tiles": tiles}
        self._since = time.monotonic()
        self._now: dict[str, Any] = {"done": 0, "of": None, "doing": "starting", "match": None, "mse": None}
        self._end: dict[str, Any] = {"state": "running"}
        self._ended: float | None = None
        self._feeds: list[tuple[str, Feed]] = []
        self._trouble: Trouble | None = None
        # The page's alone:
        self._recent: deque[tuple[float, int]] = deque()
        self._points: list[list[float | None]] = []
        self._every = 0.0  # seconds between points
        self._states: dict[str, str] = {}
        self._seen: deque[dict[str, Any]] = deque(maxlen=MOST_EVENTS)

    # What the run tells.

    def watch(self, source: Feeding | Trouble) -> None:
        """Who is at work; what goes wrong."""
        if isinstance(source, Trouble):
            self._trouble = source
        else:
            feeds = [source.encoder, *source.decoders]
            self._feeds = [("encoder" if feed.decoder is None else f"decoder {feed.decoder}", feed) for feed in feeds]

    def advance(self, done: int, of: int, doing: str = "", match: Mean | None = None, mse: Mean | None = None,
                packed: int | None = None) -> None:
        """So much is done; how often a decoder matched, the squared error of the best, and all packed bytes, so far."""
        tiles = {} if packed is None else {"tiles": [_bits(str(self._about["unit"]), 8 * packed / done, "packed")]}
        self._now = {"done": done, "of": of, "doing": doing, "match": _measured(match), "mse": _measured(mse), **tiles}

    def end(self, result: dict[str, Any], show: Show) -> None:
        """The run is done; its report as in a terminal, but for the seed."""
        console = Console(file=io.StringIO(), width=REPORT_COLUMNS, color_system=None)
        show(result | {"seed": "not shown"}, console)
        assert isinstance(console.file, io.StringIO)
        whole: dict[str, Any] = {"state": "done", "report": console.file.getvalue()}
        if "samples_per_second" in result:
            whole["rate"] = result["samples_per_second"]
        if self._about["tiles"]:
            layer, bits = [(layer, bits) for layer, bits in result["bits_per_sample"].items() if bits is not None][-1]
            whole["tiles"] = [_bits(str(self._about["unit"]), bits, layer)]
        self._over(whole)

    def fail(self, reason: str) -> None:
        """The run has ended otherwise."""
        self._over({"state": "failed", "reason": reason})

    def _over(self, end: dict[str, Any]) -> None:
        if self._ended is None:
            self._ended, self._end = time.monotonic(), end

    # What the page sees.

    def look(self) -> None:
        """Once in a while: a point of the plots, and what has happened."""
        now, state = self._elapsed(), self._now
        if state["done"]:
            self._recent.append((now, state["done"]))
            while len(self._recent) > 2 and self._recent[1][0] < now - RATE_SECONDS:
                self._recent.popleft()
            if not self._points or now - (self._points[-1][0] or 0) >= self._every:
                self._points.append([round(now, 2), *(state["match"] or (None, None)), self._rate()])
            if len(self._points) > MOST_POINTS:
                self._points = self._points[::2]
                self._every = 2 * (self._every or LOOK_SECONDS)
        for name, feed in self._feeds:
            happened = _state(feed)
            if happened != self._states.get(name) and (name in self._states or happened != "starting"):
                why = f": {feed.trouble}"[:300] if feed.trouble is not None and happened == "lost" else ""
                self._seen.append({"t": now, "party": name, "event": happened + why})
            self._states[name] = happened

    def snapshot(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        clock, trouble = time.monotonic(), self._trouble
        noted = [] if trouble is None else [each | {"t": each["t"] + trouble.since - self._since}
                                            for each in trouble.events[-MOST_EVENTS:]]
        return {
            **self._about, **self._now, "rate": self._rate(), **self._end, "elapsed": self._elapsed(),
            "points": self._points,
            "parties": [{"name": name, "state": _state(feed), "rounds": feed.next_round,
                         "since": None if feed.closed or not feed.opened else max(0.0, clock - feed.progress)}
                        for name, feed in self._feeds],
            "faults": [] if trouble is None or self._ended is not None else [
                {"party": party, "fault": _words(fault), "since": since}
                for fault, party, since in trouble.in_force()],
            "events": sorted([*self._seen, *noted], key=lambda each: -each["t"])[:MOST_EVENTS],
        }

    def _elapsed(self) -> float:
        return (self._ended or time.monotonic()) - self._since

    def _rate(self) -> float | None:
        """Per second, of late."""
        if len(self._recent) < 2:
            return None
        (since, before), (now, done) = self._recent[0], self._recent[-1]
        return (done - before) / (now - since) if now > since else None


def _state(feed: Feed) -> str:
    """What the lab knows of a party."""
    if feed.closed is not None:
        return "done"
    if not feed.opened:
        return "not there yet" if feed.missing else "starting"
    return "missing" if feed.missing else "lost" if feed.trouble is not None else "at work"


def _words(fault: Fault) -> str:
    """A fault's kind, and how much of it."""
    how = fault.model_dump(exclude_defaults=True, include={*_UNITS})
    return ", ".join([fault.kind, *(f"{name} {value:g}{_UNITS[name]}" for name, value in how.items())])


def _bits(unit: str, bits: float, layer: str) -> tuple[str, str, str]:
    return f"bits per {unit.removesuffix('s')}", f"{bits:.4f}", f"{layer} layer"


def _measured(mean: Mean | None) -> tuple[float, float | None] | None:
    """A mean and its standard error."""
    if mean is None or math.isnan(mean.value):
        return None
    return mean.value, None if math.isnan(mean.error) else mean.error


@contextmanager
def page(address: str | None, security: Security, title: str, what: str, unit: str, information: float | None = None
         ) -> Iterator[Live]:
    """Serve the page of a run on HOST:PORT while the block goes on; without an address nobody sees it.

    Args:
        address: where to.
        security: this command's certificate; see `web.serving`.
        title, what, unit, information: see `Live`.

    Raises:
        CallerError, TransportError: as `web.serving`.
    """
    live = Live(title, what, unit, information)
    with _served(live, address, security) if address is not None else nullcontext():
        try:
            yield live
        except BaseException as error:
            live.fail(str(error) if isinstance(error, GlsnetError) else "interrupted")
            raise


@contextmanager
def _served(live: Live, address: str, security: Security) -> Iterator[None]:
    started: Future[tuple[int, Callable[[], object]]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(live, address, security, started)), daemon=True)
    thread.start()
    port, stop = started.result()
    scheme, host = "http" if security.tls is None else "https", address.rpartition(":")[0]
    print(f"live page on {scheme}://{host}:{port}/", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        stop()
        thread.join()


async def _serve(live: Live, address: str, security: Security, started: Future[tuple[int, Callable[[], object]]]
                 ) -> None:
    """Until it is stopped, and all that look on have seen the end."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    viewers = 0

    async def events() -> AsyncGenerator[bytes]:
        nonlocal viewers
        viewers += 1
        try:
            yield b"retry: 1000\n\n"
            while True:
                last = over.is_set()
                yield f"data: {json.dumps(live.snapshot(), allow_nan=False)}\n\n".encode()
                if last:
                    return
                await _either(over, LOOK_SECONDS)
        finally:
            viewers -= 1

    html = resources.files("glsnet.lab").joinpath("live.html").read_bytes()
    pages = {"/": lambda: web.Answer("text/html; charset=utf-8", html),
             "/events": lambda: web.Answer("text/event-stream", events())}
    try:
        async with web.serving(address, pages, security) as port:
            started.set_result((port, partial(loop.call_soon_threadsafe, over.set)))
            while not over.is_set():
                live.look()
                await _either(over, LOOK_SECONDS)
            live.look()
            deadline = loop.time() + LAST_SECONDS
            while viewers and loop.time() < deadline:
                await asyncio.sleep(0.02)
    except GlsnetError as error:
        started.set_exception(error)


async def _either(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but no longer than this."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
