"""The figures' commands on the user's own pairs: numbers that agree with theory, and pictures."""

import csv
from pathlib import Path

import numpy as np
import pytest
from processes import glsnet

from glsnet.lab.pairs import language_pairs

PAIRS = np.random.default_rng(2).dirichlet(np.full(20, 0.5), (2, 3))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as handle:
        return list(csv.DictReader(handle))


def test_collision_on_an_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "pairs.npz", p=PAIRS[0], q=PAIRS[1])
    glsnet("figure", "collision", "--pairs", str(tmp_path / "pairs.npz"), "--output", str(tmp_path / "out"),
           "--rounds", "5000")
    rows = rows_of(tmp_path / "out" / "collision.csv")
    assert len(rows) == 3
    for row in rows:
        for scheme in ("gumbel", "minhash"):
            gap = abs(float(row[scheme]) - float(row[f"{scheme}_exact"]))
            assert gap <= 5 * float(row[f"{scheme}_error"])
        assert float(row["worst_case"]) <= float(row["minhash_exact"]) <= float(row["gumbel_exact"])
        assert float(row["gumbel_exact"]) <= float(row["optimal"]) == pytest.approx(1 - float(row["total_variation"]))
    assert (tmp_path / "out" / "collision.png").read_bytes()[1:4] == b"PNG"


def test_bits_on_a_csv(tmp_path: Path) -> None:
    lines = [f"{m},{p},{q}" for m in range(3) for p, q in zip(PAIRS[0, m], PAIRS[1, m], strict=True)]
    (tmp_path / "pairs.csv").write_text("pair,p,q\n" + "\n".join(lines) + "\n")
    glsnet("figure", "bits", "--pairs", str(tmp_path / "pairs.csv"), "--output", str(tmp_path / "out"),
           "--rounds", "300")
    rows = rows_of(tmp_path / "out" / "bits.csv")
    silent = ["gumbel", "minhash", "equality-check"] + ["gls"] * 3
    assert [row["scheme"] for row in rows] == [*silent, *["low-communication"] * 6, "whole-distribution"]
    assert [row["decoders"] for row in rows[3:6]] == ["2", "4", "8"]
    assert [float(row["bits"]) for row in rows[:6]] == [0.0] * 6
    assert sorted(float(row["bits"]) for row in rows[6:12]) == [float(row["bits"]) for row in rows[6:12]]
    for row in rows:
        assert float(row["match"]) <= float(row["optimal"]) + 5 * float(row["match_error"])
    assert float(rows[-1]["bits"]) == pytest.approx(64 * 20 + np.log2(20))
    for row in rows[9:]:
        assert abs(float(row["match"]) - float(row["optimal"])) <= 5 * float(row["match_error"]) + 0.03
    assert (tmp_path / "out" / "bits.png").read_bytes()[1:4] == b"PNG"


def test_matching_on_random_pairs(tmp_path: Path) -> None:
    glsnet("figure", "matching", "--count", "10", "--most", "4", "--rounds", "300", "--output", str(tmp_path))
    rows = rows_of(tmp_path / "matching.csv")
    assert [int(row["k"]) for row in rows] == [1, 2, 3, 4]
    for row in rows:
        of = {name: float(value) for name, value in row.items()}
        assert of["lemma"] - 5 * of["gls_error"] <= of["gls"] <= of["optimum"] + 5 * of["gls_error"]
        assert of["equality_check"] < of["lemma"] <= of["optimum"]
        assert max(of["specinfer"], of["kseq"]) <= of["optimum"] + 1e-9
        for form in ("conditional", "strong"):
            assert of[form] >= of[f"{form}_bound"] - 5 * of[f"{form}_error"]
    assert rows[0]["conditional"] == rows[0]["strong"]  # one stream: the same race
    assert float(rows[3]["strong"]) < float(rows[3]["conditional"])
    assert (tmp_path / "matching.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(("text", "error"), [
    ("a,b\n", "header 'a,b'"), ("pair,p,q\nx,1\n", "line 2"), ("pair,p,q\nx,1,one\n", "line 2"),
    ("pair,p,q\n", "at least one pair"), ("pair,p,q\nx,0.5,1\nx,0.4,0\n", "pair x: p: expected probabilities that sum"),
    ("pair,p,q\nx,1.5,1\nx,-0.5,0\n", "pair x: p[1]"),
])
def test_pairs_that_are_none_are_one_clear_error(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    done = glsnet("figure", "bits", "--pairs", str(tmp_path / "pairs.csv"), "--output", str(tmp_path / "out"), code=2)
    assert error in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_language_models_differ_and_are_the_same_each_time() -> None:
    pairs = language_pairs(4, seed=3)
    assert [pair.name for pair in pairs] == [pair.name for pair in language_pairs(4, seed=3)]
    for _, p, q in pairs:
        assert p.sum() == pytest.approx(1) and q.sum() == pytest.approx(1)
        assert 0 < np.abs(p - q).sum() / 2 < 1
