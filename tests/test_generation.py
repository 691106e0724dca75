"""Requests, what is refused of them, and tokens that become text piece by piece."""

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glsnet.errors import CallerError
from glsnet.generation import Asked, Finished, Request, Writer
from glsnet.language.sampling import Sampling
from glsnet.verification import RATIOS, SCHEMES, SINGLE


@pytest.mark.parametrize(("made", "text"), [
    (lambda: Request("a", max_tokens=0), "max_tokens: expected at least 1, got 0"),
    (lambda: Request("a", seed=-1), r"seed: expected 0 to 2\^64 - 1, got -1"),
    (lambda: Request("a", seed=1 << 64), r"seed: expected 0 to 2\^64 - 1, got 18446744073709551616"),
    (lambda: Request("a", scheme="best"), "scheme: expected one of gls, .*, none, got 'best'"),
    (lambda: Request("a", drafts=0), "drafts: expected K from 1 to 256, got 0"),
    (lambda: Request("a", drafts=257), "drafts: expected K from 1 to 256, got 257"),
    (lambda: Request("a", length=-1), "length: expected L from 0 to 128, got -1"),
    (lambda: Request("a", length=129), "length: expected L from 0 to 128, got 129"),
    (lambda: Request("a", drafts=2, temperatures=(1.0,)),
     "temperatures: expected 2, one for each draft, or none, got 1"),
    (lambda: Request("a", temperatures=(1.0, 1.0)), "temperatures: expected 1, one for each draft, or none, got 2"),
    (lambda: Request("a", temperatures=(-0.1,)), r"temperature: expected 0 \(greedy\) to 100, got -0\.1"),
    (lambda: Request("a", temperatures=(math.nan,)), "temperature: expected 0 .* got nan"),
    (lambda: Request("a", scheme="kseq", drafts=2, temperatures=(1.0, 0.5)),
     r"temperatures: expected one for all drafts of scheme kseq, .*, got 1\.0, 0\.5"),
    (lambda: Request("a", stop=("x", "")), "stop: expected texts, got an empty one"),
    (lambda: Request("a", max_tokens=2, made=(1, 2, 3)), "made: expected at most max_tokens, 2 tokens, got 3"),
    (lambda: Request("a", ahead=-1), "ahead: expected 0 to 8 blocks, got -1"),
    (lambda: Request("a", ahead=9), "ahead: expected 0 to 8 blocks, got 9"),
    *[(lambda scheme=scheme: Request("a", scheme=scheme, ahead=1), f"ahead: expected 0 for scheme {scheme}, .* got 1")
      for scheme in RATIOS],
    *[(lambda scheme=scheme: Request("a", scheme=scheme, drafts=2),
       f"drafts: expected K = 1 for scheme {scheme}, got 2") for scheme in SINGLE],
    (lambda: Asked("a", temperature=101.0).request(1), "temperature: expected 0 .* got 101.0"),
    (lambda: Asked("a", top_k=-1).request(1), r"top_k: expected 0 \(all\) to 2147483647, got -1"),
    (lambda: Asked("a", top_p=0.0).request(1), r"top_p: expected above 0 up to 1, got 0\.0"),
    (lambda: Asked("a", scheme="daliri", drafts=2).request(2), "drafts: expected K = 1 for scheme daliri, got 2"),
    (lambda: Asked("a", draft_temperatures=(1.0,)).request(3), "temperatures: expected 3, .* got 1"),
])
def test_what_is_refused(made: Callable[[], object], text: str) -> None:
    with pytest.raises(CallerError, match=text):
        made()


def test_the_ends_of_ranges_are_in_them() -> None:
    for scheme in SCHEMES:
        Request("", 1, 0, scheme, 1, 0, Sampling(0.0, 0, 1.0), (100.0,), ("x",))
        Request("a", 1 << 40, (1 << 64) - 1, scheme, 1 if scheme in SINGLE else 256, 128, Sampling(100.0, 1, 1e-9),
                made=(1, 2), ahead=0 if scheme in RATIOS else 8)
        Request("a", 2, made=(1, 2))
    Request("a", scheme="kseq", drafts=2, temperatures=(0.5, 0.5))


def test_drafts_have_the_targets_sampling_but_for_a_temperature_of_their_own() -> None:
    sampling = Sampling(0.7, 5, 0.9)
    assert Request("a", drafts=2, sampling=sampling).draft_sampling == [sampling, sampling]
    own = Request("a", drafts=2, sampling=sampling, temperatures=(0.0, 2.0)).draft_sampling
    assert own == [Sampling(0.0, 5, 0.9), Sampling(2.0, 5, 0.9)]


def test_what_a_client_leaves_out_is_a_default_and_k_all_the_targets_streams() -> None:
    assert Asked("a").request(3) == Request("a", drafts=3)
    for scheme in SCHEMES:
        assert Asked("a", scheme=scheme).request(3) == Request("a", scheme=scheme, drafts=1 if scheme in SINGLE else 3)
    asked = Asked("a", 5, 6, 0.0, 7, 0.8, ("x",), "gls-strong", 2, 0, (0.0, 1.0), (3, 4), 2)
    assert asked.request(3) == Request("a", 5, 6, "gls-strong", 2, 0, Sampling(0.0, 7, 0.8), (0.0, 1.0), ("x",), (3, 4),
                                       2)


