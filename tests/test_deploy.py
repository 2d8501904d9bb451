"""What is in deploy/: manifests with the fields that matter, and commands that exist.

No cluster is asked and no image is built here.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from seq2edge import __version__, cli

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
FILES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
RESOURCES = [
    resource for file in FILES for resource in yaml.safe_load_all(file.read_text(encoding="utf-8"))
]
KINDS = {resource["kind"]: resource for resource in RESOURCES}
PODS = [
    resource["spec"]["template"]["spec"] for resource in RESOURCES if "template" in resource["spec"]
]


def check_command(arguments):
    """That such a command and its options exist."""
    command = cli.main.commands.get(arguments[0])
    if command is None:
        pytest.skip(f"seq2edge {arguments[0]} is not in this tree yet")
    context = command.make_context(arguments[0], arguments[1:])
    assert context.params


def test_every_kind_is_there():
    """A server with its address and its budget, and a job."""
    assert sorted(KINDS) == ["Deployment", "Job", "PodDisruptionBudget", "Service"]
    assert [resource["apiVersion"] for resource in RESOURCES] == [
        "batch/v1", "apps/v1", "v1", "policy/v1"
    ]  # fmt: skip


@pytest.mark.parametrize("pod", PODS, ids=[p["containers"][0]["name"] for p in PODS])
def test_a_pod_may_do_no_more_than_it_needs(pod):
    """Nobody is root, nothing is written but volumes, and nothing takes more than its limits."""
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 9999
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["terminationGracePeriodSeconds"] > 0
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert container["image"] == f"seq2edge:{__version__}"
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert volumes == {mount["name"] for mount in container["volumeMounts"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/models"]["readOnly"]
    assert "/tmp" in mounts


def test_the_server_is_probed_and_drained():
    """Ready and alive are two questions, and who ends has longer than its answers take."""
    (container,) = KINDS["Deployment"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    paths = {
        name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")
    }
    assert {get["port"] for get in paths.values()} == {"http"}
    assert [paths[name]["path"] for name in paths] == ["/ready", "/ready", "/health"]
    assert f"--port={ports['http']}" in container["args"]
    (drain,) = (int(each.split("=")[1]) for each in container["args"] if "--drain" in each)
    pod = KINDS["Deployment"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > drain
    labels = KINDS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "Deployment", "PodDisruptionBudget"):
        selector = KINDS[kind]["spec"]["selector"]
        assert selector.get("matchLabels", selector) == labels


@pytest.mark.parametrize("pod", PODS, ids=[p["containers"][0]["name"] for p in PODS])
def test_what_pods_call_exists(pod):
    """The command, its arguments and its options; and as many processors as they use."""
    (container,) = pod["containers"]
    check_command(container["args"])
    values = dict(re.findall(r"--(\w+)=(\d+)", " ".join(container["args"])))
    used = int(values["threads"]) * int(values.get("processes", 1))
    assert int(container["resources"]["limits"]["cpu"]) == used


def test_the_image_runs_as_nobody():
    """By a number, which Kubernetes can tell is not root's; what it calls exists."""
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]
    steps = dict(lines)
    assert re.fullmatch(r"[1-9]\d{4,}:[1-9]\d{4,}", steps["USER"])
    assert steps["ENTRYPOINT"] == '["seq2edge"]'
    assert steps["STOPSIGNAL"] == "SIGTERM"
    assert [name for name, _ in lines].index("USER") > [name for name, _ in lines].index("COPY")
    check_command(shlex.split(steps["CMD"].strip("[]").replace(",", " ")))
