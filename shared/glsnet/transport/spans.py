"""The part of `traces` that takes OpenTelemetry, which is an extra."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags, set_span_in_context

SEND_SECONDS = 2.0  # that a collector has to take spans
LAST_SECONDS = 3.0  # and those that are left, when the process ends


class Spans:
    """A process's spans, on their way to a collector; those that it does not take are lost."""

    def __init__(self, endpoint: str, service: str) -> None:
        """`endpoint` is the collector's URL for traces; certificates for it are what OTEL_EXPORTER_OTLP_... say."""
        self._ids = _Ids()
        self._provider = TracerProvider(id_generator=self._ids, shutdown_on_exit=False,
                                        resource=Resource.create({"service.name": f"glsnet-{service}"}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint, timeout=SEND_SECONDS)))
        self._tracer = self._provider.get_tracer("glsnet")

    @contextmanager
    def frame(self, work: str, ids: tuple[int, int], first_round: int, count: int, stream: int | None
              ) -> Iterator[None]:
        """See `traces.frame`; `ids` are those of `traces.ids`."""
        span = self._begun(work, ids, {"first_round": first_round, "count": count}, stream)
        try:
            yield
        finally:
            span.end()

    def _begun(self, work: str, ids: tuple[int, int], attributes: dict[str, int], stream: int | None) -> Span:
        if stream is None:
            self._ids.next = ids
            return self._tracer.start_span(work, attributes=attributes)
        encoder = NonRecordingSpan(SpanContext(*ids, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)))
        return self._tracer.start_span(work, set_span_in_context(encoder), attributes=attributes | {"stream": stream})

    def close(self) -> None:
        """Send what is left, as far as the collector takes it; one that does not answer holds nobody up."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(LAST_SECONDS)


class _Ids(RandomIdGenerator):
    """Ids of new spans: random, but for the next one's if they are set. Spans are begun by the event loop alone."""

    next: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        return super().generate_trace_id() if self.next is None else self.next[0]

    def generate_span_id(self) -> int:
        given, self.next = self.next, None
        return super().generate_span_id() if given is None else given[1]

    def is_trace_id_random(self) -> bool:
        return False
