"""What a process has done so far, in numbers for Prometheus: counted where it happens, served by `serving`.

In labels, role is encoder (a target, too) or decoder (a draft server, too), direction down (towards the decoder) or up,
error a class of `glsnet.errors`. None has a session's name, seed, token, sample or text. The simulator's parties count
as well, in the lab's process, which serves no numbers.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

from glsnet.errors import GlsnetError, GoneError, TransportError
from glsnet.transport import web
from glsnet.transport.security import LOCAL, Security

log = logging.getLogger("glsnet")
_ROUNDS = Counter("glsnet_rounds_total", "Rounds that were coded or decoded, or drawn for.", ["role"])
_FRAMES = Counter("glsnet_frames_total", "Frames that passed the data plane, set-up included.", ["role", "direction"])
_BYTES = Counter("glsnet_frame_bytes_total", "Bytes of those frames, protobuf.", ["role", "direction"])


class Way:
    """Frames of one role in one direction."""

    def __init__(self, role: str, direction: str) -> None:
        self._frames, self._bytes = _FRAMES.labels(role, direction), _BYTES.labels(role, direction)

    def add(self, size: int) -> None:
        """One frame of so many bytes."""
        self._frames.inc()
        self._bytes.inc(size)


ENCODER_ROUNDS, DECODER_ROUNDS = _ROUNDS.labels("encoder"), _ROUNDS.labels("decoder")
ENCODER_DOWN, ENCODER_UP = Way("encoder", "down"), Way("encoder", "up")
DECODER_DOWN, DECODER_UP = Way("decoder", "down"), Way("decoder", "up")
SESSIONS_OPEN = Gauge("glsnet_sessions_open", "Sessions of an encoder that decoders can join.")
STREAMS_JOINED = Gauge("glsnet_streams_joined", "Streams that are up, at either end.")
JOINS = Counter("glsnet_joins_total", "Times that a stream was joined, at either end.")
JOINED_AGAIN = Counter("glsnet_joined_again_total", "Times that a decoder lost its stream, to join again.")
DECODERS_LOST = Counter("glsnet_decoders_lost_total", "Times that an encoder lost a decoder.")
_REFUSED = Counter("glsnet_refused_total", "Calls that were ended for what they asked for, or sent.", ["error"])

REQUESTS_OPEN = Gauge("glsnet_requests_open", "Requests that a target is generating for.")
TOKENS = Counter("glsnet_tokens_total", "Tokens that a target has generated.")
BLOCKS = Counter("glsnet_blocks_total", "Calls of a target's model, with what was drafted.")
ACCEPTED = Counter("glsnet_accepted_tokens_total", "Drafted tokens that a target has accepted.")
DRAFTS_LATE = Counter("glsnet_drafts_late_total", "Blocks that a target did not wait for any longer.")
BLOCK_SECONDS = Histogram("glsnet_block_seconds", "A block at a target, from its frames sent to its tokens known.",
                          buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10))


def count_block(tokens: int, accepted: int, seconds: float) -> None:
    """One block at a target."""
    BLOCKS.inc()
    TOKENS.inc(tokens)
    ACCEPTED.inc(accepted)
    BLOCK_SECONDS.observe(seconds)


def refused(error: GlsnetError) -> None:
    """A call that this party has ended with an error; those that the network has ended are not its doing."""
    if isinstance(error, GoneError) or not isinstance(error, TransportError):
        _REFUSED.labels(type(error).__name__).inc()


@asynccontextmanager
async def serving(address: str | None, security: Security = LOCAL) -> AsyncIterator[int | None]:
    """Serve /metrics on HOST:PORT, and give the port; nothing without an address.

    Raises:
        CallerError, TransportError: as `web.serving`.
    """
    if address is None:
        yield None
        return
    pages = {"/metrics": lambda: web.Answer(CONTENT_TYPE_LATEST, generate_latest())}
    async with web.serving(address, pages, security) as port:
        log.info("metrics on %s:%d", address.rpartition(":")[0], port)
        yield port
