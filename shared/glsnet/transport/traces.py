"""Traces of frames across parties, for OpenTelemetry: which party worked on which rounds, when, and for how long.

    exporting    sends this process's spans to a collector, OTLP over HTTP, if it has one
    frame        a span: one party's work on one frame
    ids          of the trace, and of its first span, the encoder's

The encoder's span and those of all decoders on the same frame are one trace, though not one byte on the wire says so:
each party derives the ids from what it knows anyway, the session's name and the frame's first round. Without a
collector nothing is imported (`spans` has all of OpenTelemetry), and a span is nothing.
"""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from glsnet.errors import CallerError
from glsnet.transport.security import LOCAL, Security

if TYPE_CHECKING:
    from glsnet.transport.spans import Spans

log = logging.getLogger("glsnet")
_spans: "Spans | None" = None  # of this process, as its log is


@contextmanager
def exporting(collector: str | None, service: str, security: Security = LOCAL) -> Iterator[None]:
    """Send spans to a collector, http(s)://HOST:PORT, under a service's name; nothing without one.

    Raises:
        CallerError: it is no URL, plain text to it is not allowed, or OpenTelemetry is not installed.
    """
    global _spans
    if collector is None:
        yield
        return
    _check(collector, security)
    try:
        from glsnet.transport.spans import Spans
    except ImportError as error:
        raise CallerError("--traces: expected OpenTelemetry to be installed; pip install 'glsnet[traces]'") from error
    _spans = Spans(collector.rstrip("/") + "/v1/traces", service)
    log.info("traces to %s", urlsplit(collector).hostname)
    try:
        yield
    finally:
        _spans.close()
        _spans = None


def frame(work: str, session: str, first_round: int, count: int, stream: int | None = None
          ) -> AbstractContextManager[object]:
    """A span of work on a frame of so many rounds; a decoder's has a stream, the encoder's none."""
    if _spans is None:
        return nullcontext()
    return _spans.frame(work, ids(session, first_round), first_round, count, stream)


def ids(session: str, first_round: int) -> tuple[int, int]:
    """128 bits for the trace of a frame, 64 for the encoder's span in it.

    A lab names no two sessions alike; parties without one have always the same session, so that their traces are those
    of all their runs.
    """
    digest = hashlib.sha256(b"glsnet trace 1\0" + first_round.to_bytes(8, "little") + session.encode()).digest()
    return int.from_bytes(digest[:16]), int.from_bytes(digest[16:24])


def _check(collector: str, security: Security) -> None:
    try:
        url = urlsplit(collector)
        host, port = url.hostname, url.port
    except ValueError:
        host = None
    if not host or url.scheme not in ("http", "https") or url.query or url.fragment:
        raise CallerError(f"--traces: expected http://HOST:PORT or https://HOST:PORT, got {collector!r}")
    if url.scheme == "http":
        security.check(f"{host}:{port or 80}", "sending traces to")
