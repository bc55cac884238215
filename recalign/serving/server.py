"""Runs the web application on a socket."""

import ipaddress
import socket

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from recalign.errors import UserError
from recalign.serving.app import HEADERS, Limits, Service, app
from recalign.serving.recommender import Recommender

# Clients that may be connected at once; beyond them, each is told to come again.
MOST_CONNECTIONS = 512


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
    """Uvicorn's, whose answer to what is no request has the headers of every response too."""

    def send_400_response(self, msg: str) -> None:
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"connection", b"close"),
        ]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=msg.encode()),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()


def make_server(recommender: Recommender, host: str, limits: Limits) -> uvicorn.Server:
    """A server for `server.run(sockets=[listen(host, port)])`, all of it compiled."""
    service = Service(recommender, limits)
    service.warm_up()
    hosts = [host, "localhost", "127.0.0.1", "[::1]"] if is_loopback(host) else ["*"]
    config = uvicorn.Config(
        app(service, hosts),
        log_level="warning",
        access_log=False,
        server_header=False,
        headers=list(HEADERS.items()),
        lifespan="on",
        http=_Protocol,
        ws="none",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)
