"""What is deployed hangs together: compose file, image, broker, dashboard and manifests, and the commands in them.

That it runs, `deploy/check` shows (`make compose`): every profile, started for real.
"""

import asyncio
import json
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from processes import at_once, glsnet, security_in
from prometheus_client import REGISTRY

import decoder_service.__main__ as decoder
import encoder_service.__main__ as encoder
from decoder_service.draft import draft
from encoder_service.target import target
from glsnet.errors import CallerError, RefusedError, TransportError
from glsnet.faults import faults_of
from glsnet.lab import certificates, cli
from glsnet.lab.settings import GaussianRun, SpeculationRun
from glsnet.transport import exchange, links, metrics, rpc
from glsnet.transport import service as services
from glsnet.transport.security import LOCAL, Security

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
Table = dict[str, Any]


def variables_filled_in(value: Any) -> Any:
    """What compose makes of ${NAME:-default} where no variable is set, and of $$."""
    if isinstance(value, dict):
        return {key: variables_filled_in(each) for key, each in value.items()}
    if isinstance(value, list):
        return [variables_filled_in(each) for each in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value).replace("$$", "$")


COMPOSE: Table = variables_filled_in(yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8")))
SERVICES: dict[str, Table] = COMPOSE["services"]
MANIFESTS = [manifest for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
             for manifest in yaml.safe_load_all(path.read_text("utf-8"))]
PODS = {each["metadata"]["name"]: each["spec"]["template"]["spec"] for each in MANIFESTS
        if "template" in each.get("spec", {})}


def app(module: Any, **others: Any) -> Any:
    """As `service.command` has it."""
    made = typer.Typer()
    made.callback(invoke_without_command=True)(module.main)
    for name, other in others.items():
        made.command(name)(other)
    return typer.main.get_command(made)


def links_app() -> Any:
    made = typer.Typer()
    made.command()(links.main)
    return typer.main.get_command(made)


PROGRAMS = {
    "glsnet": lambda: typer.main.get_command(cli.app),
    "python -m encoder_service": lambda: app(encoder, target=target),
    "python -m decoder_service": lambda: app(decoder, draft=draft),
    "python -m glsnet.transport.links": links_app,
}


def parsed(command: list[str]) -> dict[str, Any]:
    """The options of the innermost command that the real parser finds; fails where it would."""
    of = 3 if command[0] == "python" else 1
    at, arguments = PROGRAMS[" ".join(command[:of])](), command[of:]
    parent: Any = None
    while True:
        parent = at.make_context(at.name, list(arguments), parent=parent)
        rest = [*parent._protected_args, *parent.args]
        if not hasattr(at, "commands") or not rest:
            assert not rest
            params: dict[str, Any] = parent.params
            return params
        _, found, arguments = at.resolve_command(parent, rest)
        assert found is not None
        at = found


def commands(service: Table) -> Iterator[list[str]]:
    """The glsnet commands of a service, those in a shell's line one by one."""
    command = service.get("command", [])
    words = shlex.split(command) if isinstance(command, str) else command
    if words[:1] == ["sh"]:
        for line in re.split(r"&&|\n(?!\s)|;", words[-1].replace("\\\n", "")):
            words = shlex.split(line.partition(">")[0])
            if words[:1] == ["glsnet"]:
                yield words
    elif words[:1] in (["glsnet"], ["python"]):
        yield words


def conditions(service: Table) -> Table:
    found: Table = service.get("depends_on", {})
    return found


def test_every_service_is_confined() -> None:
    assert COMPOSE["networks"]["private"] == {"internal": True}
    for name, service in SERVICES.items():
        assert service["user"] == "1000" and service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert "cap_add" not in service and "privileged" not in service and "pid" not in service, name
        assert service["mem_limit"] and service["pids_limit"] and service["stop_grace_period"], name
        assert service["tmpfs"][0].startswith("/tmp:"), name
        assert service.get("network_mode") == "none" or "private" in service["networks"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_images_are_pinned() -> None:
    for name, service in SERVICES.items():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"]), name
    (build,) = (service["build"] for service in SERVICES.values() if "build" in service)
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    assert f"ARG BASE={build['args']['BASE']}" in dockerfile and "FROM ${BASE}" in dockerfile
    assert "\nUSER ${UID}\n" in dockerfile and re.search(r":\d+\.\d+-slim-bookworm$", build["args"]["BASE"])


def test_every_profile_is_whole() -> None:
    labs = {"grpc": "lab", "mqtt": "lab-mqtt", "faults": "lab-faults", "scale": "lab-scale", "speculation": "client"}
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    assert profiles == {*labs, "observability"}
    assert (ROOT / ".env").read_text("utf-8").splitlines()[-1] == "COMPOSE_PROFILES=grpc"
    for name, service in SERVICES.items():
        for other, how in conditions(service).items():
            shared = SERVICES[other].get("profiles")
            assert shared is None or set(service["profiles"]) <= set(shared), (name, other)
            assert how == {"condition": "service_healthy"} and SERVICES[other]["healthcheck"], (name, other)
    ending = {name for name, service in SERVICES.items() if "restart" not in service}  # all others stay
    assert ending == {"certificates", *labs.values()}


def test_every_party_has_its_own_certificate_and_no_other() -> None:
    (made,) = commands(SERVICES["certificates"])
    parties = set(parsed(made)["parties"])
    mounted = {volume.partition(":")[0].removeprefix("tls-") for volume in SERVICES["certificates"]["volumes"]}
    assert mounted - {"authority"} == parties >= set(certificates.PARTIES)
    assert all(f"/certificates/{party} " in (ROOT / "Dockerfile").read_text("utf-8").replace(";", " ")
               for party in parties)
    lab_of = {"lab-mqtt": "lab", "lab-faults": "lab", "lab-scale": "lab"}
    for name, service in SERVICES.items():
        own = [volume for volume in service.get("volumes", []) if volume.startswith("tls-")]
        if name not in ("certificates", "links", "grafana"):
            assert own == [f"tls-{lab_of.get(name, name)}:/tls:ro"], name
    assert {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])
            if not volume.startswith(".")} == set(COMPOSE["volumes"])


