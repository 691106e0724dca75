"""What reaches a decoder, byte by byte: its own T and the frames; never A, never another decoder's T."""

import socket
import socketserver
import struct
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
from processes import result_of, service

from glsnet.lab import images as lab
from glsnet.lab.settings import ImagesRun


class Recorder(socketserver.ThreadingTCPServer):
    """A TCP proxy to `target` that keeps what passes: `up` to the target, `down` from it."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Relay)
        self.target = target
        self.up, self.down = bytearray(), bytearray()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.socket.getsockname()[1]}"


class Relay(socketserver.BaseRequestHandler):
    server: Recorder

    def handle(self) -> None:
        host, _, port = self.server.target.rpartition(":")
        far = socket.create_connection((host, int(port)))
        back = threading.Thread(target=self.pump, args=(far, self.request, self.server.down), daemon=True)
        back.start()
        self.pump(self.request, far, self.server.up)
        back.join()

    def pump(self, source: socket.socket, sink: socket.socket, record: bytearray) -> None:
        with suppress(OSError):  # a party that hangs up ends the connection, as it would without the recorder
            while data := source.recv(65536):
                record += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


def seen(numbers: np.ndarray, data: bytes) -> int:
    """How many of the numbers occur in the data, as float64 of either byte order or float32."""
    return sum(any(struct.pack(kind, x) in data for kind in ("<d", ">d", "<f")) for x in numbers)


def test_neither_a_nor_another_decoders_t_ever_reaches_a_decoder(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    a = rng.standard_normal(400)
    t = a[:, None] + rng.standard_normal((400, 2))
    path = tmp_path / "in.csv"
    rows = "\n".join(",".join(map(repr, map(float, row))) for row in np.column_stack((a, t)))
    path.write_text("a,t1,t2\n" + rows + "\n")
    with service("encoder_service") as encoder, Recorder(encoder.address) as data_plane, \
            service("decoder_service", "--encoder", data_plane.address) as first, \
            service("decoder_service") as second, Recorder(first.address) as control_plane:
        result_of("--samples", str(path), "--set", "frame=100", "--encoder", encoder.address,
                  "--decoder", control_plane.address, "--decoder", second.address)
        reached = bytes(control_plane.up + data_plane.down)
        data_plane.shutdown()
        control_plane.shutdown()
    assert seen(t[:, 0], reached) > 390  # the recorder does see numbers: a few are cut by an HTTP/2 frame's edge
    assert seen(a, reached) == 0
    assert seen(t[:, 1], reached) == 0
    # And what it says to the encoder holds none either, not even its own T.
    assert seen(np.concatenate((a, t.ravel())), bytes(data_plane.up)) == 0


def test_no_half_of_an_image_and_no_other_crop_ever_reaches_a_decoder() -> None:
    views = lab.prepared(ImagesRun.parsed(["decoders=2"]))
    halves = [pixels.tobytes() for pixels in views.a]
    # Crops are of 9 pixels, of which some come alike: three in a row do not.
    own, other = ([crops[i : i + 3].tobytes() for i in range(0, 357, 3)] for crops in views.t.swapaxes(0, 1))
    with service("encoder_service") as encoder, Recorder(encoder.address) as data_plane, \
            service("decoder_service", "--encoder", data_plane.address) as first, \
            service("decoder_service") as second, Recorder(first.address) as control_plane:
        result_of("--set", "decoders=2", "--encoder", encoder.address, "--decoder", control_plane.address,
                  "--decoder", second.address, run="images")
        reached = bytes(control_plane.up + data_plane.down)
        data_plane.shutdown()
        control_plane.shutdown()
    assert sum(crops in reached for crops in own) > 0.95 * len(own)  # which the lab hands it
    assert not any(pixels in reached for pixels in halves + other)
    assert not any(pixels in bytes(data_plane.up) for pixels in halves + own + other)


def test_neither_party_of_a_coupling_sees_the_others_distribution(tmp_path: Path) -> None:
    p, q = np.random.default_rng(9).dirichlet(np.ones(80), 2)
    np.savez(tmp_path / "pairs.npz", p=p, q=q)
    for scheme, sent in (("low-communication", 0), ("whole-distribution", 80)):
        with service("encoder_service") as encoder, Recorder(encoder.address) as data_plane, \
                service("decoder_service", "--encoder", data_plane.address) as decoder, \
                Recorder(decoder.address) as of_alice, Recorder(encoder.address) as of_bob:
            result_of("--pairs", str(tmp_path / "pairs.npz"), "--set", f"scheme={scheme}", "--set", "rounds=50",
                      "--encoder", of_bob.address, "--decoder", of_alice.address, run="coupling")
            data_plane.shutdown()
            of_alice.shutdown()
            of_bob.shutdown()
        assert seen(p, bytes(of_alice.up)) == seen(q, bytes(of_bob.up)) == 80  # each was ordered to draw from its own
        assert seen(p, bytes(data_plane.up)) == sent  # Protocol 1 sends p, and Protocol 4 does not
        assert seen(q, bytes(data_plane.up + data_plane.down + of_alice.up)) == 0
