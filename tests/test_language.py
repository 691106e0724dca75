"""The language-model layer: token trees against whole texts, tokenizers and their digests, sampling.

Models are tiny and random, saved as transformers saves them and loaded as any other: the oracle runs each context
through transformers by itself, without a cache.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

import glsnet.language
from glsnet.errors import CallerError
from glsnet.language import training
from glsnet.language.embedded import EmbeddedModel
from glsnet.language.huggingface import HuggingFaceModel
from glsnet.language.models import PAIR, Cache, LanguageModel, load
from glsnet.language.sampling import Sampling
from glsnet.race import FloatArray

CONTEXT = 64
END = "<|endoftext|>"
VOCABULARY = 280
TEXT = ["Tom has 3 apples and buys 4 more.", "How many apples does he have?", "He has 3 + 4 = 7 apples."]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Tiny models are faster on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tokenizer_of(text: Sequence[str], template: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE of VOCABULARY tokens; `template` says where it puts its special token by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(text, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(template, special_tokens=[(END, 0)])
    make: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = make(tokenizer_object=tokenizer, eos_token=END, bos_token=END)
    return made


def qwen2(**settings: Any) -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(**sizes(**settings)))


def llama(**settings: Any) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**sizes(**settings)))


def granite(**settings: Any) -> PreTrainedModel:
    return GraniteForCausalLM(GraniteConfig(**sizes(logits_scaling=8.0, **settings)))


def gpt2(**settings: Any) -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT,
                                      bos_token_id=0, eos_token_id=0))


def sizes(**settings: Any) -> dict[str, Any]:
    return {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": CONTEXT, "bos_token_id": 0,
            "eos_token_id": 0, "pad_token_id": None, **settings}


def saved(folder: Path, make: Callable[..., PreTrainedModel] = qwen2, tokenizer: PreTrainedTokenizerFast | None = None,
          **settings: Any) -> str:
    """A random model in a folder; its weights are large enough for each token to depend on all before it."""
    torch.manual_seed(0)
    model = make(**settings)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim == 2:
                weights.mul_(8)
    model.save_pretrained(folder)
    (tokenizer or tokenizer_of(TEXT)).save_pretrained(folder)
    return str(folder)


def loaded(folder: str) -> LanguageModel:
    return load(folder, dtype="float64")


def oracle(folder: str) -> Callable[[Sequence[int]], FloatArray]:
    """Logits after some tokens, all of them through transformers at once."""
    read: Any = AutoModelForCausalLM
    model = read.from_pretrained(folder, dtype=torch.float64).eval()

    @torch.inference_mode()
    def logits(tokens: Sequence[int]) -> FloatArray:
        row: FloatArray = model(torch.tensor([list(tokens)]), use_cache=False).logits[0, -1, :VOCABULARY].numpy()
        return row

    return logits


@pytest.fixture(scope="module", params=[qwen2, llama, gpt2])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("model"))


def walk(cache: Cache, seed: int, steps: int) -> list[tuple[list[int], FloatArray]]:
    """Random calls of one cache: contexts asked for, and the logits that came; tokens are few, so that paths meet."""
    rng = np.random.default_rng(seed)
    trunk = rng.integers(VOCABULARY, size=int(rng.integers(1, 5))).tolist()
    cache.advance(trunk)
    paths: list[tuple[int, ...]] = [()]
    found = []
    for _ in range(steps):
        if rng.random() < 0.7:
            known = [paths[at] for at in rng.integers(len(paths), size=4)]
            asked = [(*path, *rng.integers(4, size=int(rng.integers(3))).tolist()) for path in known]
            asked = [path for path in asked if len(trunk) + len(path) <= CONTEXT]
            rows = cache.logits(asked)
            assert rows.shape == (len(asked), VOCABULARY) and rows.dtype == np.float64
            found += [([*trunk, *path], row) for path, row in zip(asked, rows, strict=True)]
            paths += asked
        else:
            path = paths[int(rng.integers(len(paths)))]
            tokens = [*path[: int(rng.integers(len(path) + 1))], *rng.integers(4, size=int(rng.integers(3))).tolist()]
            if len(trunk) + len(tokens) <= CONTEXT:
                cache.advance(tokens)
                trunk = [*trunk, *tokens]
                paths = [()]
        assert cache.length == len(trunk)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_logits_along_trees_are_those_of_whole_texts(folder: str, seed: int) -> None:
    plain = oracle(folder)
    found = walk(loaded(folder).begin(), seed, 50)
    assert len(found) > 50
    for tokens, row in found:
        np.testing.assert_allclose(row, plain(tokens), rtol=0, atol=1e-9)


def test_paths_from_nothing(folder: str) -> None:
    plain, cache = oracle(folder), loaded(folder).begin()
    rows = cache.logits([(5,), (6, 7), (5, 7)])
    np.testing.assert_allclose(rows, [plain([5]), plain([6, 7]), plain([5, 7])], rtol=0, atol=1e-9)
    cache.advance([6])
    np.testing.assert_allclose(cache.logits([(), (7,)]), [plain([6]), plain([6, 7])], rtol=0, atol=1e-9)


def test_equal_paths_have_equal_rows(plain_folder: str) -> None:
    cache = loaded(plain_folder).begin()
    cache.advance([1, 2])
    first = cache.logits([(), (3, 4), (3,), (3, 4), ()])
    again = cache.logits([(3, 4), (3, 5), (), (3,)])
    assert np.array_equal(first[1], first[3]) and np.array_equal(first[0], first[4])
    assert np.array_equal(again[[0, 2, 3]], first[[1, 0, 2]])
    assert cache.logits([]).shape == (0, VOCABULARY)


def test_each_token_goes_through_the_model_once(plain_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, passes = loaded(plain_folder), []
    states = HuggingFaceModel.states

    def counted(self: HuggingFaceModel, tokens: list[int], *others: Any) -> list[torch.Tensor]:
        passes.append(tokens)
        return states(self, tokens, *others)

    monkeypatch.setattr(HuggingFaceModel, "states", counted)
    cache = model.begin()
    cache.advance([1, 2, 3])
    assert passes == []
    cache.logits([(4,), (4, 5), (6, 7)])
    assert passes == [[1, 2, 3, 4, 5, 6, 7]]
    cache.logits([(4,), (6,), ()])  # the logits of (6,) and () had not been asked for
    cache.advance([6, 7])
    cache.logits([()])
    assert len(passes) == 1
    cache.advance([8])
    cache.logits([(9,), (10,)])
    assert passes[1:] == [[8, 9, 10]]


def test_threads_with_a_cache_each(plain_folder: str) -> None:
    model = loaded(plain_folder)
    with ThreadPoolExecutor(2) as pool:
        threads = [pool.submit(walk, model.begin(), seed, 60) for seed in (10, 11)]
    for seed, thread in zip((10, 11), threads, strict=True):
        for (_, here), (_, there) in zip(walk(model.begin(), seed, 60), thread.result(), strict=True):
            assert np.array_equal(here, there)


def test_what_a_cache_refuses(plain_folder: str) -> None:
    model = loaded(plain_folder)
    assert model.context == CONTEXT
    cache = model.begin()
    with pytest.raises(CallerError, match="at least one token"):
        cache.logits([(1,), ()])
    cache.advance([1] * (CONTEXT - 2))
    before = cache.logits([(1, 2)])
    for refused in (lambda: cache.logits([(3, 4), (1, 2, 3)]), lambda: cache.advance([1, 2, 3])):
        with pytest.raises(CallerError, match=f"at most {CONTEXT} tokens"):
            refused()
    for token in (-1, VOCABULARY):
        for refused in (lambda token=token: cache.logits([(1,), (token,)]), lambda token=token: cache.advance([token])):
            with pytest.raises(CallerError, match=f"expected 0 to {VOCABULARY - 1}, got {token}"):
                refused()
    assert cache.length == CONTEXT - 2
    assert np.array_equal(cache.logits([(1, 2)]), before)
    cache.advance([1, 2])
    assert np.array_equal(cache.logits([()]), before)


def test_padded_vocabularies_are_cut(tmp_path: Path) -> None:
    folders = [saved(tmp_path / str(rows), vocab_size=rows) for rows in (VOCABULARY + 20, VOCABULARY + 212)]
    first, second = map(loaded, folders)
    assert first.vocabulary == second.vocabulary == VOCABULARY
    assert first.tokenizer.digest == second.tokenizer.digest
    cache, plain = first.begin(), oracle(folders[0])
    cache.advance([VOCABULARY - 1])
    np.testing.assert_allclose(cache.logits([()]), [plain([VOCABULARY - 1])], rtol=0, atol=1e-9)


def test_digests_of_other_vocabularies_differ(tmp_path: Path, plain_folder: str) -> None:
    other = loaded(saved(tmp_path, tokenizer=tokenizer_of([line[::-1] for line in TEXT])))
    assert other.vocabulary == VOCABULARY
    assert len(other.tokenizer.digest) == 16
    assert other.tokenizer.digest != loaded(plain_folder).tokenizer.digest


def test_texts_begin_as_the_tokenizer_has_it(tmp_path: Path, plain_folder: str) -> None:
    plain = loaded(plain_folder).tokenizer
    begun = loaded(saved(tmp_path, tokenizer=tokenizer_of(TEXT, f"{END} $A"))).tokenizer
    tokens = plain.encode(TEXT[0])
    assert 0 not in tokens
    assert begun.encode(TEXT[0]) == [0, *tokens]
    assert plain.encode("") == begun.encode("") == [0]
    assert plain.decode([*tokens, 0]) == begun.decode([0, *tokens]) == TEXT[0]
    assert plain.end == begun.end == {0}
    assert plain.digest == begun.digest


def test_every_token_that_ends_a_text(tmp_path: Path) -> None:
    assert loaded(saved(tmp_path, eos_token_id=[0, 7])).tokenizer.end == {0, 7}


@pytest.mark.parametrize("name", ["no such model", "glsnet/there-is-no-such-model"])
def test_an_unknown_model(name: str) -> None:
    began = time.monotonic()
    with pytest.raises(CallerError, match=f"embedded-target, embedded-drafter, a folder .* Hugging Face, got '{name}'"):
        load(name)
    assert time.monotonic() - began < 20


def test_models_that_cannot_be_read(tmp_path: Path, plain_folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CallerError, match="a folder with config"):
        load(str(tmp_path / "empty"))
    damaged = Path(saved(tmp_path / "damaged")) / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(CallerError, match="expected one that transformers can read"):
        load(str(damaged.parent))
    more_layers = Path(saved(tmp_path / "missing")) / "config.json"
    more_layers.write_text(more_layers.read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
                           .replace('"full_attention",', '"full_attention", "full_attention",', 1))
    with pytest.raises(CallerError, match=r"expected all weights, got none for model.layers.2"):
        load(str(more_layers.parent))
    with pytest.raises(CallerError, match=f"at least {VOCABULARY} rows, one for each token, got 270"):
        load(saved(tmp_path / "few", vocab_size=270))


@pytest.mark.parametrize(("make", "settings", "expected"), [
    (qwen2, {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "DynamicSlidingWindowLayer"),
    (qwen2, {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "factor": 4.0,
                                 "long_factor": [2.0] * 4, "original_max_position_embeddings": 16}}, "longrope"),
    (granite, {}, "deviations off"),
])
def test_models_that_a_cache_would_be_wrong_for(tmp_path: Path, make: Callable[..., PreTrainedModel],
                                                settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(CallerError, match=expected):
        load(saved(tmp_path, make, **settings))


def test_dtypes_and_devices(plain_folder: str) -> None:
    plain = oracle(plain_folder)
    for dtype, digits in (("float32", 1e-4), ("bfloat16", 0.3), ("float16", 0.03)):
        cache = load(plain_folder, dtype=dtype).begin()
        cache.advance([1, 2, 3])
        rows = cache.logits([(4, 5), (6,)])
        assert rows.dtype == np.float64
        np.testing.assert_allclose(rows, [plain([1, 2, 3, 4, 5]), plain([1, 2, 3, 6])], rtol=0, atol=digits * 8)
    with pytest.raises(CallerError, match="dtype: expected one of float64"):
        load(plain_folder, dtype="int8")
    for device in ("gpu", "cuda:99", "meta"):
        with pytest.raises(CallerError, match="device: expected one that torch has here"):
            load(plain_folder, device=device)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(glsnet.language, "huggingface")
    monkeypatch.delitem(sys.modules, "glsnet.language.huggingface")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CallerError, match=r"pip install 'glsnet\[language\]'"):
        load("some-folder")
    assert load("embedded-drafter").vocabulary == 2048


@pytest.mark.parametrize("name", PAIR)
def test_the_embedded_pair_has_the_logits_that_transformers_has(name: str) -> None:
    """In a random walk over trees; in float32, whose rounding is about 1e-6 of a logit."""
    ours, theirs = load(name), load(str(PAIR[name]))
    rng = np.random.default_rng(5)
    text = "Question: A train has 9 cars. How many wheels?\nAnswer: "
    prompt = ours.tokenizer.encode(text)
    assert ours.tokenizer.digest == theirs.tokenizer.digest and ours.tokenizer.end == theirs.tokenizer.end
    assert prompt[1:] == theirs.tokenizer.encode(text) and ours.tokenizer.decode(prompt) == text
    assert (ours.vocabulary, ours.context) == (theirs.vocabulary, theirs.context)
    caches = [ours.begin(), theirs.begin()]
    for cache in caches:
        cache.advance(prompt)
    for _ in range(12):
        paths = [tuple(rng.integers(5, 9, rng.integers(0, 6)).tolist()) for _ in range(6)]
        found, expected = (cache.logits(paths) for cache in caches)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)
        tokens = [*paths[int(rng.integers(6))], *rng.integers(2048, size=rng.integers(0, 3)).tolist()]
        for cache in caches:
            cache.advance(tokens)


def test_the_embedded_pair_knows_how_an_answer_goes() -> None:
    target, drafter = load("embedded-target"), load("embedded-drafter")
    assert target.vocabulary == drafter.vocabulary == 2048
    assert target.tokenizer.digest == drafter.tokenizer.digest
    prompt = target.tokenizer.encode("Question: Tom has 3 apples and buys 4 more. How many apples does he have?\n"
                                     "Answer:")
    assert prompt[0] == 0 and 0 in target.tokenizer.end
    for model in (target, drafter):
        cache, tokens = model.begin(), list[int]()
        cache.advance(prompt)
        for _ in range(20):
            tokens.append(int(cache.logits([()])[0].argmax()))
            cache.advance(tokens[-1:])
        assert any(letter.isalpha() for letter in model.tokenizer.decode(tokens))


def test_a_pair_can_be_trained_again(tmp_path: Path) -> None:
    """On a text of its own, one step; what is saved loads in NumPy and through transformers alike."""
    (tmp_path / "tinyshakespeare.txt").write_text("\n\n".join(f"Speaker {i}: what is {i * i}?" for i in range(900)))
    problem = json.dumps({"question": "What is 2 + 3?", "answer": "It is <<2+3=5>>5.\n#### 5"})
    for name in ("gsm8k_train.jsonl", "gsm8k_test.jsonl"):
        (tmp_path / name).write_text(f"{problem}\n" * 3)
    texts, held_out = training.documents(tmp_path)
    assert held_out[0] == "Question: What is 2 + 3?\nAnswer: It is 5.\n#### 5"
    tokenizer = training.fit_tokenizer(texts)
    reports: list[training.Progress] = []
    model = training.train("drafter", tokenizer, texts, held_out, 1, reports.append, 1)
    assert [each.step for each in reports] == [1] and reports[0].held_out is not None
    training.save(model, tokenizer, tmp_path / "drafter")
    ours, theirs = EmbeddedModel("ours", tmp_path / "drafter"), load(str(tmp_path / "drafter"))
    rows = []
    for cache in (ours.begin(), theirs.begin()):
        cache.advance([0, 5])
        rows.append(cache.logits([(), (6, 7)]))
    np.testing.assert_allclose(rows[0][:, : theirs.vocabulary], rows[1], rtol=0, atol=1e-4)
    with pytest.raises(CallerError, match="text: expected at least 4368 tokens, one batch, got"):
        training.train("drafter", tokenizer, texts[:1], held_out, 1, reports.append, 1)
    with pytest.raises(CallerError, match="text: expected gsm8k_train"):
        training.documents(tmp_path / "drafter")


# Sampling


def obvious(logits: Sequence[float], sampling: Sampling) -> NDArray[np.float64]:
    """One row, token by token; numbers are not to be so close to the edge of top-p that rounding decides."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if sampling.temperature == 0:
        order = order[:1]
    if sampling.top_k > 0:
        order = order[: sampling.top_k]
    peak = logits[order[0]]
    weights = [math.exp((logits[token] - peak) / (sampling.temperature or 1)) for token in order]
    if sampling.top_p < 1:
        edge = sampling.top_p * sum(weights)
        sums = [sum(weights[: n + 1]) for n in range(len(weights))]
        assume(all(abs(total - edge) > 1e-9 for total in sums))
        weights = weights[: 1 + next(n for n, total in enumerate(sums) if total >= edge)]
    probabilities = np.zeros(len(logits))
    for token, weight in zip(order, weights, strict=False):
        probabilities[token] = weight / sum(weights)
    return probabilities


