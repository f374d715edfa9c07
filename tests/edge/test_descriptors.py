"""How many connections fit under the limit of open files."""

import pytest

from image_gateway.edge import descriptors


@pytest.mark.parametrize(
    ("wanted", "allowed", "fits"),
    [
        (2048, None, 2048),
        (2048, 16384, 2048),
        (2048, 10336, 2048),
        (2048, 10335, 2047),
        (2048, 1024, 185),
        (2048, 256, 32),
        (2048, 64, 1),
        (10, 1024, 10),
    ],
)
def test_a_limit_of_open_files_has_room_for_so_many(
    wanted: int, allowed: int | None, fits: int
) -> None:
    assert descriptors.fitting(wanted, allowed) == fits
    said = descriptors.shortage(wanted, allowed)
    assert (said is None) is (fits == wanted)
    if said is not None:
        assert f"MAX_CONNECTIONS {wanted} needs {descriptors.needed(wanted)} open files" in said
        assert f"may have {allowed}: it accepts {fits} connections" in said
        assert "LimitNOFILE" in said