def test_the_parser_takes_every_command() -> None:
    listening = 0
    for name, service in SERVICES.items():
        found = list(commands(service))
        assert found or name in ("broker", "prometheus", "grafana"), name
        for command in found:
            options = parsed(command)
            if command[1:3] == ["run", "gaussian"]:
                settings = GaussianRun.parsed(options["assignments"])
                places = [*options["decoders"], options["encoder"], *(options["links"] or [])]
                assert {place.partition(":")[0] for place in places} <= set(conditions(service)), name
                assert len(options["decoders"]) == settings.decoders or options["decoders"][0].endswith("*")
            elif command[1:3] == ["run", "speculation"]:
                SpeculationRun.parsed(options["assignments"])
            elif "listen" in options:
                listening += 1
    assert listening == 1 + 4 + 1 + 1 + 1 + 2  # encoder, decoders, decoder, links, target, draft servers


def test_the_links_are_where_the_lab_looks_for_them() -> None:
    (serving,), (asking,) = map(list, map(commands, (SERVICES["links"], SERVICES["lab-faults"])))
    options, port = parsed(serving), int(parsed(serving)["listen"].rpartition(":")[2])
    assert parsed(asking)["links"] == [f"links:{port + k}" for k in range(len(options["link"]))]
    faults = faults_of(tomllib.loads((DEPLOY / "faults.toml").read_text("utf-8"))["faults"])
    assert {each.kind for each in faults} == {"latency", "down", "reset_peer"}
    assert links._read(DEPLOY / "faults.toml") == faults


