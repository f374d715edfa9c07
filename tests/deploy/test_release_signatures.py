"""Signed releases: where a machine says who may sign, nothing else is staged or activated."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.parts.release_place import TEMPLATE, Place, make_key, packed, saved
from tests.parts.releases import PROJECT

pytestmark = pytest.mark.slow

NAMESPACE = "image-gateway-release"
SIGNATURE = "manifest.json.sig"


def allow(place: Place, key: Path, options: str = "") -> None:
    """The machine takes releases that this key signed."""
    kind, public = key.with_suffix(".pub").read_text("utf-8").split()[:2]
    line = f"ann@example.org {options} {kind} {public}\n"
    place.script.ALLOWED_SIGNERS.write_text(line, "utf-8")


def unpacked(artifact: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(artifact)) as tar:
        return {m.name: file.read() for m in tar if (file := tar.extractfile(m)) is not None}


def in_order(files: Mapping[str, bytes], *more: tuple[str, bytes]) -> bytes:
    """An archive of these files: the manifest and its signature first, as ``build`` packs them."""
    first = [name for name in ("manifest.json", SIGNATURE) if name in files]
    names = [*first, *(name for name in files if name not in first)]
    packed_files = [*((name, files[name]) for name in names), *more]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in packed_files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def units() -> dict[str, bytes]:
    """The units of an artifact that can be activated, with their secrets where a test has them."""
    folder = PROJECT / "systemd"
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {f"systemd/{path.relative_to(folder)}": path.read_bytes() for path in paths}


def signed(place: Place, key: Path, namespace: str = NAMESPACE) -> dict[str, bytes]:
    """The files of an artifact that is signed by the script itself, for another namespace if so."""
    files = units()
    template = f"systemd/{TEMPLATE}"
    etc = str(place.folder / "etc").encode()
    files[template] = files[template].replace(b"/etc/image-gateway", etc)
    files = unpacked(packed(files))
    folder = place.folder.parent / "to-sign"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    manifest = folder / "manifest.json"
    manifest.write_bytes(files["manifest.json"])
    before, place.script.SIGNED_FOR = place.script.SIGNED_FOR, namespace
    place.script.sign(manifest, str(key))
    place.script.SIGNED_FOR = before
    return {**files, SIGNATURE: folder.joinpath(SIGNATURE).read_bytes()}


def altered(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The same with another page, and a manifest that fits it."""
    page = b"another page"
    manifest = json.loads(files["manifest.json"])
    manifest["files"]["README.md"] = hashlib.sha256(page).hexdigest()
    return {**files, "README.md": page, "manifest.json": json.dumps(manifest).encode()}


def unsigned(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name != SIGNATURE}


def test_a_signed_release_is_staged_activated_and_gone_back_to(
    place: Place, signing_key: Path
) -> None:
    allow(place, signing_key, f'namespaces="{NAMESPACE}"')
    artifact = in_order(signed(place, signing_key))
    told = place.done("stage", saved(place, artifact))
    assert "signed by ann@example.org" in told
    told = place.done("activate")
    assert "signed by ann@example.org" in told
    assert place.up() == {"blue": "1.0"}
    assert "is staged already" in place.done("stage", saved(place, artifact))


def test_nobody_signs_where_the_machine_does_not_ask_for_it(
    place: Place, signing_key: Path
) -> None:
    """A signature that nobody can judge changes nothing either."""
    place.done("stage", saved(place, in_order(signed(place, signing_key))))
    assert "signed by" not in place.done("activate")
    assert place.up() == {"blue": "1.0"}


Change = Callable[[Mapping[str, bytes]], bytes]
REFUSED: dict[str, tuple[Change, str]] = {
    "unsigned": (
        lambda files: in_order(unsigned(files)),
        "the release is not signed, but",
    ),
    "an altered manifest": (
        lambda files: in_order(altered(files)),
        "the signature does not fit the release",
    ),
    "an altered file": (
        lambda files: in_order({**files, "README.md": b"another page"}),
        "files differ from the build: README.md",
    ),
    "a second manifest": (
        lambda files: in_order(files, ("./manifest.json", altered(files)["manifest.json"])),
        "in the archive twice",
    ),
    "a signature that comes late": (
        lambda files: in_order(unsigned(files), (SIGNATURE, files[SIGNATURE])),
        "the release is not signed, but",
    ),
    "an empty signature": (
        lambda files: in_order({**files, SIGNATURE: b""}),
        "the release is signed by nobody whom",
    ),
    "a manifest without an end": (
        lambda files: in_order({**files, "manifest.json": bytes(5 * 1024 * 1024)}),
        "the release is not signed, but",
    ),
    "nothing": (lambda _: b"", "the archive is damaged"),
}


