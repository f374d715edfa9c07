"""Which connection is closed for a new one, and when a new one is refused."""

import pytest

from image_gateway.edge.client.connections import YOUNG_SECONDS, Connections, Room

LATER = YOUNG_SECONDS + 1


class Peer:
    def __init__(self) -> None:
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True


def full(limit: int) -> tuple[Connections, list[Peer]]:
    """A full table whose connections are idle since 0, 1, 2 ..."""
    table, peers = Connections(limit), [Peer() for _ in range(limit)]
    for since, peer in enumerate(peers):
        assert table.room(since) is Room.FREE
        table.add(peer, since)
    return table, peers


def test_the_oldest_without_a_request_makes_room() -> None:
    table, peers = full(4)
    table.begin(peers[0])
    assert table.room(1 + LATER) is Room.OF_OLDEST
    assert table.close_oldest(1 + LATER)
    assert [peer.is_aborted for peer in peers] == [False, True, False, False]
    assert (table.idle, table.busy) == (2, 1)
    assert table.room(0) is Room.FREE


def test_who_has_just_connected_gets_time_to_send_its_request() -> None:
    table, _ = full(1)
    assert table.room(0) is Room.LATER
    assert not table.close_oldest(0)
    assert table.room(YOUNG_SECONDS) is Room.OF_OLDEST


def test_a_request_in_progress_is_never_closed_for_a_new_connection() -> None:
    table, peers = full(3)
    for peer in peers:
        table.begin(peer)
    assert table.room(LATER * 10) is Room.NONE
    assert not table.close_oldest(LATER * 10)
    assert not any(peer.is_aborted for peer in peers)
    table.remove(peers[1])
    assert table.room(0) is Room.FREE


def test_what_was_closed_for_another_counts_no_more_when_it_ends() -> None:
    table, peers = full(2)
    table.close_oldest(LATER)
    table.remove(peers[0])
    assert (table.idle, table.busy) == (1, 0)


@pytest.mark.parametrize(("limit", "served"), [(1, 1), (15, 15), (16, 15), (64, 60), (2048, 1984)])
def test_a_sixteenth_of_the_connections_refuses(limit: int, served: int) -> None:
    table, peers = full(limit)
    for count, peer in enumerate(peers, 1):
        table.begin(peer)
        assert table.is_over is (count > served)