def test_the_broker_has_one_door_and_knows_who_may_do_what() -> None:
    conf = (DEPLOY / "mosquitto/mosquitto.conf").read_text("utf-8")
    settings = [line.split(maxsplit=1) for line in conf.splitlines() if line and not line.startswith("#")]
    assert [value for key, value in settings if key == "listener"] == ["8883"]
    assert {"require_certificate": "true", "use_identity_as_username": "true", "allow_anonymous": "false"}.items() <= \
        {key: value for key, value in settings}.items()
    users = re.findall(r"^user (.*)", (DEPLOY / "mosquitto/acl").read_text("utf-8"), re.MULTILINE)
    assert users == ["encoder", *(f"decoder-{k}" for k in range(4)), "broker"]


def test_prometheus_and_the_dashboard_ask_for_what_there_is() -> None:
    port = SERVICES["encoder"]["environment"]["GLSNET_METRICS"].rpartition(":")[2]
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    targets = {target for job in scraped for each in job.get("static_configs", []) for target in each["targets"]}
    serving = {name for name, service in SERVICES.items() if "GLSNET_METRICS" in service.get("environment", {})}
    assert targets == {f"{name}:{port}" for name in serving - {"decoder"}}
    assert scraped[1]["dns_sd_configs"][0]["names"] == ["decoder"]
    assert all(job["scheme"] == "https" and len(job["tls_config"]) >= 3 for job in scraped)

    known = {f"{sample}{suffix}" for family in REGISTRY.collect() for sample in [family.name]
             for suffix in ("", "_total", "_bucket")}
    assert "glsnet_rounds_total" in known and metrics.TOKENS
    dashboard = json.loads((DEPLOY / "grafana/dashboards/glsnet.json").read_text("utf-8"))
    asked = {name for panel in dashboard["panels"] for target in panel.get("targets", [])
             for name in re.findall(r"\b(?:glsnet|process)_\w+", target["expr"])}
    assert len(asked) > 10 and asked <= known
    source = yaml.safe_load((DEPLOY / "grafana/datasources/prometheus.yml").read_text("utf-8"))["datasources"][0]
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"] if "targets" in panel} == {source["uid"]}


def test_manifests_are_as_the_api_has_them() -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    for manifest in MANIFESTS:
        validate(manifest, "1.33", strict=True)


