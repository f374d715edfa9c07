"""The install guide, the units and the release script on a bare Debian under a real systemd.

One machine for all of it, in this order: it is installed by the very blocks of the guide, and each
test leaves it serving.
"""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.parts.drill import NARROW, NARROW_SLOTS, PAUSE_SECONDS, Drill
from tests.parts.eventually import eventually, eventually_blocking
from tests.parts.machine import MachineError
from tests.parts.releases import version
from tests.parts.site import OPS, Site, installed, make_keys
from tests.parts.upstream import Call, draws

pytestmark = [pytest.mark.machine, pytest.mark.timeout(900)]

TEMPLATE = "image-gateway@.service"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with installed(tmp_path_factory.mktemp("site")) as made:
        yield made


def test_the_install_guide_ends_with_a_picture(site: Site) -> None:
    assert site.picture["data"][0]["b64_json"]
    assert site.serving() == ("blue", version(site.good))
    [call] = site.upstream.calls
    assert call.json()["prompt"] == "a lighthouse at dusk"
    assert call.headers["authorization"] == "Bearer sk-upstream-0815"
    [record] = site.records()
    assert (record["status"], record["key_id"]) == (200, "app-1")


# -- the units -------------------------------------------------------------------------------------


def test_the_service_is_as_little_exposed_as_promised(site: Site) -> None:
    told = site.machine.run(
        f"systemd-analyze security --offline=true --no-pager /etc/systemd/system/{TEMPLATE}"
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert found is not None, told
    assert float(found[1]) <= 1.5


def test_the_process_has_no_rights_left(site: Site) -> None:
    status = site.of_process("status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert "0" not in fields["Uid"].split()


def test_secrets_are_credentials_and_nowhere_else(site: Site) -> None:
    password = re.findall(
        r":(\w+)@", site.machine.run("cat /etc/image-gateway/control-database-url")
    )[0]
    key = site.machine.run("cat /etc/image-gateway/prompt-hash-key")
    assert len(password) == 48
    assert len(key) == 64
    told = site.of_process("environ") + site.of_process("cmdline")
    told += site.machine.run(f"systemctl show {site.unit}")
    told += site.machine.run("journalctl --no-pager -u 'image-gateway*'")
    for secret in (password, key, site.secret, "sk-upstream-0815"):
        assert secret not in told
    # The one folder that holds them is the service's own.
    folder = f"/run/credentials/{site.unit}"
    assert f"IMAGE_GATEWAY_CONTROL_DATABASE_URL_FILE={folder}/control-database-url" in told
    with pytest.raises(MachineError, match="Permission denied"):
        site.machine.run(f"runuser -u nobody -- cat {folder}/prompt-hash-key")
    assert site.machine.run("stat -c %a /etc/image-gateway/*").split() == ["600"] * 4
    # One key for both instances, so that equal prompts show across their logs.
    assert not list(site.machine.root.glob("var/lib/private/image-gateway/*/prompt-hash-key"))


def test_the_limits_hold(site: Site) -> None:
    group = f"/sys/fs/cgroup{site.machine.show(site.unit, 'ControlGroup')}"
    assert site.machine.show(site.unit, "MemoryMax") == str(1536 * 1024**2)
    assert site.machine.show(site.unit, "MemoryHigh") == str(1024**3)
    assert site.machine.show(site.unit, "TasksMax") == "64"
    # The controllers that this kernel gives the machine; a server has all of them.
    for name, wanted in (("memory.max", str(1536 * 1024**2)), ("pids.max", "64")):
        assert site.machine.run(f"cat {group}/{name} 2>/dev/null || echo {wanted}") == wanted
    limits = site.of_process("limits")
    assert re.search(r"Max core file size\s+0\s+0", limits)
    assert re.search(r"Max open files\s+16384", limits)


def test_its_words_are_in_the_journal_as_json(site: Site) -> None:
    told = site.machine.run(f"journalctl --no-pager -o cat -u {site.unit} _COMM=python")
    said = [json.loads(line) for line in told.splitlines()]
    assert any(line["message"].startswith("accepting on") for line in said)


def test_a_hung_process_is_replaced(site: Site) -> None:
    """The watchdog: an event loop that does not turn cannot be asked anything."""
    path = f"/run/systemd/system/{site.unit}.d/test.conf"
    site.machine.run(
        f"mkdir -p {path.rpartition('/')[0]} && printf '[Service]\\nWatchdogSec=2\\n' > {path}"
        f" && systemctl daemon-reload && systemctl restart {site.unit}"
    )
    before = site.machine.show(site.unit, "MainPID")
    site.machine.run(f"kill -STOP {before}")
    # The call waits in the socket until the next process is there.
    assert site.post()[0] == 200
    assert site.machine.show(site.unit, "MainPID") != before
    assert "watchdog" in site.machine.run(f"journalctl --no-pager -o cat -u {site.unit}").lower()
    site.machine.run(f"rm -r {path.rpartition('/')[0]} && systemctl daemon-reload")


def test_a_crash_costs_the_next_call_seconds_and_no_error(site: Site) -> None:
    before = site.machine.show(site.unit, "MainPID")
    site.machine.run(f"kill -KILL {before}")
    assert site.post()[0] == 200
    assert site.machine.show(site.unit, "MainPID") != before
    assert site.machine.show(site.unit, "ActiveState") == "active"


def test_each_instance_has_a_log_and_an_ops_port_of_its_own(site: Site) -> None:
    told = site.ready(OPS["blue"])
    assert told is not None
    assert (told["ready"], told["version"]) == (True, version(site.good))
    assert site.ready(OPS["green"]) is None
    logs = site.machine.root / "var/log/private/image-gateway/blue/requests.jsonl"
    assert logs.stat().st_size > 0


def test_its_commands_find_the_log_records(site: Site) -> None:
    told = site.machine.run("/opt/image-gateway/current/bin/image-gateway logs summary --json")
    assert "app-1" in told
    charged = site.control("usage apply --dir /var/log/image-gateway")
    assert [each["key_id"] for each in charged["keys"]] == ["app-1"]
    assert charged["tokens"] > 0


# -- releases --------------------------------------------------------------------------------------


def test_a_dry_run_changes_nothing(site: Site) -> None:
    before = site.everything()
    told = site.release("--dry-run", "activate", version(site.better))
    assert "would systemctl start image-gateway@green.service" in told
    assert site.everything() == before
    assert site.serving() == ("blue", version(site.good))


def test_a_release_and_a_rollback_touch_nothing_of_anybody_else(site: Site) -> None:
    before = site.others()
    site.release("activate", version(site.better))
    assert site.serving() == ("green", version(site.better))
    told = site.ready(OPS["green"])
    assert told is not None
    assert told["version"] == version(site.better)
    assert site.ready(OPS["blue"]) is None
    assert site.post()[0] == 200
    assert site.others() == before
    # Once more is nothing new.
    assert "serves already" in site.release("activate", version(site.better))
    site.release("rollback")
    assert site.serving() == ("blue", version(site.good))
    assert site.ready(OPS["green"]) is None
    assert site.post()[0] == 200
    assert site.others() == before


def test_systemd_has_nothing_to_say_against_the_units(site: Site) -> None:
    names = "image-gateway.socket image-gateway@blue.service image-gateway@green.service"
    assert site.machine.run(f"systemd-analyze verify --man=no {names} 2>&1") == ""


def test_the_status_tells_what_is_there_and_what_serves(site: Site) -> None:
    blue, green, *staged = site.release("status").splitlines()
    assert blue.startswith(f"blue  {version(site.good)}  active  serves  ready  accepting")
    assert green == f"green  {version(site.better)}  inactive"
    releases = {version(each) for each in (site.good, site.better, site.broken)}
    assert {line.split()[1] for line in staged} == releases
    [left] = [line for line in staged if version(site.better) in line]
    assert "rolled back 20" in left
    # What was left, or has failed, is activated by its name only.
    assert site.release("--dry-run", "activate").startswith(f"{version(site.broken)}: all files")


def test_after_a_reboot_the_instance_that_served_comes_back(site: Site) -> None:
    enabled = site.machine.run(
        "systemctl is-enabled image-gateway.socket image-gateway@blue image-gateway@green || true"
    )
    assert enabled.split() == ["enabled", "enabled", "disabled"]


@contextmanager
def nothing_changes(site: Site) -> Iterator[None]:
    """What serves goes on by the same process, and every link and unit is as before."""
    pid, before = site.machine.show(site.unit, "MainPID"), site.everything()
    yield
    assert site.machine.show(site.unit, "MainPID") == pid
    assert site.everything() == before
    assert site.ready(OPS[site.other()]) is None
    assert site.post()[0] == 200
    assert site.machine.run("systemctl list-units --failed --no-legend --plain 'image*'") == ""


def test_a_release_that_does_not_start_leaves_the_old_one_serving(site: Site) -> None:
    with nothing_changes(site):
        told = site.release("activate", version(site.broken), check=False)
        assert f"put back: blue ({version(site.good)}) was never stopped and still serves" in told
        assert "RuntimeError" in told


def test_a_release_whose_check_fails_changes_nothing(site: Site) -> None:
    path = "/etc/image-gateway/control-database-url"
    with nothing_changes(site):
        site.machine.run(f"cp -p {path} /root/kept && echo nonsense > {path}")
        told = site.release("activate", version(site.better), check=False)
        site.machine.run(f"mv /root/kept {path}")
        assert "check: image-gateway: IMAGE_GATEWAY_CONTROL_DATABASE_URL must be" in told
        assert "nothing was changed" in told


def test_a_release_that_does_not_become_ready_leaves_the_old_one_serving(site: Site) -> None:
    with nothing_changes(site):
        site.control("account disable openai-1")
        told = site.release("activate", version(site.better), check=False)
        site.control("account enable openai-1")
        assert "green is not ready: no account is usable" in told
        assert f"put back: blue ({version(site.good)}) was never stopped and still serves" in told


def test_a_staged_release_that_was_changed_is_not_started(site: Site) -> None:
    path = f"/opt/image-gateway/releases/{version(site.better)}"
    with nothing_changes(site):
        site.machine.run(
            f"echo '# more' >> {path}/venv/lib/python3.11/site-packages/h11/__init__.py"
        )
        told = site.release("activate", version(site.better), check=False)
        site.machine.run(f"sed -i '$d' {path}/venv/lib/python3.11/site-packages/h11/__init__.py")
        assert (
            "files differ from the build: venv/lib/python3.11/site-packages/h11/__init__.py" in told
        )


def test_a_cut_artifact_is_refused(site: Site, tmp_path: Path) -> None:
    cut = tmp_path / site.better.name
    cut.write_bytes(site.better.read_bytes()[:-1000])
    with nothing_changes(site):
        assert "the archive is damaged" in site.release("stage", str(cut), check=False)


def test_two_runs_do_not_meet(site: Site) -> None:
    with site.machine.shell() as run:
        run("exec 9>>/opt/image-gateway/.lock; flock 9; echo process 4711 is active >&9")
        told = site.release("rollback", check=False)
        assert told.startswith("release: process 4711 is active")


def test_a_run_that_was_killed_is_finished_by_the_next(site: Site) -> None:
    script = site.project.joinpath("scripts", "release").read_bytes()
    site.machine.root.joinpath("root/release").write_bytes(script)
    running = site.machine.start(f"exec python3 -u /root/release activate {version(site.better)}")
    with running:
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("systemctl start image-gateway@green"):
                break
        site.machine.run("pkill -KILL -f '^python3 -u /root/release'")
    eventually_blocking(lambda: site.ready(OPS["green"]) is not None, 30)
    # Both run now, and the link still says that the old one serves.
    assert site.ready(OPS["blue"]) is not None
    site.release("activate", version(site.better))
    assert site.serving() == ("green", version(site.better))
    assert site.ready(OPS["blue"]) is None
    site.release("rollback")
    assert site.serving() == ("blue", version(site.good))


def test_changed_settings_come_into_force_without_a_restart(site: Site) -> None:
    """The other instance takes over with the same release; the way back stays open."""
    release = version(site.better)
    site.release("activate", release)
    assert site.serving() == ("green", release)
    assert f"{version(site.good)}  rollback goes here" in site.release("status")
    line = 'default_model = "gpt-image-2.6-flare"'
    site.machine.run(f"echo '{line}' >> /etc/image-gateway/config.toml")
    site.release("activate", release)
    assert site.serving() == ("blue", release)
    assert site.post()[0] == 200
    assert site.upstream.calls[-1].json()["model"] == "gpt-image-2.6-flare"
    site.machine.run("sed -i '$d' /etc/image-gateway/config.toml")
    site.release("rollback")
    assert site.serving() == ("green", version(site.good))
    # Said again it is nothing new, and never the way forward to what was left.
    assert "serves already" in site.release("rollback")
    assert site.serving() == ("green", version(site.good))


def test_a_call_starts_the_instance_that_serves(site: Site) -> None:
    """Green by now, and not the one that the unit names as it is shipped."""
    assert site.serving()[0] == "green"
    site.machine.run(f"systemctl stop {site.unit}")
    assert site.post()[0] == 200
    assert site.machine.show(site.unit, "ActiveState") == "active"
    assert site.machine.show("image-gateway@blue.service", "ActiveState") == "inactive"


def test_a_unit_that_grants_too_little_time_kills_no_call(site: Site) -> None:
    path = f"/run/systemd/system/{site.unit}.d/test.conf"
    site.machine.run(
        f"mkdir -p {path.rpartition('/')[0]} && printf '[Service]\nTimeoutStopSec=1\n' > {path}"
        " && systemctl daemon-reload"
    )
    arrived = threading.Event()

    async def draw_slowly(call: Call) -> None:
        arrived.set()
        await asyncio.sleep(6)
        await call.answer()

    site.upstream.script = draw_slowly
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(site.post)
        assert arrived.wait(20)
        site.machine.run(f"systemctl stop {site.unit}")
        assert answer.result(20)[0] == 200
    site.upstream.script = draws
    site.machine.run(f"rm -r {path.rpartition('/')[0]} && systemctl daemon-reload")
    assert site.machine.show(site.unit, "Result") == "success"
    assert site.post()[0] == 200


def test_a_tight_umask_keeps_nobody_from_what_is_installed(site: Site) -> None:
    release = version(site.broken)
    artifact = f"/root/{site.broken.name}"
    site.machine.root.joinpath(artifact[1:]).write_bytes(site.broken.read_bytes())
    site.machine.run(
        f"umask 077; rm -r /opt/image-gateway/releases/{release}"
        f"; python3 /root/release stage {artifact}"
    )
    python = f"/opt/image-gateway/releases/{release}/venv/bin/python"
    site.machine.run(f"runuser -u nobody -- {python} -c 'import image_gateway.app'")


# -- no call lost ----------------------------------------------------------------------------------


async def test_no_call_is_lost_in_five_releases_and_rollbacks(site: Site) -> None:
    """20 s calls through Caddy all the while, in all at least 500; account limits stay exact."""
    # Calls that wait for a slot keep an instance draining; the default is 30 s.
    site.machine.run("echo 'slot_wait_seconds = 5' >> /etc/image-gateway/config.toml")
    keys = make_keys(site)
    before = len(site.records())

    def release_and_roll_back() -> None:
        for _ in range(5):
            site.release("activate", version(site.better))
            site.release("rollback")

    drill = Drill(site.url, keys, site.upstream, seconds=20)
    seen = await drill.run(wide=56, narrow=6, during=release_and_roll_back)
    print(seen)
    assert seen.failures == []
    assert seen.served >= 500
    assert seen.longest_wait < PAUSE_SECONDS
    assert seen.peaks[NARROW] == NARROW_SLOTS
    calls = seen.served + seen.served_narrow + seen.refused_narrow
    await eventually(lambda: len(site.records()) - before == calls)
    assert site.serving()[1] == version(site.good)
