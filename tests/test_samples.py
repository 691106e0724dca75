import os
import re
from pathlib import Path

import pytest

from glsnet.errors import CallerError
from glsnet.sources.samples import read_column, read_samples, write_atomically


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "data.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        "a,t1,t2\n1,2,3\n-4,5.5,6e-1\n7,8,9\n",
        "a,t1,t2\n1,2,3\n-4,5.5,6e-1\n7,8,9",
        "\ufeff a , t1,t2 \r\n1, 2,3\r\n-4,5.5 ,6e-1\r\n7,8,9\r\n\r\n \r\n",
        '"a","t1","t2"\n"1","2","3"\n-4,5.5,.6\n7,8,9\n',
    ],
)
def test_samples(tmp_path: Path, content: str) -> None:
    a, t = read_samples(written(tmp_path, content))
    assert a.tolist() == [1, -4, 7]
    assert t.tolist() == [[2, 3], [5.5, 0.6], [8, 9]]


def test_samples_of_most_decoders(tmp_path: Path) -> None:
    def table(k: int) -> str:
        return ",".join(["a", *(f"t{i}" for i in range(1, k + 1))]) + "".join(f"\n{r}" + f",{r}" * k for r in range(3))

    assert read_samples(written(tmp_path, table(65535)))[1].shape == (3, 65535)
    with pytest.raises(CallerError, match="expected at most 65535 columns of side information, got 65536"):
        read_samples(written(tmp_path, table(65536)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,t1,t2\n1,2,3\n1,x,3\n", "line 3, column t1: expected a number, got 'x'"),
        ("a,t1\n1,\n", "line 2, column t1: expected a number, got ''"),
        ("a,t1\n1_0,2\n", "line 2, column a: expected a number, got '1_0'"),
        ("a,t1\n1,2\nnan,3\n", "line 3, column a: expected a finite number, got 'nan'"),
        ("a,t1\n1,-inf\n", "line 2, column t1: expected a finite number, got '-inf'"),
        ("a,t1\n1,1e999\n", "line 2, column t1: expected a finite number, got '1e999'"),
        ("a,t1,t2\n1,2\n", "line 2: expected 3 cells (a,t1,t2), got 2"),
        ("a,t1\n1,2,3\n", "line 2: expected 2 cells (a,t1), got 3"),
        ("a,t1\n1,2\n\n3,4\n5,6\n", "line 3: expected a number, got a blank line"),
        ("a,t1,t3\n1,2,3\n", "line 1, column 3: expected the name 't2', got 't3'"),
        ("t1,t2\n1,2\n", "line 1, column 1: expected the name 'a', got 't1'"),
        ("a\n1\n2\n3\n", "line 1, column 2: expected the name 't1', got the end of the line"),
        ("1,2\n3,4\n5,6\n", "line 1, column 1: expected the name 'a', got '1'"),
        ("a;t1\n1;2\n", "line 1, column 1: expected the name 'a', got 'a;t1'"),
        ("a,t1\n1,2\n1,3\n1,4\n", "column a: expected numbers that vary, got 1.0 in every row"),
        ("a,t1,t2\n1,2,5\n2,3,5\n3,4,5\n", "column t2: expected numbers that vary, got 5.0 in every row"),
        ("", "line 1: expected the header a,t1,...,tK, got an empty file"),
        ("\n\n", "line 1: expected the header a,t1,...,tK, got an empty file"),
        ("a,t1\n", "expected at least 3 rows of numbers below the header, got 0"),
        ("a,t1\n1,2\n3,4\n", "expected at least 3 rows of numbers below the header, got 2"),
        (b"a,t1\n1,2\n1,\xff\n", "line 3: expected UTF-8 text, got byte 0xff"),
        ("a,t1\n1," + "9" * 200_000 + "\n", "line 2: expected comma-separated numbers"),
    ],
)
def test_samples_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(CallerError, match=re.escape(said)) as caught:
        read_samples(written(tmp_path, content))
    assert str(tmp_path / "data.csv") in str(caught.value)


@pytest.mark.parametrize(
    "content", ["1\n-2.5\n3e2\n", "\ufeffname\r\n1\r\n -2.5 \r\n3e2", "# Temperature, C\n1\n-2.5\n300\n\n"]
)
def test_column(tmp_path: Path, content: str) -> None:
    assert read_column(written(tmp_path, content)).tolist() == [1, -2.5, 300]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a\n1\nx\n", "line 3: expected a number, got 'x'"),
        ("a\nb\n1\n", "line 2: expected a number, got 'b'"),
        ("1,5\n2\n", "line 1: expected a number, got '1,5'"),
        ("nan\n1\n", "line 1: expected a finite number, got 'nan'"),
        ("1\ninf\n", "line 2: expected a finite number, got 'inf'"),
        ("1\n\n2\n", "line 2: expected a number, got a blank line"),
        ("\n1\n", "line 1: expected a number, got a blank line"),
        ("", "expected one number per line, got no number"),
        ("a\n\n", "expected one number per line, got no number"),
        (b"1\n\xe9\n", "line 2: expected UTF-8 text, got byte 0xe9"),
    ],
)
def test_column_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(CallerError, match=re.escape(said)) as caught:
        read_column(written(tmp_path, content))
    assert str(tmp_path / "data.csv") in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none.csv", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(CallerError, match=said):
            read_samples(path)
        with pytest.raises(CallerError, match=said):
            read_column(path)


def test_write_atomically(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    for text in ("first é\n", "second\r\n"):
        before = path.read_bytes() if path.exists() else None
        with write_atomically(path) as handle:
            handle.write(text)
            handle.flush()
            assert (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == text.encode()
    assert os.listdir(tmp_path) == ["out.csv"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failed_write_leaves_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "out.csv"
    with pytest.raises(failure), write_atomically(path) as handle:
        handle.write("half")
        raise failure
    assert os.listdir(tmp_path) == []
    path.write_text("old")
    with pytest.raises(failure), write_atomically(path) as handle:
        handle.write("half")
        raise failure
    assert os.listdir(tmp_path) == ["out.csv"]
    assert path.read_text() == "old"


def test_write_refused(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="got a folder"), write_atomically(tmp_path):
        pass
    with pytest.raises(CallerError, match="No such file"), write_atomically(tmp_path / "none" / "out.csv"):
        pass
