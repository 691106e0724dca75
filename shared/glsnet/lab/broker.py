"""An MQTT broker for runs that name none: amqtt, as a process of its own, `python -m glsnet.lab.broker`.

    main           the process: it stops as the parties do that the lab starts
    local_broker   its address, while a run goes on
    Login          whom it lets in, if not everybody on this machine
"""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig, ListenerConfig, ListenerType
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from glsnet.errors import TransportError
from glsnet.lab.processes import Process, stopped
from glsnet.transport import mqtt, service
from glsnet.transport.security import Security, place_of

_ANYBODY = "amqtt.plugins.authentication.AnonymousAuthPlugin"


def main(
    listen: service.Listen = "127.0.0.1:0",
    mqtt_user: service.MqttUser = None,
    mqtt_password_file: service.MqttPasswordFile = None,
    certificate: service.TlsCertificate = None,
    key: service.TlsKey = None,
    authority: service.TlsAuthority = None,
    insecure: service.Insecure = False,
    until_stdin_closes: service.UntilStdinCloses = False,
) -> None:
    """Serve as an MQTT broker that keeps nothing; with certificates, to those that have one alone.

    It is there so that `glsnet run ... --set transport=mqtt` needs no other: for more, have a real one.
    """
    security = service.security(certificate, key, authority, insecure, listen)
    login = service.login(mqtt_user, mqtt_password_file)
    service.run_to_its_end("broker", _serve(listen, security, login, until_stdin_closes))


@asynccontextmanager
async def local_broker(*options: str) -> AsyncIterator[Process]:
    """Start one with these options, on a port that the system chooses; it is gone when the run is over."""
    with tempfile.TemporaryDirectory(prefix="glsnet-") as folder:
        broker = Process("broker", "glsnet.lab.broker", options, Path(folder))
        async with stopped([broker]):
            await broker.start()
            yield broker


async def _serve(listen: str, security: Security, login: mqtt.Login | None, until_stdin_closes: bool) -> None:
    host, port = place_of(listen)
    logging.getLogger("amqtt").setLevel(logging.ERROR)
    door = {_ANYBODY: {}} if login is None else {f"{__name__}.Login": {"user": login.user, "password": login.password}}
    # amqtt's own listeners do not say on which port they are, and do not insist on a certificate
    broker = Broker(BrokerConfig({"default": ListenerConfig(ListenerType.EXTERNAL)}, plugins=door))
    await broker.start()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await broker.external_connected(StreamReaderAdapter(reader), StreamWriterAdapter(writer), "default")

    context = None if security.tls is None else security.tls.context(serve=True)
    try:
        server = await asyncio.start_server(connected, host, port, ssl=context)
    except OSError as error:
        raise TransportError(f"{listen}: cannot be listened on: {error.strerror}") from error
    async with server:
        print(f"listening on {listen.rpartition(':')[0]}:{server.sockets[0].getsockname()[1]}", flush=True)
        await service.until_stopped(None, until_stdin_closes)


class Login(BaseAuthPlugin):  # type: ignore[misc]  # without types
    """For amqtt: whoever has this name and this password."""

    @dataclass
    class Config:
        """As amqtt wants it."""

        user: str = ""
        password: str = ""

    async def authenticate(self, *, session: Session) -> bool:
        """Whether a session's CONNECT has both."""
        return (session.username, session.password) == (self.config.user, self.config.password)


if __name__ == "__main__":
    service.command(main)
