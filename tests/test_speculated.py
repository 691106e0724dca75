"""`glsnet run speculation`: its experiments on models of a few tokens, its prompt files, and a run over gRPC."""

import asyncio
import csv
import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import glsnet, service
from rich.console import Console
from toy import Toy

from glsnet.errors import CallerError, TransportError
from glsnet.lab import cli_speculation, speculated
from glsnet.lab.prompts import Prompts, built_in, read_prompts
from glsnet.lab.settings import SpeculationRun
from glsnet.lab.speculated import Pair, ratio, refutes, rouge_l

TARGET = Toy(8, 1)
PAIR = Pair(TARGET, Toy(8, 2, spread=0.8, like=TARGET))
PROMPTS = Prompts("toy", ["abc", "head", "face", "bead"])
PUBLISHED = {  # the columns of RPK's tables on language models, and the temperatures of two drafts there
    "diverse": ["strategy", "temperature_1", "temperature_2", "dataset", "block_efficiency", "token_rate_gain_percent"],
    "matching": ["dataset", "K", "gls_empirical", "lml_bound", "specinfer_empirical", "spectr_empirical"],
    "schemes": ["strategy", "dataset", "block_efficiency", "token_rate_gain_percent"],
}
TEMPERATURES = [("0.5", "1.0"), ("1.0", "0.5"), ("1.0", "1.0")]


def result_of(*assignments: str, pair: Pair = PAIR) -> dict[str, Any]:
    settings = SpeculationRun.parsed(["transport=direct", "max_tokens=12", *assignments])
    if settings.experiment == "matching":
        return speculated.matching(settings, PROMPTS, pair, ignore)
    return asyncio.run(speculated.run(settings, PROMPTS, pair, ignore))


def ignore(done: int, total: int, what: str) -> None:
    assert 0 <= done <= total and what


