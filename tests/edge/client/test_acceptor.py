"""The acceptor shares its listening socket with other instances."""

import socket

from image_gateway.edge.client.acceptor import Acceptor
from image_gateway.edge.client.connections import Connections
from image_gateway.edge.client.listener import bind
from tests.parts.eventually import eventually


class Taken:
    """A connection that nobody serves."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client

    def abort(self) -> None:
        self.client.close()


async def test_a_socket_that_was_made_blocking_elsewhere_stops_nobody() -> None:
    """systemd clears O_NONBLOCK when it starts another instance."""
    taken: list[Taken] = []

    def serve(client: socket.socket) -> Taken:
        taken.append(Taken(client))
        return taken[-1]

    listening = bind(("127.0.0.1", 0))
    acceptor = Acceptor([listening], Connections(64), serve, "")
    acceptor.start()
    try:
        with listening.dup() as elsewhere:
            for number in (1, 2):
                elsewhere.setblocking(True)
                with socket.create_connection(elsewhere.getsockname()):
                    await eventually(lambda: len(taken) == number)  # noqa: B023 - used at once
    finally:
        acceptor.stop(takes_queued=False)
        for each in taken:
            each.abort()