@pytest.mark.parametrize(("change", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_as_it_was_signed_is_not_staged(
    place: Place, signing_key: Path, change: Change, why: str
) -> None:
    allow(place, signing_key)
    code, told = place.say("stage", saved(place, change(signed(place, signing_key))))
    assert (code, why in told) == (1, True), told
    assert place.releases() == set()


@pytest.fixture(scope="module")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other") / "id"
    make_key(path)
    return path


def test_a_signature_by_another_key_or_for_something_else_counts_for_nothing(
    place: Place, signing_key: Path, other_key: Path
) -> None:
    allow(place, signing_key)
    for files, why in (
        (signed(place, other_key), "the release is signed by nobody whom"),
        (signed(place, signing_key, "file"), "the signature does not fit the release"),
    ):
        code, told = place.say("stage", saved(place, in_order(files)))
        assert (code, why in told) == (1, True), told
    assert place.releases() == set()


@pytest.mark.parametrize("why", ["an empty file", "a link that leads nowhere", "a folder"])
def test_a_list_of_signers_that_names_nobody_allows_nobody(
    place: Place, signing_key: Path, why: str
) -> None:
    path: Path = place.script.ALLOWED_SIGNERS
    if why == "an empty file":
        path.touch()
    elif why == "a folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    artifact = in_order(signed(place, signing_key))
    code, told = place.say("stage", saved(place, artifact))
    assert (code, "signed by nobody whom" in told) == (1, True), told


def test_without_ssh_keygen_nothing_is_taken(
    place: Place, signing_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = in_order(signed(place, signing_key))
    allow(place, signing_key)
    monkeypatch.setenv("PATH", str(place.folder))
    code, told = place.say("stage", saved(place, artifact))
    assert (code, "install openssh-client" in told) == (1, True), told


def test_a_release_that_was_staged_unsigned_gets_its_signature_by_staging_it_signed(
    place: Place, signing_key: Path
) -> None:
    files = signed(place, signing_key)
    place.done("stage", saved(place, in_order(unsigned(files))))
    allow(place, signing_key)
    code, told = place.say("activate", "1.0")
    assert (code, "the release is not signed" in told) == (1, True), told
    assert place.up() == {}
    assert "add the signature" in place.done("stage", saved(place, in_order(files)))
    place.done("activate", "1.0")
    assert place.up() == {"blue": "1.0"}


@pytest.mark.parametrize("name", ["manifest.json", "README.md", f"systemd/{TEMPLATE}"])
def test_what_was_altered_after_the_staging_is_not_activated(
    place: Place, signing_key: Path, name: str
) -> None:
    """Also where the list of installed files was made to fit."""
    allow(place, signing_key)
    place.done("stage", saved(place, in_order(signed(place, signing_key))))
    folder = place.home / "releases" / "1.0"
    folder.joinpath(name).write_bytes(folder.joinpath(name).read_bytes() + b"\n")
    installed = folder / "installed.json"
    hashes = json.loads(installed.read_bytes())
    hashes[name] = place.script._sha256(folder / name)
    installed.write_text(json.dumps(hashes), "utf-8")
    code, told = place.say("activate", "1.0")
    why = "does not fit the release" if name == "manifest.json" else "files differ from the build"
    assert (code, why in told) == (1, True), told
    assert place.up() == {}


def test_a_signer_who_is_not_allowed_any_more_is_not_gone_back_to(
    place: Place, signing_key: Path, other_key: Path
) -> None:
    allow(place, signing_key)
    place.done("stage", saved(place, in_order(signed(place, signing_key))))
    place.done("activate", "1.0")
    place.staged("2.0")
    place.script.ALLOWED_SIGNERS.unlink()
    place.done("activate", "2.0")
    allow(place, other_key)
    code, told = place.say("rollback")
    assert (code, "signed by nobody whom" in told) == (1, True), told
    assert place.up() == {"green": "2.0"}


def test_a_key_that_is_not_there_is_named(place: Place) -> None:
    missing = place.folder / "missing"
    with pytest.raises(place.script.ReleaseError, match="the signing key is not a file"):
        place.script.sign(missing, str(missing))
