"""The codes for images with side information at K decoders, by scheme: each party's half of each.

    scheme           the encoder                                     decoder k's right half
    gls              races over K streams and N codewords w,         of the codeword that its own race takes, over
                     weights p(w|a)/p(w); sends which of L_max       those of the bin, weights p(w|t)/p(w), by the
                     bins has its choice                             decoder network
    baseline         the same over one stream                        the same: all decoders race on stream 0
    wyner-ziv        sends the cell with the best score              of the cell, given t
    wyner-ziv-list   the same of K L_max cells; sends its number     of the k-th of these cells, given t
                     by K, rounded down
    vq               sends the nearest centroid                      the centroid

The first two are as published (Rowan, Phan, Khisti, appendix D.4): w are N candidates from the standard normal prior,
made from the shared randomness anew for each image; bin m has candidates m N / L_max and on. In wyner-ziv the networks
have learned what a crop adds to a cell, and the encoder, which has seen no crop, what decoders will make of a cell.
Some decoder matches if it has drawn what the encoder has: the same codeword on the same stream, or the same cell.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from glsnet import codes
from glsnet.bits import width_of
from glsnet.codes import Chosen
from glsnet.errors import CallerError
from glsnet.frames import Terms
from glsnet.images import networks
from glsnet.images.model import Floats, Model
from glsnet.images.pictures import unit
from glsnet.joining import missing
from glsnet.race import IntArray, candidates, listed_race, normal_log_weights
from glsnet.randomness import MAX_BLOCKS, MAX_STREAMS
from glsnet.threads import one_thread

Pixels = NDArray[np.uint8]

RACES = ("gls", "baseline")
QUANTISERS = ("wyner-ziv", "wyner-ziv-list", "vq")
SCHEMES = RACES + QUANTISERS
MAX_CANDIDATES = 1 << 20
_AT_ONCE = 1 << 18  # codewords in memory


class ImageCode:
    """Both halves of a code; a decoder uses its own crops, the messages and the seed only.

    `seconds` has what networks and races have taken so far, by the clock that is given.
    """

    purpose = "image-race"

    def __init__(self, model: Model, scheme: str, decoders: int, l_max: int, listed: int | None, beta: float | None,
                 clock: Callable[[], float]) -> None:
        """`listed` is N, the number of candidates; it and beta are of races.

        From the first one on, this process's NumPy multiplies in one thread: the other parties are often on the same
        machine.

        Raises:
            CallerError: a term is out of range, not of this scheme, or of networks that the model has not.
        """
        if scheme not in SCHEMES:
            raise CallerError(f"scheme: expected one of {', '.join(SCHEMES)}, got {scheme!r}")
        if not 1 <= decoders < MAX_STREAMS:
            raise CallerError(f"decoders: expected 1 to {MAX_STREAMS - 1}, got {decoders}")
        if not 1 <= l_max <= MAX_BLOCKS:
            raise CallerError(f"l_max: expected 1 to {MAX_BLOCKS} messages, got {l_max}")
        self.model, self.scheme, self.decoders, self.l_max = model, scheme, decoders, l_max
        self.listed, self.beta = listed, beta
        self._clock, self.seconds = clock, {"networks": 0.0, "races": 0.0}
        if scheme in RACES:
            if listed is None or not l_max <= listed <= MAX_CANDIDATES or listed % l_max:
                raise CallerError(f"candidates: expected a multiple of l_max, {l_max}, up to {MAX_CANDIDATES} for "
                                  f"scheme {scheme}, got {listed}")
            if beta is None:
                raise CallerError(f"beta: expected one of the model's for scheme {scheme}, got none")
            self._networks = model.vae(beta)
        else:
            if listed is not None or beta is not None:
                raise CallerError(f"candidates and beta: expected none for scheme {scheme}, got {listed} and {beta}")
            self._cells = l_max * (decoders if scheme == "wyner-ziv-list" else 1)
            if self._cells not in model.counts:
                raise CallerError(f"l_max: expected one for which this model has a quantiser, of "
                                  f"{', '.join(map(str, model.counts))} cells, got one of {self._cells} for {scheme} "
                                  f"with l_max {l_max} and {decoders} decoders; train a model with it")
            self._networks = model.cells
        one_thread()

    def terms(self) -> Terms:
        """What a session has to agree on."""
        return Terms(scheme=self.scheme, decoders=self.decoders, l_max=self.l_max, width=width_of(self.l_max),
                     candidates=self.listed, beta=self.beta, prior=self.model.prior, model=self.model.digest)

    def pack(self, key: np.uint64, first_round: int, messages: IntArray) -> bytes:
        """The bytes of messages, shape [R]."""
        return codes.packed(self.l_max, messages)

    def unpack(self, key: np.uint64, first_round: int, count: int, data: bytes) -> IntArray:
        """The messages of `count` rounds, shape [R]; raises FrameError if the bytes are not those of as many."""
        return codes.unpacked(self.l_max, first_round, count, data)

    def encode(self, key: np.uint64, first_round: int, a: Pixels) -> tuple[IntArray, Chosen]:
        """The messages of right halves a, shape [R, D], and what was chosen.

        Raises:
            CallerError: the halves have another size than those of the model.
        """
        halves = _checked("image", a, self.model.shape.half)
        since = self._clock()
        if self.scheme in RACES:
            mean, log_variance = networks.encoder(self._networks, halves)
            since = self._spent("networks", since)
            streams = range(self.decoders) if self.scheme == "gls" else [0]
            item, stream = np.empty(len(a), np.int64), np.empty(len(a), np.int64)
            assert self.listed is not None
            for part in _parts(len(a), self.listed):
                none = np.zeros(part.stop - part.start, np.int64)
                weights = normal_log_weights(key, first_round + part.start, self.listed, mean[part], log_variance[part])
                item[part], stream[part] = listed_race(key, first_round + part.start, streams, none, weights)
            self._spent("races", since)
            return item // self._bin, Chosen(stream, item)
        if self.scheme == "vq":
            scores = networks.nearness(self._networks, self._cells, halves)
        else:
            scores = networks.scores(self._networks, self._cells, halves)
        cell = scores.argmax(1).astype(np.int64)
        self._spent("networks", since)
        part_of = self._cells // self.l_max
        return cell // part_of, Chosen(cell % part_of, cell)

    def decode(self, key: np.uint64, first_round: int, t: Pixels, messages: IntArray, k: int) -> tuple[Floats, Chosen]:
        """Decoder k's right halves, shape [R, D] in [0, 1], from its crops t, shape [R, C], and messages, shape [R].

        Raises:
            CallerError: the crops have another size than those of the model.
        """
        crops = _checked("crop", t, self.model.shape.side)
        since = self._clock()
        if self.scheme in RACES:
            stream = k if self.scheme == "gls" else 0
            features = networks.ratio_features(self._networks, crops)
            item, codeword = np.empty(len(t), np.int64), np.empty((len(t), self.model.sizes.latent), np.float32)
            first = messages * self._bin
            for part in _parts(len(t), self._bin):
                since = self._spent("networks", since)
                w = candidates(key, first_round + part.start, first[part], self._bin, self.model.sizes.latent)
                since = self._spent("races", since)
                weights = networks.ratio(self._networks, w.astype(np.float32), features[part, None])
                since = self._spent("networks", since)
                item[part] = listed_race(key, first_round + part.start, [stream], first[part], weights).item
                codeword[part] = w[np.arange(len(w)), item[part] - first[part]]
                since = self._spent("races", since)
            halves = networks.decoder(self._networks, codeword, crops)
            chosen = Chosen(np.full(len(t), stream), item)
        else:
            part_of = self._cells // self.l_max
            cell = messages * part_of + k % part_of
            halves = (self._networks[f"centroids.of{self._cells}"][cell] if self.scheme == "vq" else
                      networks.cells(self._networks, self._cells, cell, crops))
            chosen = Chosen(cell % part_of, cell)
        self._spent("networks", since)
        return halves.clip(0.0, 1.0), chosen

    @property
    def _bin(self) -> int:
        """How many candidates share a message."""
        assert self.listed is not None
        return self.listed // self.l_max

    def _spent(self, on: str, since: float) -> float:
        now = self._clock()
        self.seconds[on] += now - since
        return now


def code_of(terms: Terms, model: Model, clock: Callable[[], float]) -> ImageCode:
    """The code that terms describe, with this model.

    Raises:
        FrameError: some of them are missing.
        CallerError: they are not possible.
    """
    match terms:
        case Terms(scheme=str(scheme), decoders=int(decoders), l_max=int(l_max)):
            return ImageCode(model, scheme, decoders, l_max, terms.candidates, terms.beta, clock)
    raise missing(terms, "scheme", "decoders", "l_max")


def _parts(rounds: int, each: int) -> list[slice]:
    """Rounds, so many at a time that their codewords stay few; `each` is how many one has."""
    few = max(1, _AT_ONCE // each)
    return [slice(start, min(start + few, rounds)) for start in range(0, rounds, few)]


def _checked(what: str, pixels: Pixels, size: int) -> Floats:
    """Pixels in [0, 1]."""
    if pixels.ndim != 2 or pixels.shape[1] != size or pixels.dtype != np.uint8:
        raise CallerError(f"{what}: expected {size} pixels of 8 bits, those of the model's images, got "
                          f"{pixels.dtype} of shape {list(pixels.shape)}; use a model that was trained on such images")
    return unit(pixels)