def test_block_efficiency_is_tokens_for_each_call_of_the_target() -> None:
    assert Finished().block_efficiency == 0
    assert Finished(tokens=9, blocks=4).block_efficiency == 2.25


# Tokens into text.


class Bytes:
    """A tokenizer of byte strings, in UTF-8 once they are joined; what is none becomes the replacement character."""

    end: frozenset[int] = frozenset()
    digest = ""

    def __init__(self, *tokens: bytes) -> None:
        self._tokens = tokens

    def encode(self, text: str) -> list[int]:
        return [self._tokens.index(bytes([byte])) for byte in text.encode()]

    def decode(self, tokens: Sequence[int]) -> str:
        return b"".join(self._tokens[token] for token in tokens).decode(errors="replace")


SMILE = "😀".encode()
TOKENS = (b"a", b"b", b"ab", b"ba ", b"a" + SMILE[:1], SMILE[1:2], SMILE[2:3], SMILE[3:], SMILE[:2], SMILE[2:] + b"b",
          "é".encode()[:1], "é".encode()[1:], "é".encode() + b"a", b"\xff")
TOKENIZER = Bytes(*TOKENS)
ALPHABET = "ab é😀\ufffd"


def written(tokens: Sequence[int], stop: Sequence[str]) -> tuple[list[str], int, bool]:
    """Text after each token and at the end, how many tokens were written, and whether a stop text came."""
    writer, pieces = Writer(TOKENIZER, stop), []
    for count, token in enumerate(tokens, 1):
        text, stopped = writer.write(token)
        pieces.append(text)
        if stopped:
            return pieces, count, True
    rest, stopped = writer.flush()
    return [*pieces, rest], len(tokens), stopped


def tokens_of(*texts: bytes) -> list[int]:
    return [TOKENS.index(text) for text in texts]


def test_a_character_is_there_once_all_its_bytes_are() -> None:
    smile = tokens_of(SMILE[:2], SMILE[2:3], SMILE[3:])
    assert written([*tokens_of(b"a"), *smile, *tokens_of(b"b")], ()) == (["a", "", "", "😀", "b", ""], 5, False)
    assert written(tokens_of(b"a" + SMILE[:1], SMILE[1:2], SMILE[2:] + b"b"), ()) == (["", "", "a😀b", ""], 3, False)
    assert written(smile[:2], ()) == (["", "", "\ufffd"], 2, False)  # and never if the text ends before


def test_a_stop_text_may_span_tokens_and_begin_in_one() -> None:
    a, b, ab, ba = tokens_of(b"a", b"b", b"ab", b"ba ")
    assert written([a, b, b, a], ["bb"]) == (["a", "", ""], 3, True)
    assert written([ab, ba, a], ["bb"]) == (["a", ""], 2, True)
    assert written([ab, ab, a], ["bb"]) == (["a", "ba", "ba", ""], 3, False)
    assert written([a, a, b], ["aab"]) == (["", "", ""], 3, True)
    assert written([a, a, a, b], ["aab"]) == (["", "", "a", ""], 4, True)
    assert written([a, b, a, b], ["abb", "ba "]) == (["", "", "a", "b", "ab"], 4, False)
    assert written([ba], ["a", "ba"]) == ([""], 1, True)  # the first to begin
    assert written([a, a, a], ["a"]) == ([""], 1, True)


def test_a_stop_text_in_a_token_that_ends_within_a_character_counts() -> None:
    """Though the character never comes: what is released at the end is looked at, too."""
    pieces, _, _ = written(tokens_of(b"b", b"a" + SMILE[:1]), ["a"])
    assert "".join(pieces) == "b"


@settings(max_examples=400, deadline=None)
@given(st.lists(st.integers(0, len(TOKENS) - 1), max_size=12),
       st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3))
def test_pieces_are_the_text_of_all_tokens_up_to_the_first_stop_text(tokens: list[int], stop: list[str]) -> None:
    pieces, count, stopped = written(tokens, stop)
    whole = TOKENIZER.decode(tokens[:count])
    found = [at for at in map(whole.find, stop) if at >= 0]
    assert "".join(pieces) == whole[: min(found, default=None)]
    assert stopped <= bool(found)


@settings(max_examples=200, deadline=None)
@given(st.text("ab 😀éxyz\n", max_size=20), st.lists(st.text("ab😀x", min_size=1, max_size=3), max_size=2))
def test_text_byte_by_byte(text: str, stop: list[str]) -> None:
    """What is certain is given at once, and nothing else: whole characters that cannot begin a stop text any more."""
    writer, whole, given_ = Writer(Bytes(*(bytes([value]) for value in range(256))), stop), text.encode(), ""
    for count, byte in enumerate(whole, 1):
        new, stopped = writer.write(byte)
        given_ += new
        said = whole[:count].decode(errors="ignore")
        found = [at for at in map(said.find, stop) if at >= 0]
        assert stopped == bool(found)
        if stopped:
            assert given_ == said[: min(found)]
            return
        held = max((n for each in stop for n in range(len(each)) if said.endswith(each[:n])), default=0)
        assert given_ == said[: len(said) - held]
    rest, stopped = writer.flush()
    assert (given_ + rest, stopped) == (text, False)