VALUES = st.sampled_from([-math.inf, -800.0, -3.5, -1.0, 0.0, 0.25, 0.5, 2.0, 7.0])


@given(rows=st.integers(1, 12).flatmap(lambda size: st.lists(
           st.lists(VALUES, min_size=size, max_size=size).filter(lambda row: max(row) > -math.inf), min_size=1,
           max_size=4)),
       temperature=st.sampled_from([0.0, 1e-320, 0.3, 1.0, 2.5, 100.0]), top_k=st.integers(0, 13),
       top_p=st.floats(0.01, 1.0))
def test_probabilities_are_the_obvious_ones(rows: list[list[float]], temperature: float, top_k: int,
                                            top_p: float) -> None:
    sampling = Sampling(temperature, top_k, top_p)
    found = sampling.probabilities(np.array(rows))
    expected = [obvious(row, sampling) for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-300)


def test_of_equal_tokens_the_first_stay() -> None:
    logits = np.log([1.0, 2, 2, 2, 1])
    assert Sampling(top_k=2).probabilities(logits).tolist() == [0, 0.5, 0.5, 0, 0]
    assert Sampling(top_p=0.5).probabilities(np.zeros(4)).tolist() == [0.5, 0.5, 0, 0]
    assert Sampling(top_k=3, top_p=0.6).probabilities(logits).tolist() == [0, 0.5, 0.5, 0, 0]
    assert Sampling(0).probabilities(logits).tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 50), Sampling(0.7, 0, 0.9), Sampling(1.3, 1000, 0.95)])
