"""Runs the web application on a socket."""

import asyncio
import ipaddress
import socket
import sys

import h11
import uvicorn
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

from recalign.errors import UserError
from recalign.serving.app import HEADERS, Limits, Service, app, tell
from recalign.serving.recommender import Recommender

# Until the head of a request has come, from the connection or the last answer on.
SECONDS_WITHOUT_REQUEST = 5
# Until a client has taken what is sent to it.
SECONDS_UNREAD = 30


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address; port 0 takes any that is free.

    Raises:
      UserError: the address cannot be had.
    """
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(
            f"cannot serve on {host} port {port}: {error}; choose another with --host or --port"
        ) from error
    return bound


class _Protocol(H11Protocol):
    """Uvicorn's, which tells what is no request as the service tells errors, and waits for no one.

    What is inherited waits for a first request for ever, for the rest of one from byte to byte, and
    for ever for a client to read.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        self.conn.receive_data(data)
        self.handle_events()  # which stops the clock when a request is whole

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(SECONDS_UNREAD, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread.cancel()

    def send_400_response(self, msg: str) -> None:
        if self.cycle:
            self.cycle.disconnected = True  # whoever works on its beginning shall not answer too
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = tell(400, f"this is no HTTP request: {str(sys.exception() or msg)[:100]}")
            headers = [*self.server_state.default_headers, *answer.raw_headers, CLOSE_HEADER]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        self.transport.close()

    def _should_upgrade(self) -> bool:
        return False  # what is inherited asks, in the log, for packages that would allow it


def make_server(recommender: Recommender, host: str, limits: Limits) -> uvicorn.Server:
    """A server for `server.run(sockets=[listen(host, port)])`, all of it compiled."""
    service = Service(recommender, limits)
    service.warm_up()
    hosts = [host, "localhost", "127.0.0.1", "[::1]"] if is_loopback(host) else None
    config = uvicorn.Config(
        app(service, limits, hosts),
        log_level="warning",
        access_log=False,
        server_header=False,
        headers=list(HEADERS.items()),
        lifespan="on",
        http=_Protocol,
        ws="none",
        timeout_keep_alive=SECONDS_WITHOUT_REQUEST,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)