def test_pods_are_restricted() -> None:
    """What Pod Security calls restricted, and a read-only image besides."""
    assert set(PODS) == {"encoder", "decoder", "lab"}
    (namespace,) = (each for each in MANIFESTS if each["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {each["metadata"].get("namespace", "glsnet") for each in MANIFESTS} == {"glsnet"}
    for name, pod in PODS.items():
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False and not pod.keys() & {"hostNetwork", "hostPID"}, name
        kinds = {"secret", "projected", "emptyDir", "persistentVolumeClaim"}
        assert all(each.keys() & kinds for each in pod["volumes"]), name
        (container,) = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                "capabilities": {"drop": ["ALL"]}}, name
        assert container["resources"]["limits"] and not container["image"].endswith("latest")
        for probe in [each for each in container if each.endswith("Probe")]:
            assert container[probe]["exec"]["command"] == SERVICES["encoder"]["healthcheck"]["test"][1:]


def test_manifests_find_each_other() -> None:
    headless = next(each for each in MANIFESTS if each["kind"] == "StatefulSet")["spec"]
    names = {f"decoder-{k}.{headless['serviceName']}:7000" for k in range(headless["replicas"])}
    for pod in PODS.values():
        (container,) = pod["containers"]
        options = parsed(container["args"])
        if "decoders" in options and container["name"] == "lab":
            assert set(options["decoders"]) == names and options["encoder"] == "encoder:7000"
        else:
            assert options["listen"] == "0.0.0.0:7000" and options["journal"] == Path("/journal")
    (tls,) = (each for each in PODS["decoder"]["volumes"] if each["name"] == "tls")
    assert len(tls["projected"]["sources"]) == headless["replicas"]
    policies = {each["metadata"]["name"]: each["spec"] for each in MANIFESTS if each["kind"] == "NetworkPolicy"}
    assert policies["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for service in (each for each in MANIFESTS if each["kind"] == "Service"):
        assert service["spec"]["selector"]["app"] in PODS


def test_a_run_keeps_its_results_and_its_report(tmp_path: Path) -> None:
    done, full = at_once(
        lambda: glsnet("run", "gaussian", "--set", "transport=direct", "--set", "samples=300", "--set", "every=0.0",
                       "--results", str(tmp_path / "new"), "--json"),
        lambda: glsnet("run", "gaussian", "--set", "samples=300", "--results", "/proc/none", code=2))
    (folder,) = (tmp_path / "new").iterdir()
    (record,) = (json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines())
    result = json.loads(done.stdout)
    assert record["result"]["indices_digest"] == result["indices_digest"] and str(folder) in done.stderr
    assert record["cell"]["settings"]["samples"] == 300 and "report.html" in {each.name for each in folder.iterdir()}
    assert "--results: expected a folder that can be made" in full.stderr


def test_addresses_of_a_name_that_has_several() -> None:
    assert cli._places("e:7000") == ["e:7000"]
    places = cli._places("localhost:7000*")
    assert "localhost@127.0.0.1:7000" in places and all(rpc.check_address(each) for each in places)
    with pytest.raises(TransportError, match=r"nowhere\.invalid is no known name"):
        cli._places("nowhere.invalid:7000*")
    with pytest.raises(CallerError, match="--link: expected one for each of 2 decoders"):
        cli._parties(typer.Context(typer.main.get_command(cli.app)), "grpc", 2, "e:1", ["d:1", "d:2"], ["l:1"])


def test_a_name_in_an_address_is_that_of_its_certificate(tmp_path: Path) -> None:
    certificates.write(tmp_path, ["lab", "decoder"], {}, 30, certificates.today())
    ours, theirs = (security_in(tmp_path / name) for name in ("lab", "decoder"))

    async def dialled(address: str, security: Security) -> None:
        async with services.serving("127.0.0.1:0", {}, theirs) as port:
            async with rpc.dial(f"{address}:{port}", exchange.METHOD, "decoder", security):
                pass

    asyncio.run(dialled("decoder@127.0.0.1", ours))
    with pytest.raises(RefusedError):
        asyncio.run(dialled("encoder@127.0.0.1", ours))
    with pytest.raises(CallerError, match="expected --tls-cert"):
        asyncio.run(dialled("localhost@10.0.0.1", LOCAL))


def test_links_by_themselves_begin_with_the_first_connection(tmp_path: Path) -> None:
    faults, journal = tmp_path / "faults.toml", tmp_path / "links.jsonl"
    faults.write_text('[[faults]]\non = "decoder 1"\nkind = "limit_data"\nsize = 3\n', "utf-8")
    first = two_ports()
    with socket.create_server(("127.0.0.1", 0)) as server, subprocess.Popen(
        [sys.executable, "-m", "glsnet.transport.links", f"--listen=127.0.0.1:{first}", f"--faults={faults}",
         f"--to=127.0.0.1:{server.getsockname()[1]}", "--link=decoder 0", "--link=decoder 1", f"--journal={journal}"],
        stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            assert said == {"links": {f"decoder {k}": f"127.0.0.1:{first + k}" for k in range(2)}}
            assert '"start"' not in journal.read_text()
            for k, expected in ((0, b"12345"), (1, b"123")):
                with socket.create_connection(("127.0.0.1", first + k), 10) as near:
                    far, _ = server.accept()
                    with far:
                        near.sendall(b"12345")
                        near.shutdown(socket.SHUT_WR)
                        assert b"".join(iter(lambda: far.recv(100), b"")) == expected  # noqa: B023
        finally:
            process.terminate()
    assert process.returncode == 0
    events = [json.loads(line)["event"] for line in journal.read_text().splitlines()]
    assert events[:2] == ["faults", "start"] and events[-1] == "report"


def two_ports() -> int:
    """The first of two that are free, one after the other."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
