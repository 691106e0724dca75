"""Errors, by whose fault they are; `transport.service` maps them to gRPC status codes in one table."""


class GlsnetError(Exception):
    """Any error that glsnet raises on purpose; its text says what was expected, what came and what to do."""


class CallerError(GlsnetError, ValueError):
    """The caller's input is wrong: a setting, a file, an argument. Nothing was sent or written."""


class PeerError(GlsnetError):
    """The other party broke the protocol; this session ends, the service lives on."""


class FrameError(PeerError):
    """A frame that cannot be what the peer meant: truncated, damaged, miscounted or out of order."""


class DamageError(FrameError):
    """A frame that was damaged or lost on its way: whoever notices leaves the stream, and the decoder joins again."""


class TermsError(PeerError):
    """The two parties do not mean the same session; the text names the term and both values."""


class RefusedError(PeerError):
    """Who asks has not shown that it may: another certificate's name, no proof of a session's token, or an old one."""


class TransportError(GlsnetError):
    """The network or a process failed: unreachable, timed out, lost. The same call may succeed later."""


class GoneError(TransportError):
    """The session is not open where it was looked for: not yet, not any more, or not at all."""
