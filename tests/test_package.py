"""The package as it is installed, and what is generated in it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("module", "found"), [
    ("glsnet", True), ("encoder_service", True), ("decoder_service", True), ("shared", False),
])
def test_what_can_be_imported_from_any_other_folder(tmp_path: Path, module: str, found: bool) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {module}"], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode == 0) == found


def test_the_generated_code_is_that_of_the_protos(tmp_path: Path) -> None:
    protos = sorted((ROOT / "proto").rglob("*.proto"))
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={tmp_path}",
                    f"--pyi_out={tmp_path}", *map(str, protos)], check=True)
    generated = sorted((tmp_path / "glsnet" / "v1").iterdir())
    assert len(generated) == 2 * len(protos)
    for made in generated:
        assert made.read_text() == (ROOT / "shared" / "glsnet" / "v1" / made.name).read_text(), "run `make proto`"


OF_PROTOBUF = {"frames.py", *(f"transport/{name}.py" for name in ("control", "journal", "records", "speculating"))}


OF_MQTT = {"transport/mqtt.py": "aiomqtt", "lab/broker.py": "amqtt"}


def test_only_the_transport_and_the_services_know_of_grpc() -> None:
    for path in (ROOT / "shared" / "glsnet").rglob("*.py"):
        where = path.relative_to(ROOT / "shared" / "glsnet")
        text = path.read_text()
        if where.parts[0] != "transport":
            assert "import grpc" not in text, path
        for of in ("aiomqtt", "amqtt"):
            assert f"from {of}" not in text or OF_MQTT.get(where.as_posix()) == of, path
        if where.parts[0] != "v1" and where.as_posix() not in OF_PROTOBUF:
            assert "glsnet.v1" not in text.replace("/glsnet.v1.", ""), path


def test_the_readmes_commands_are_those_of_ci() -> None:
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1].strip().endswith("make test")
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme and "make test" in readme
    for path in (ROOT / "shared" / "glsnet").glob("*.py"):
        assert path.name in readme or path.name == "__init__.py", f"the README's map lacks {path.name}"