def written(result: dict[str, Any], folder: Path) -> list[dict[str, str]]:
    """The rows of the CSV, once JSON and PNG are looked at and the console's tables made."""
    cli_speculation.write(result, folder)
    name = result["experiment"]
    assert json.loads((folder / f"{name}.json").read_text()) == result
    assert (folder / f"{name}.png").read_bytes()[1:4] == b"PNG"
    assert {each.suffix for each in folder.iterdir()} == {".json", ".csv", ".png"}
    console = Console(width=80, file=io.StringIO())
    cli_speculation.show(result, console)
    assert "…" not in console.file.getvalue()  # type: ignore[attr-defined]
    with (folder / f"{name}.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    columns = PUBLISHED.get(name, [])
    assert list(rows[0])[: len(columns)] == columns
    return rows


def test_schemes_on_the_same_prompts(tmp_path: Path) -> None:
    result = result_of("drafts=1,3")
    rows = written(result, tmp_path)
    assert [(row["scheme"], row["K"]) for row in rows] == [
        ("leviathan", "1"), ("none", "1"), ("block-verification", "1"), ("daliri", "1"), *(
            (scheme, k) for scheme in ("equality-check", "specinfer", "kseq", "gls", "gls-strong") for k in ("1", "3"))]
    of = {(row["scheme"], row["K"]): row for row in result["rows"]}
    single, alone = of["leviathan", 1], of["none", 1]
    assert (single["strategy"], single["token_rate_gain_percent"], single["token_rate_gain_percent_error"]) == (
        "single-draft", 0.0, 0.0)
    assert (alone["block_efficiency"], alone["round_trips_per_token"], alone["acceptance"]) == (1.0, 0.0, [None] * 4)
    assert alone["packed_bits_per_drafted_token"] is None
    # With one draft, GLS in either form is Gumbel coupling, and SpecInfer is the single draft's test.
    for scheme, same in (("gls", "daliri"), ("gls-strong", "daliri"), ("specinfer", "leviathan")):
        assert of[scheme, 1]["block_efficiency"] == of[same, 1]["block_efficiency"]
    for row in result["rows"]:
        assert row["tokens"] == 4 * 12
        assert 1 <= row["block_efficiency"] <= 5 and row["block_efficiency_error"] >= 0
        up, down = (row["bits_per_token"][way] for way in ("up", "down"))
        for layers in (up, down):
            assert layers["information"] <= layers["packed"] <= layers["protobuf"]
            assert layers["stream"] is layers["ip"] is None
        if row["scheme"] in ("gls", "gls-strong", "daliri", "equality-check"):
            assert 3 <= row["packed_bits_per_drafted_token"] < 8  # log2 V, and what fills up the last byte
        elif row["scheme"] != "none":
            assert row["packed_bits_per_drafted_token"] > 16


def test_diverse_drafts_are_the_published_table(tmp_path: Path) -> None:
    rows = written(result_of("experiment=diverse"), tmp_path)
    assert [(row["strategy"], row["temperature_1"], row["temperature_2"]) for row in rows] == [
        ("single-draft", "1.0", ""),
        *((strategy, *pair) for strategy in ("SpecInfer", "GLS", "GLS, strong") for pair in TEMPERATURES)]
    assert {row["K"] for row in rows[1:]} == {"2"}


def test_matching_never_violates_the_lemma(tmp_path: Path) -> None:
    result = result_of("experiment=matching", "contexts=24", "drafts=1,2,6", "rounds=200")
    written(result, tmp_path)
    assert (result["contexts"], result["below_lemma"]) == (24, 0)
    assert 0 < result["total_variation"] < 1
    for row in result["rows"]:
        slack = 5 * math.sqrt(0.25 / (24 * 200))
        assert row["lml_bound"] - slack <= row["gls_empirical"] <= row["optimum"] + slack
        assert row["equality_check"] < row["lml_bound"] <= row["optimum"]
        assert max(row["specinfer_empirical"], row["spectr_empirical"]) <= row["optimum"] + 1e-9
    one = result["rows"][0]
    assert one["specinfer_empirical"] == pytest.approx(one["optimum"]) == pytest.approx(1 - result["total_variation"])


def test_matching_of_a_model_with_itself_is_certain() -> None:
    for row in result_of("experiment=matching", "contexts=8", "rounds=50", pair=Pair(TARGET, TARGET))["rows"]:
        assert row["gls_empirical"] == row["lml_bound"] == pytest.approx(1) == row["optimum"]
        assert (row["gls_error"], row["below_lemma"]) == (0.0, 0)


def test_the_strong_text_does_not_depend_on_the_drafter(tmp_path: Path) -> None:
    rows = written(result_of("experiment=consistency"), tmp_path)
    of = {row["scheme"]: row for row in rows}
    assert (of["gls-strong"]["K"], of["daliri"]["K"]) == ("4", "1")
    for scheme in ("gls-strong", "daliri", "equality-check"):
        assert of[scheme]["equal"] == of[scheme]["rouge_l"] == "1.0"
    assert float(of["specinfer"]["equal"]) < 1
    assert (of["specinfer"]["rouge_l_published"], of["kseq"]["rouge_l_published"]) == ("0.647", "")


def test_a_run_repeats_but_for_its_times() -> None:
    def counts(seed: int) -> list[Any]:
        rows = result_of("schemes=gls", "drafts=2", f"seed={seed}")["rows"]
        return [(row["block_efficiency"], row["bits_per_token"]) for row in rows]

    assert counts(1) == counts(1) != counts(2)


@pytest.mark.parametrize(("assignments", "error"), [
    (["experiment=matching", "schemes=gls"], "schemes: expected none for matching"),
    (["experiment=diverse", "drafts=4"], "K = 2"), (["experiment=diverse", "schemes=daliri"], "two drafts can play"),
    (["experiment=diverse", "schemes=kseq"], "temperatures: expected one for all drafts of scheme kseq"),
    (["schemes=gls,best"], "schemes.1: expected 'gls'"), (["drafts=0"], "drafts.0: expected"),
    (["drafts="], "drafts.0: expected a valid integer"),
])
def test_settings_that_do_not_go_together(assignments: list[str], error: str) -> None:
    with pytest.raises(CallerError, match=error.replace(".", r"\.")):
        speculated.plan_of(SpeculationRun.parsed(assignments))


def test_prompts_that_do_not_fit_are_an_error_before_anything_is_measured() -> None:
    with pytest.raises(CallerError, match="prompt 2 of mine: prompt: expected at most 63 tokens"):
        settings = SpeculationRun.parsed(["transport=direct"])
        asyncio.run(speculated.run(settings, Prompts("mine", ["abc", "a" * 64]), PAIR, ignore))
    other = Pair(TARGET, Toy(9, 2))
    with pytest.raises(CallerError, match="draft_model: expected one with the vocabulary of toy"):
        result_of("experiment=matching", pair=other)


def test_prompt_files(tmp_path: Path) -> None:
    lines = [json.dumps({"question": " How many?\u2028 "}), "", json.dumps({"prompt": "def f():\n", "answer": 1})]
    (tmp_path / "mixed.jsonl").write_bytes("\r\n".join(lines).encode())
    expected = ["Question: How many?\nAnswer:", "def f():\n"]
    assert read_prompts(tmp_path / "mixed.jsonl") == ("mixed", expected)
    (tmp_path / "mixed.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    assert read_prompts(tmp_path / "mixed.jsonl.gz") == ("mixed", expected)
    (tmp_path / "plain.v2.txt").write_text("one\n\n two\n")
    found = read_prompts(tmp_path / "plain.v2.txt")
    assert found == ("plain.v2", ["one", " two"])
    assert speculated.few(found, SpeculationRun()) == found
    assert speculated.few(found, SpeculationRun(prompts=1)).texts == ["one"]
    with pytest.raises(CallerError, match=r"prompts: expected at most 2, those of plain\.v2, got 3"):
        speculated.few(found, SpeculationRun(prompts=3))
    assert all(text.startswith("Question: ") and text.endswith("\nAnswer:") for text in built_in().texts)


@pytest.mark.parametrize(("name", "data", "error"), [
    ("p.csv", b"a", "ends in .jsonl"), ("p.txt", b" \n", "at least one prompt"), ("p.txt", b"\xff", "UTF-8"),
    ("p.jsonl", b"{}", "line 1: expected an object with a text"), ("p.jsonl", b'\n{"prompt": 3}', "line 2"),
    ("p.jsonl", b"[1]", "line 1"), ("p.jsonl", b"one", "line 1: expected a JSON object"),
    ("p.jsonl.gz", b"{}", "can be read"), ("p.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], "can be read"),
])
def test_prompt_files_that_are_none(tmp_path: Path, name: str, data: bytes, error: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CallerError, match=error) as raised:
        read_prompts(tmp_path / name)
    assert str(raised.value).startswith(str(tmp_path / name))


def test_a_prompt_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="No such file"):
        read_prompts(tmp_path / "none.txt")


def test_the_error_of_a_ratio_is_that_of_the_bootstrap() -> None:
    rng = np.random.default_rng(4)
    blocks = rng.integers(5, 40, 60)
    tokens = rng.binomial(5 * blocks, 0.5)
    value, error = ratio(tokens, blocks)
    picks = rng.integers(0, 60, (4000, 60))
    resampled = tokens[picks].sum(axis=1) / blocks[picks].sum(axis=1)
    assert value == tokens.sum() / blocks.sum()
    assert error == pytest.approx(resampled.std(), rel=0.1)
    # Equal denominators: the standard error of a mean.
    assert ratio(tokens, np.ones(60))[1] == pytest.approx(tokens.std(ddof=1) / math.sqrt(60))
    assert ratio([3], [2]) == (1.5, None)


def test_rouge_l() -> None:
    assert rouge_l("police killed the gunman", "police kill the gunman") == 0.75  # Lin 2004, section 3.1
    assert rouge_l("police killed the gunman", "the gunman kill police") == 0.5
    assert rouge_l("a b c d", "b d") == pytest.approx(2 / 3)
    assert (rouge_l("", ""), rouge_l("a", ""), rouge_l("a", "b")) == (1.0, 0.0, 0.0)


def test_refutes_is_five_standard_errors() -> None:
    n = 10_000
    assert not refutes(5000 - 245, n, 0.5) and refutes(5000 - 255, n, 0.5)
    assert not refutes(398, 400, 0.9999)  # two misses where one in 25 is expected: more than 5 deviations, yet possible
    assert refutes(390, 400, 0.9999)
    assert not refutes(400, 400, 1.0 + 1e-12) and refutes(399, 400, 1.0)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target and a drafter as transformers saves them, of two layers and random weights."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from glsnet.language.training import fit_tokenizer

    folder = tmp_path_factory.mktemp("checkpoints")
    tokenizer = fit_tokenizer(built_in().texts[:2])
    for seed, name in enumerate(("target", "drafter")):
        torch.manual_seed(seed)
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, intermediate_size=64, max_position_embeddings=160, tie_word_embeddings=True,
            bos_token_id=0, eos_token_id=0))
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def test_a_run_over_grpc(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("How many jars\nHow many seats\n")
    options = [f"{role}_model={checkpoints / name}" for role, name in (("target", "target"), ("draft", "drafter"))]
    options += ["schemes=gls,specinfer", "drafts=2", "max_tokens=8", "length=2"]
    done = glsnet("run", "speculation", "--json", "--prompts", str(tmp_path / "two.txt"), "--output",
                  str(tmp_path / "out"), *(part for option in options for part in ("--set", option)))
    result = json.loads(done.stdout)
    assert (result["dataset"], result["prompts"], result["streams"], result["transport"]) == ("two", 2, 2, "grpc")
    assert [row["scheme"] for row in result["rows"]] == ["leviathan", "gls", "specinfer"]
    for row in result["rows"]:
        for layers in row["bits_per_token"].values():
            assert layers["information"] <= layers["packed"] < layers["protobuf"] < layers["stream"]
            assert layers["ip"] is None or layers["ip"] > layers["stream"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"schemes.json", "schemes.csv", "schemes.png"}
    assert result == json.loads((tmp_path / "out" / "schemes.json").read_text())


def test_a_target_without_enough_draft_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    with service("encoder_service", "target", "--streams", "2") as target:
        monkeypatch.setattr(speculated, "READY_SECONDS", 0.2)
        settings = SpeculationRun.parsed(["schemes=gls", "drafts=2"])
        with pytest.raises(TransportError, match=r"draft servers on all of 2 streams within .* got them on 0"):
            asyncio.run(speculated.run(settings, PROMPTS, target.address, ignore))
        settings = SpeculationRun.parsed(["schemes=gls", "drafts=3"])
        with pytest.raises(CallerError, match="K up to 2, the streams of the target"):
            asyncio.run(speculated.run(settings, PROMPTS, target.address, ignore))


def test_a_draft_server_that_cannot_join_ends_the_run_with_its_log(checkpoints: Path) -> None:
    """Its model's vocabulary is not the target's."""
    done = glsnet("run", "speculation", "--set", f"draft_model={checkpoints / 'drafter'}", code=1)
    assert "decoder_service: expected it to say 'joined '" in done.stderr
    assert "the encoder has 2048, the decoder expects" in done.stderr


def test_targets_that_run_already_have_settings_of_their_own() -> None:
    for option, error in (("seed=3", "seed: expected none with --target"), ("experiment=matching", "--target: "),
                          ("transport=direct", "--target: ")):
        done = glsnet("run", "speculation", "--set", option, "--target", "127.0.0.1:1", code=2)
        assert error in done.stderr
