"""``scripts/sbom``: the list of parts says what the wheels in a folder say."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.parts.releases import PROJECT

WHEELS = {
    "image_gateway-1.0+g1": ["Requires-Dist: Drawer[fast]>=1", "License-Expression: Apache-2.0"],
    "drawer-2.0": [
        "Requires-Dist: pens; extra == 'fast'",
        "Requires-Dist: ruler; extra == 'slow'",
        "Requires-Dist: ruler; python_version < '3'",
        "Classifier: License :: OSI Approved :: MIT License",
        "License: the whole text",
    ],
    "pens-3": ["Requires-Dist: drawer", "License: BSD"],
    "ruler-4": [f"License: {'a long text ' * 50}"],
    "pip-5": [],
}


def made(folder: Path) -> bytes:
    done = subprocess.run(
        [sys.executable, PROJECT / "scripts" / "sbom", folder], capture_output=True, check=True
    )
    return done.stdout


def test_the_list_of_parts_names_links_licenses_and_hashes_of_wheels(tmp_path: Path) -> None:
    for name, lines in WHEELS.items():
        package, version = name.split("-")
        head = ["Metadata-Version: 2.4", f"Name: {package}", f"Version: {version}"]
        with ZipFile(tmp_path / f"{name}-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}.dist-info/METADATA", "\n".join([*head, *lines, "", ""]))
            archive.writestr(f"{package}/more.dist-info/METADATA", "Name: another")
    text = made(tmp_path)
    assert made(tmp_path) == text
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.decode()) is None
    parts: dict[str, Any] = json.loads(text)
    own = parts["metadata"]["component"]
    components = {each["name"]: each for each in [own, *parts["components"]]}
    assert own["purl"] == "pkg:pypi/image-gateway@1.0%2Bg1"
    assert {name: each["scope"] == "required" for name, each in components.items()} == {
        "image-gateway": True,
        "drawer": True,
        "pens": True,
        "ruler": True,
        "pip": False,
    }
    [pens] = tmp_path.glob("pens-*.whl")
    digest = hashlib.sha256(pens.read_bytes()).hexdigest()
    assert components["pens"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    told = {"acknowledgement": "declared"}
    assert {name: each["licenses"] for name, each in components.items()} == {
        "image-gateway": [{"expression": "Apache-2.0", **told}],
        "drawer": [{"license": {"name": "MIT License", **told}}],
        "pens": [{"license": {"name": "BSD", **told}}],
        "ruler": [],
        "pip": [],
    }
    names = {each["purl"]: name for name, each in components.items()}
    links = {
        (names[each["ref"]], names[needed])
        for each in parts["dependencies"]
        for needed in each["dependsOn"]
    }
    assert links == {("image-gateway", "drawer"), ("drawer", "pens"), ("pens", "drawer")}
