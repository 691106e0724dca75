"""Spans of real services, as a collector gets them over HTTP."""

import asyncio
import gzip
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from processes import at_once, gaussian_plan, service

from glsnet.errors import CallerError
from glsnet.lab.plan import Drawn, Parties
from glsnet.lab.runner import play
from glsnet.transport import traces
from glsnet.transport.security import LOCAL

request = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2").ExportTraceServiceRequest
PLAN = gaussian_plan(samples=1030, decoders=2, frame=50, patience=30.0)


class Collector(ThreadingHTTPServer):
    """Takes spans, OTLP over HTTP; each with its service's name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.spans: list[tuple[str, Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        for of in request.FromString(body).resource_spans:
            (name,) = (each.value.string_value for each in of.resource.attributes if each.key == "service.name")
            self.server.spans += [(name, span) for scope in of.scope_spans for span in scope.spans]
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing to standard error."""


@contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        try:
            yield collector
        finally:
            collector.shutdown()


def test_the_spans_of_a_frame_are_one_trace_at_all_parties() -> None:
    drawn: list[Drawn] = []
    with collecting() as collector:
        with ExitStack() as stack:
            parties = at_once(*(partial(stack.enter_context, service(f"{name}_service", f"--traces={collector.url}"))
                                for name in ("encoder", "decoder", "decoder")))
            encoder, *decoders = (each.address for each in parties)
            asyncio.run(play(PLAN, Parties(encoder, decoders), drawn.append))
            for code, log in at_once(*(each.stop for each in parties)):  # which sends what is left
                assert code == 0 and "Traceback" not in log
    traced = defaultdict(list)
    for name, span in collector.spans:
        traced[span.trace_id].append((name, span))
    assert len(traced) == len(drawn) == 21
    rounds = set()
    for spans in traced.values():
        (own,) = (span for name, span in spans if name == "glsnet-encoder")
        others = [span for name, span in spans if name == "glsnet-decoder"]
        assert own.name == "encode" and not own.parent_span_id
        assert [(span.name, span.parent_span_id) for span in others] == 2 * [("decode", own.span_id)]
        of = [{each.key: each.value.int_value for each in span.attributes} for span in (own, *others)]
        assert {(each["first_round"], each["count"]) for each in of} == {(of[0]["first_round"], of[0]["count"])}
        assert sorted(each.get("stream", -1) for each in of) == [-1, 0, 1]
        assert all(own.start_time_unix_nano < span.start_time_unix_nano < span.end_time_unix_nano for span in others)
        rounds.add((of[0]["first_round"], of[0]["count"]))
    assert rounds == {(each.y.first_round, len(each.a)) for each in drawn}


def test_a_collector_that_is_not_there_holds_nobody_up() -> None:
    with collecting() as collector:
        url = collector.url
    with ExitStack() as stack:
        parties = at_once(*(partial(stack.enter_context, service(f"{name}_service", f"--traces={url}"))
                            for name in ("encoder", "decoder", "decoder")))
        encoder, *decoders = (each.address for each in parties)
        drawn: list[Drawn] = []
        asyncio.run(play(PLAN, Parties(encoder, decoders), drawn.append))
        assert len(drawn) == 21
        assert [code for code, _ in at_once(*(each.stop for each in parties))] == [0, 0, 0]


def test_without_a_collector_nothing_is_imported() -> None:
    program = ("import sys, encoder_service.__main__, decoder_service.__main__; "
               "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))")
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(("collector", "message"), [
    ("", "expected http://HOST:PORT"), ("127.0.0.1:4318", "expected http://HOST:PORT"),
    ("ftp://127.0.0.1", "expected http://HOST:PORT"), ("http://127.0.0.1:x", "expected http://HOST:PORT"),
    ("http://collector.example:4318", "sending traces to collector.example:4318: expected --tls-cert"),
])
def test_a_collector_that_is_none_is_a_clear_error(collector: str, message: str) -> None:
    with pytest.raises(CallerError, match=message), traces.exporting(collector, "encoder", LOCAL):
        pass


def test_ids_are_those_of_a_session_and_a_round() -> None:
    assert traces.ids("a", 0) == traces.ids("a", 0)
    assert len({traces.ids(session, first) for session in ("a", "b") for first in (0, 1, 256)}) == 6
    trace, span = traces.ids("a", 7)
    assert 0 < trace < 1 << 128 and 0 < span < 1 << 64
