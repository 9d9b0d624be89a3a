"""A node with other code, or with another target by the same name, serves nobody."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import online_draft

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]

SETTINGS = {"LEARNER__MODE": "off"}
PACKAGE = Path(online_draft.__file__).parent
TARGET = PACKAGE / "models" / "embedded" / "target"


@pytest.fixture
def other_code(site: Any) -> dict[Path, Path]:
    copy = Path(shutil.copytree(site.image, site.root / "code"))
    with (copy / "errors.py").open("a") as file:
        file.write("# another version\n")
    return {copy: PACKAGE}


@pytest.fixture
def other_target(site: Any) -> dict[Path, Path]:
    copy = Path(shutil.copytree(TARGET, site.root / "target"))
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1  # a bit of the last number's mantissa
    weights.write_bytes(data)
    return {copy: TARGET}


def refusal(site: Any) -> str:
    found = [alarm for alarm in site.get("/status")["alarms"] if alarm["code"] == "node_refused"]
    return " ".join(f"{alarm['about']}: {alarm['message']}" for alarm in found)


@pytest.mark.parametrize(("what", "reason"), [("other_code", "has code"), ("other_target", "has target")])
def test_a_stranger_is_refused_with_its_reason_until_it_is_like_the_others(
    site: Any, request: pytest.FixtureRequest, what: str, reason: str
) -> None:
    node = site.nodes[1]
    undisturbed = [stream.outcome for stream in site.streams(range(4))]
    node.power_off()
    node.start(request.getfixturevalue(what))
    site.until(lambda: f"node-2: node-2 {reason}" in refusal(site), "it is refused", 120)
    assert [stream.outcome for stream in site.streams(range(4))] == undisturbed
    assert site.links() == 1 and site.replicas().keys() == {"node-1"}
    node.power_off()
    node.start()
    site.until(site.sees_both, "it serves", 180)