def test_a_large_vocabulary(sampling: Sampling) -> None:
    logits = 3 * np.random.default_rng(5).normal(size=(2, 2, 151_936))
    before = logits.copy()
    found = sampling.probabilities(logits)
    assert found.shape == logits.shape
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=0, atol=1e-12)
    if sampling.top_k:
        assert (np.count_nonzero(found, axis=-1) <= sampling.top_k).all()
    assert np.array_equal(logits, before)
    assert np.array_equal(found[1, 0], sampling.probabilities(logits[1, 0]))


@pytest.mark.parametrize("row", [[0.0, math.nan], [0.0, math.inf], [-math.inf, -math.inf]])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0), Sampling(1.0, 1)])
def test_logits_that_are_none(row: list[float], sampling: Sampling) -> None:
    with pytest.raises(CallerError, match="logits: expected numbers or -inf"):
        sampling.probabilities(np.array([[0.0, 1.0], row]))


@pytest.mark.parametrize(("settings", "expected"), [
    ({"temperature": -0.1}, "temperature: expected 0"), ({"temperature": 101.0}, "got 101"),
    ({"temperature": math.nan}, "temperature"), ({"top_k": -1}, "top_k: expected 0"),
    ({"top_p": 0.0}, "top_p: expected above 0"), ({"top_p": 1.5}, "got 1.5"), ({"top_p": math.nan}, "top_p"),
])
def test_samplings_that_there_are_not(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(CallerError, match=expected):
        Sampling(**settings)
