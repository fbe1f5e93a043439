"""A web application on a socket of this machine, until Ctrl-C. Imports uvicorn only then."""

from __future__ import annotations

import socket
from typing import Any

from tutelage.system.errors import TutelageError

HEAD_SECONDS = 10.0  # for a request's head to arrive, or the connection is closed
CONNECTIONS = 512  # more are answered with 503
HEAD_BYTES = 16_384


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that listens at an address; port 0 takes a free one.

    Clients that connect before the application runs have to wait.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        raise TutelageError(
            f"port {port} of {host} cannot be used: {error}; choose another --port, or 0 for a "
            "free one"
        ) from error
    return listening


def run_app(app: Any, listening: socket.socket) -> None:
    """Serve an ASGI application until Ctrl-C or SIGTERM; requests that have begun are finished."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http=_patient_protocol(),
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_graceful_shutdown=30,
    )
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _patient_protocol() -> Any:
    """Uvicorn's HTTP protocol with a limit for the arrival of a request's head.

    Without one, connections that send a byte now and then are held for ever (the "slow loris").
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PatientProtocol(H11Protocol):
        _timer: Any = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect_head()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._expect_head()
            else:
                self._stop_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def _expect_head(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return PatientProtocol
