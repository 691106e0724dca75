"""Result directories: killed at any moment, torn at any byte, damaged, in use, or somebody else's."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import DEADLINE, GLSNET, alive, children, glsnet, until
from sweeper import fake

from glsnet.errors import CallerError, GlsnetError
from glsnet.lab import results, scenarios
from glsnet.lab.cells import measure
from glsnet.lab.scenarios import Scenario

ROOT = Path(__file__).parent.parent
SMOKE = ROOT / "scenarios" / "smoke.toml"
CELLS = 12
UNLIMITED = 10**9


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenario") / "twelve.toml"
    path.write_text(f'title = "twelve"\nsource = "gaussian"\nrepetitions = {CELLS}\n')
    return path


@pytest.fixture(scope="module")
def scenario(path: Path) -> Scenario:
    return scenarios.load(str(path))


def fill(directory: Path, scenario: Scenario, count: int = CELLS) -> int:
    """Measure the first so many of the remaining cells; gives how many bytes of a torn record were cut off."""
    with results.opened(directory, scenario) as opened:
        for cell in opened.remaining[:count]:
            opened.append(cell, fake(cell))
        return opened.torn


def snapshot(directory: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in directory.iterdir()}


def test_a_sweep_is_its_manifest_and_its_records(tmp_path: Path, scenario: Scenario) -> None:
    fill(tmp_path / "new" / "folder", scenario)
    manifest, records = results.read(tmp_path / "new" / "folder")
    assert manifest["scenario"] == {"title": "twelve", "source": "gaussian", "repetitions": CELLS}
    assert (manifest["digest"], manifest["cells"], manifest["seed"]) == (scenario.digest, CELLS, 1)
    assert manifest.keys() >= {"started", "versions", "machine"}
    for cell, record in zip(scenarios.cells(scenario), records, strict=True):
        assert record["number"] == cell.number
        assert record["cell"] == {"settings": cell.settings.model_dump(mode="json"), "repetition": cell.repetition}
        assert {key: record[key] for key in ("result", "timing")} == fake(cell)


def killed(sweeper: "subprocess.Popen[str]", path: Path, directory: Path, limit: int, after: int) -> list[int]:
    """Start a sweep; kill it once it has kept `after` cells or has stopped by itself. All the cells that it kept."""
    assert sweeper.stdin is not None and sweeper.stdout is not None
    print(path, directory, limit, file=sweeper.stdin, flush=True)
    process, said = int(sweeper.stdout.readline()), list[str]()
    while len(said) < after and "stopped\n" not in said:
        said.append(sweeper.stdout.readline())
    os.kill(process, signal.SIGKILL)
    print("reap", file=sweeper.stdin, flush=True)
    said += iter(sweeper.stdout.readline, "gone\n")
    return [int(line) for line in said if line != "stopped\n"]


def test_hundreds_of_kills_lose_nothing_and_repeat_nothing(tmp_path: Path, path: Path, scenario: Scenario) -> None:
    fill(tmp_path / "undisturbed", scenario)
    complete = (tmp_path / "undisturbed" / results.RECORDS).read_bytes()
    rng = random.Random(20)
    kills = torn = 0
    with subprocess.Popen([sys.executable, ROOT / "tests" / "sweeper.py"], text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as sweeper:
        for trial in range(45):
            records, before = tmp_path / str(trial) / results.RECORDS, list[int]()
            while len(before) < CELLS:
                if rng.random() < 0.5:  # after some cells, whatever it is at by then
                    limit, after = UNLIMITED, rng.randrange(4)
                else:  # in a write, after some bytes
                    limit, after = (records.stat().st_size if records.exists() else 0) + rng.randrange(1500), UNLIMITED
                kept = killed(sweeper, path, records.parent, limit, after)
                if not (records.parent / results.MANIFEST).exists():
                    assert kept == []
                    continue
                now = [record["number"] for record in results.read(records.parent)[1]]
                assert now == list(range(len(now)))
                assert now[:len(before) + len(kept)] == before + kept  # and perhaps one that it could not tell of
                kills += len(now) < CELLS
                torn += not records.read_bytes().endswith(b"\n") and now != []
                before = now
            assert fill(records.parent, scenario) == 0
            assert records.read_bytes() == complete
        assert sweeper.stdin is not None
        sweeper.stdin.close()
    assert kills > 200 and torn > 50


def test_a_record_torn_at_any_byte_is_cut_off_and_measured_again(tmp_path: Path, scenario: Scenario) -> None:
    fill(tmp_path, scenario)
    records = tmp_path / results.RECORDS
    complete = records.read_bytes()
    last = complete.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(complete)):
        records.write_bytes(complete[:end])
        assert len(results.read(tmp_path)[1]) == CELLS - 1
        assert fill(tmp_path, scenario) == end - last
        assert records.read_bytes() == complete


def test_a_record_damaged_at_any_byte_is_an_error_that_names_its_line(tmp_path: Path, scenario: Scenario) -> None:
    fill(tmp_path, scenario)
    records = tmp_path / results.RECORDS
    complete = records.read_bytes()
    start = complete.index(b"\n") + 1
    for at in range(start, complete.index(b"\n", start) + 1):
        damaged = bytearray(complete)
        damaged[at] ^= 1
        records.write_bytes(damaged)
        with pytest.raises(CallerError, match=r"records\.jsonl: line 2: expected a record as it was written"):
            results.read(tmp_path)
    before = snapshot(tmp_path)
    with pytest.raises(CallerError, match="line 2: expected a record as it was written"):
        fill(tmp_path, scenario)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("lines", "error"), [
    ([0, 1, 2, 1], "line 4: expected each cell once, got number 1 here and in line 2"),
    ([0, 1, "a", 2], "line 3: expected a record as it was written"),
    ([0, "", 1], "line 2: expected a record as it was written"),
    ([0, "[]", 1], "line 2: expected a record as it was written"),
])
def test_lines_that_no_sweep_writes(tmp_path: Path, scenario: Scenario, lines: list[int | str], error: str) -> None:
    fill(tmp_path, scenario)
    whole = (tmp_path / results.RECORDS).read_text().splitlines()
    text = "".join(f"{whole[line] if isinstance(line, int) else line}\n" for line in lines)
    (tmp_path / results.RECORDS).write_text(text)
    for use in (results.read, lambda directory: fill(directory, scenario)):
        with pytest.raises(CallerError) as raised:
            use(tmp_path)
        assert error in str(raised.value)
    assert (tmp_path / results.RECORDS).read_text() == text


def test_a_record_of_other_settings_is_refused(tmp_path: Path, path: Path, scenario: Scenario) -> None:
    fill(tmp_path / "a", scenario)
    (tmp_path / "other.toml").write_text(path.read_text() + "decoders = 2\n")
    fill(tmp_path / "b", scenarios.load(str(tmp_path / "other.toml")), 1)
    foreign = (tmp_path / "b" / results.RECORDS).read_bytes()
    with (tmp_path / "a" / results.RECORDS).open("rb+") as records:
        records.write(foreign)  # is as long: only the number of decoders is another
    with pytest.raises(CallerError, match="line 1: expected a cell of the scenario, got number 0 with other settings"):
        fill(tmp_path / "a", scenario)


def test_what_belongs_to_something_else_is_refused_untouched(tmp_path: Path, path: Path, scenario: Scenario) -> None:
    for name in ("other", "mine", "odd"):
        (tmp_path / name).mkdir()
    (tmp_path / "other.toml").write_text(path.read_text().replace('"twelve"', '"a dozen"'))
    fill(tmp_path / "other", scenarios.load(str(tmp_path / "other.toml")), 3)
    (tmp_path / "mine" / "thesis.tex").write_text("...")
    (tmp_path / "odd" / results.MANIFEST).write_text("{}")
    (tmp_path / "file").write_text("...")
    for name, error in (("other", "expected results of this scenario, got those of another, 'a dozen'"),
                        ("mine", "expected a new folder, an empty one or one of this scenario, got one with thes"),
                        ("odd", r"manifest\.json: expected the manifest of a sweep, got something else")):
        before = snapshot(tmp_path / name)
        with pytest.raises(CallerError, match=error):
            fill(tmp_path / name, scenario)
        assert snapshot(tmp_path / name) == before
    with pytest.raises(CallerError, match="expected a folder, got: Not a directory"):
        fill(tmp_path / "file", scenario)
    assert (tmp_path / "file").read_text() == "..."
    for name in ("mine", "nowhere", "file"):
        with pytest.raises(CallerError, match="expected a folder that `glsnet sweep` has made"):
            results.read(tmp_path / name)


def test_only_one_at_a_time_writes_and_others_may_read(tmp_path: Path, scenario: Scenario) -> None:
    with results.opened(tmp_path, scenario) as opened:
        opened.append(opened.remaining[0], fake(opened.remaining[0]))
        before = snapshot(tmp_path)
        with pytest.raises(CallerError, match="expected a folder that no other process writes to, got one in use"):
            fill(tmp_path, scenario)
        assert [record["number"] for record in results.read(tmp_path)[1]] == [0]
        assert snapshot(tmp_path) == before
    fill(tmp_path, scenario)


def test_reading_changes_nothing_even_behind_a_crash(tmp_path: Path, scenario: Scenario) -> None:
    fill(tmp_path, scenario, 3)
    with (tmp_path / results.RECORDS).open("ab") as records:
        records.write(b'{"number":3,')
    before = snapshot(tmp_path)
    assert len(results.read(tmp_path)[1]) == 3
    assert snapshot(tmp_path) == before


def test_a_full_disk_is_an_error_and_the_rest_resumes(tmp_path: Path, scenario: Scenario) -> None:
    with results.opened(tmp_path, scenario) as opened:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # as a disk with room for 100 bytes
        try:
            with pytest.raises(GlsnetError, match="the disk took 100 bytes of a record of"):
                opened.append(opened.remaining[0], fake(opened.remaining[0]))
            with pytest.raises(GlsnetError, match="the disk did not take a record: File too large"):
                opened.append(opened.remaining[0], fake(opened.remaining[0]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert fill(tmp_path, scenario) == 100
    assert len(results.read(tmp_path)[1]) == CELLS


def started(output: Path, scenario: Path = SMOKE) -> "subprocess.Popen[str]":
    """The real command, as the leader of a process group."""
    return subprocess.Popen([GLSNET, "sweep", str(scenario), "--output", str(output)], start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def count(output: Path) -> int:
    records = output / results.RECORDS
    return records.read_bytes().count(b"\n") if records.exists() else 0


def at_least(output: Path, cells: int) -> None:
    until(lambda: count(output) >= cells)


def gone(processes: list[int]) -> None:
    until(lambda: not any(map(alive, processes)))


def test_the_real_command_is_killed_and_resumes(tmp_path: Path) -> None:
    rng = random.Random(5)
    output = tmp_path / "results"
    for kill in (os.killpg, os.kill, os.killpg, os.kill):
        so_far = count(output)
        run = started(output)
        at_least(output, so_far + rng.randrange(4))
        workers = children(run.pid)
        kill(run.pid, signal.SIGKILL)
        run.communicate(timeout=DEADLINE)
        gone(workers)  # those of a sweep killed alone end by themselves
        assert count(output) >= so_far
    done = glsnet("sweep", str(SMOKE), "--output", str(output))
    assert f"{output / results.RECORDS}" in done.stdout
    measured = [measure(cell)["result"] for cell in scenarios.cells(scenarios.load(str(SMOKE)))]
    assert [record["result"] for record in results.read(output)[1]] == json.loads(json.dumps(measured))


@pytest.mark.parametrize(("to", "signum"), [(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)])  # a terminal, a job
def test_an_interrupted_sweep_keeps_its_cells_and_leaves_no_process(
        tmp_path: Path, to: Callable[[int, int], None], signum: int) -> None:
    text = 'title = "long"\nsource = "gaussian"\nrepetitions = 9999\ntransport = "direct"\n'
    (tmp_path / "long.toml").write_text(text)
    output = tmp_path / "results"
    run = started(output, tmp_path / "long.toml")
    at_least(output, 1)
    workers = children(run.pid)
    to(run.pid, signum)
    out, error = run.communicate(timeout=DEADLINE)
    assert (run.returncode, out) == (130, "")
    assert error.strip() == "glsnet: interrupted; finished cells are kept, and the same command resumes"
    assert workers
    gone(workers)
    assert len(results.read(output)[1]) >= 1


def test_a_sweep_that_is_there_is_not_measured_again(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text('title = "tiny"\nsource = "gaussian"\ntransport = "direct"\nsamples = 100\n')
    arguments = ("sweep", str(tmp_path / "tiny.toml"), "--output", str(tmp_path / "results"), "--workers", "1")
    glsnet(*arguments)
    before = snapshot(tmp_path / "results")
    assert "resuming: 1 of 1 cells are there" in glsnet(*arguments).stderr
    assert snapshot(tmp_path / "results") == before


@pytest.mark.parametrize(("arguments", "error"), [
    (("table11",), "one of demo, digits, rivals, smoke, table10, table13, table15; got 'table11'"),
    (("smoke", "--engine", "dask"), "--scheduler: expected it with --engine dask and with no other, got none with"),
    (("smoke", "--scheduler", "h:1"), "expected it with --engine dask and with no other, got h:1 with local"),
    (("smoke", "--engine", "dask", "--scheduler", "h:1", "--workers", "2"), "--workers: expected it with --engine"),
])
def test_arguments_that_cannot_be_used_are_one_clear_error(
        tmp_path: Path, arguments: tuple[str, ...], error: str) -> None:
    done = glsnet("sweep", *arguments, "--output", str(tmp_path / "results"), code=2)
    assert error in done.stderr
    assert not (tmp_path / "results").exists()
