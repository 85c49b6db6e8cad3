"""The manifests for Kubernetes: fields that exist, commands that exist, ports that exist, and pods without rights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import typer
import yaml

from fedinfer.cli.main import app

ROOT = Path(__file__).parents[2]
FILES = (ROOT / "server/kubernetes/server.yaml", ROOT / "clients/kubernetes/device.yaml")
VERSIONS = ("1.29", "1.33", "1.37")
PAGE = (ROOT / "docs/how-to/kubernetes.md").read_text()


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pod(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in documents(path) if each["kind"] == "StatefulSet")
    template: dict[str, Any] = found["spec"]["template"]
    return template


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_field_is_one_of_kubernetes(path: Path) -> None:
    for document in documents(path):
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)
    wrong = documents(path)[-1]
    wrong["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_command_is_understood(path: Path) -> None:
    for container in pod(path)["spec"]["containers"]:
        program, *words = container["command"]
        assert program == "fedinfer"
        command: click.Command = typer.main.get_command(app)
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None
            command = found
        assert command.make_context(container["name"], words).params


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_probes_services_and_policies_name_ports_and_pods_that_are_there(path: Path) -> None:
    template = pod(path)
    containers = template["spec"]["containers"]
    ports = {port["name"] for each in containers for port in each.get("ports", ())}
    labels = template["metadata"]["labels"].items()
    for container in containers:
        own = {port["name"] for port in container.get("ports", ())}
        for probe in (container[name] for name in container if name.endswith("Probe")):
            assert (probe.get("httpGet") or probe["tcpSocket"])["port"] in own
            hosts = [each["value"] for each in (probe.get("httpGet") or {}).get("httpHeaders", ())]
            assert all(f"--allow-host={host}" in container["command"] for host in hosts)
    for document in documents(path):
        if document["kind"] == "Service":
            assert document["spec"]["selector"].items() <= labels
            assert {port["targetPort"] for port in document["spec"]["ports"]} <= ports
        if document["kind"] == "NetworkPolicy":
            assert document["spec"]["podSelector"]["matchLabels"].items() <= labels
            assert {port["port"] for rule in document["spec"]["ingress"] for port in rule["ports"]} <= ports
        if document["kind"] == "StatefulSet":
            claims = {each["metadata"]["name"] for each in document["spec"]["volumeClaimTemplates"]}
            volumes = claims | {each["name"] for each in template["spec"]["volumes"]}
            for container in (*containers, *template["spec"]["initContainers"]):
                assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_pods_have_no_rights(path: Path) -> None:
    """Pod Security Standards, level `restricted`, and a file system that cannot be written."""
    spec = pod(path)["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in (*spec["initContainers"], *spec["containers"]):
        locked = container["securityContext"]
        assert locked["capabilities"] == {"drop": ["ALL"]}
        assert (locked["allowPrivilegeEscalation"], locked["readOnlyRootFilesystem"]) == (False, True)
    assert f"--uid {spec['securityContext']['runAsUser']} " in (ROOT / "clients/Dockerfile").read_text()


def test_the_page_names_the_containers_that_it_enters() -> None:
    names = {
        each["name"]
        for path in FILES
        for each in (*pod(path)["spec"]["initContainers"], *pod(path)["spec"]["containers"])
    }
    named = {
        line.split(" -c ")[1].split()[0]
        for line in PAGE.splitlines()
        if line.startswith("$ kubectl") and " -c " in line
    }
    assert named <= names
