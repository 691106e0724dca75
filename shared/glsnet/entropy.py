"""Messages entropy-coded with what shared randomness tells of them, by a range coder (the library constriction).

Both parties know Pr[message | shared randomness] of every round (`envelope`), so the encoder need not spend log2 L_max
bits on each. Frequencies are whole multiples of 2^-16, made by portable arithmetic: the decoder's are the encoder's.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glsnet.errors import CallerError, FrameError
from glsnet.race import FloatArray, IntArray

MAX_MESSAGES = 1 << 12  # with 2^-16 at least for each, little is lost to the unlikely ones
_TOTAL = 1 << 16
_SEAL = 2  # words that end the bytes of some messages, and that those of more need not have


def encode(messages: IntArray, chances: Iterable[FloatArray]) -> bytes:
    """The bytes of messages, shape [R].

    Args:
        messages: shape [R].
        chances: of each message, shape [some of the rounds, L_max] each, together for R rounds.
    """
    coder, start = _constriction().queue.RangeEncoder(), 0
    for some in chances:
        coder.encode(messages[start : start + len(some)].astype(np.int32), _model(), _shares(some))
        start += len(some)
    return _bytes(coder)


def decode(packed: bytes, chances: Iterable[FloatArray]) -> IntArray:
    """The messages, shape [R], that `encode` was given with the same chances.

    Raises:
        FrameError: the bytes are none that it makes.
    """
    if len(packed) % 4:
        raise FrameError(f"packed indices: expected whole words of 4 bytes, got {len(packed)} bytes")
    queue = _constriction().queue
    decoder, again = queue.RangeDecoder(np.frombuffer(packed, "<u4").astype(np.uint32)), queue.RangeEncoder()
    decoded: list[IntArray] = []
    try:
        for some in chances:
            shares = _shares(some)
            messages = decoder.decode(_model(), shares)
            again.encode(messages, _model(), shares)
            decoded.append(messages.astype(np.int64))
            if again.num_words() > len(packed) // 4 + _SEAL:
                break  # before more chances are worked out for what is none
    except AssertionError as error:
        raise FrameError(f"packed indices: expected entropy-coded messages, got other bytes: {error}") from error
    if _bytes(again) != packed:
        raise FrameError(f"packed indices: expected just the bytes of {sum(map(len, decoded))} entropy-coded messages, "
                         f"got {len(packed)} bytes that go on, or break off")
    return np.concatenate(decoded)


def frequencies(probabilities: FloatArray) -> NDArray[np.float32]:
    """Whole numbers of at least 1 that sum to 2^16 in each row, shape [R, L_max]: the likeliest takes what is left."""
    rows, messages = probabilities.shape
    whole: IntArray = 1 + np.floor(probabilities * (_TOTAL - messages)).astype(np.int64)
    likeliest = probabilities.argmax(axis=1)
    whole[np.arange(rows), likeliest] += _TOTAL - whole.sum(axis=1)
    return np.asarray(whole, dtype=np.float32)


def _shares(chances: FloatArray) -> NDArray[np.float32]:
    """Frequencies as the coder takes them: multiples of 2^-16, which are exact."""
    return frequencies(chances) / np.float32(_TOTAL)


def _bytes(coder: Any) -> bytes:
    compressed: NDArray[np.uint32] = coder.get_compressed()
    return compressed.astype("<u4").tobytes()


def _model() -> Any:
    return _constriction().model.Categorical(perfect=False)


def _constriction() -> Any:
    try:
        from constriction import stream  # only for those who ask for it
    except ImportError as error:
        raise CallerError("packing: expected the package constriction for entropy; pip install 'glsnet[entropy]'"
                          ) from error
    return stream
