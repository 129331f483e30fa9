# SPDX-License-Identifier: Apache-2.0
"""deploy/: files that name what there is. Every variable is one of the program's flags, every selector finds its pods, and
systemd accepts the units."""

import pathlib
import re
import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml

from server import ROOT, binary

DEPLOY = ROOT / "deploy"
COMPONENTS = {"conductor": "conductor", "prefill": "serve", "decode": "serve"}


def documents() -> list[dict]:
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text(encoding="utf-8"))
    files = {path.name for path in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert files == {*kustomization["resources"], "kustomization.yaml"}
    found = []
    for name in kustomization["resources"]:
        found += yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text(encoding="utf-8"))
    return found


def named(kind: str) -> dict[str, dict]:
    return {document["metadata"]["name"]: document for document in documents() if document["kind"] == kind}


def workloads() -> dict[str, dict]:
    return named("Deployment") | named("StatefulSet")


def variables_of(halfmoon: pathlib.Path, command: str) -> set[str]:
    text = subprocess.run([halfmoon, command, "--help"], capture_output=True, text=True, check=True, timeout=30).stdout
    return set(re.findall(r"Env:(HALFMOON_[A-Z_]+)", text))


def test_objects_have_names_and_known_kinds():
    versions = {
        "ConfigMap": "v1", "PersistentVolumeClaim": "v1", "Service": "v1", "Deployment": "apps/v1", "StatefulSet": "apps/v1",
        "PodDisruptionBudget": "policy/v1", "NetworkPolicy": "networking.k8s.io/v1",
    }
    seen = set()
    for document in documents():
        assert document["apiVersion"] == versions[document["kind"]]
        assert document["metadata"]["labels"]["app.kubernetes.io/part-of"] == "halfmoon"
        key = (document["kind"], document["metadata"]["name"])
        assert key not in seen
        seen.add(key)


def test_kubernetes_knows_every_field():
    for document in documents():
        kubernetes_validate.validate(document, "1.37", strict=True)


@pytest.mark.parametrize("component", COMPONENTS)
def test_pod_is_probed_drained_and_without_rights(component):
    workload = workloads()[f"halfmoon-{component}"]
    template = workload["spec"]["template"]
    assert workload["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    pod = template["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    [container] = pod["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    grace = int(named("ConfigMap")["halfmoon"]["data"]["HALFMOON_GRACE_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] > pause + grace
    ports = {port["name"] for port in container["ports"]}
    assert container["readinessProbe"]["httpGet"]["port"] in ports
    volumes = {volume["name"] for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


@pytest.mark.parametrize("component", COMPONENTS)
def test_variables_are_flags_of_the_program(halfmoon, component):
    container = workloads()[f"halfmoon-{component}"]["spec"]["template"]["spec"]["containers"][0]
    command = COMPONENTS[component]
    assert container["args"][0] == command
    names = {variable["name"] for variable in container["env"]} | set(named("ConfigMap")["halfmoon"]["data"])
    assert names - {"POD_IP"} <= variables_of(halfmoon, command)


def test_services_budgets_and_policies_select_pods():
    pods = [workload["spec"]["template"]["metadata"]["labels"] for workload in workloads().values()]

    def matches(selector: dict) -> int:
        return sum(selector.items() <= labels.items() for labels in pods)

    for name, service in named("Service").items():
        assert matches(service["spec"]["selector"]) == 1, name
    for name, budget in named("PodDisruptionBudget").items():
        assert matches(budget["spec"]["selector"]["matchLabels"]) == 1, name
        assert workloads()[name]["spec"]["replicas"] > budget["spec"]["maxUnavailable"], name
    assert matches(named("NetworkPolicy")["halfmoon-cluster"]["spec"]["podSelector"]["matchLabels"]) == len(pods)
    for name, workload in named("StatefulSet").items():
        assert workload["spec"]["serviceName"] in named("Service"), name


def test_nodes_join_the_service_of_the_conductor():
    for role in ("prefill", "decode"):
        container = workloads()[f"halfmoon-{role}"]["spec"]["template"]["spec"]["containers"][0]
        join = {entry["name"]: entry.get("value") for entry in container["env"]}["HALFMOON_JOIN"]
        host, port = join.split(":")
        assert int(port) in {entry["port"] for entry in named("Service")[host]["spec"]["ports"]}


def units() -> list[pathlib.Path]:
    return sorted((DEPLOY / "systemd").glob("*.service"))


def test_variables_of_units_are_flags_of_the_program(halfmoon):
    for unit in units():
        text = unit.read_text(encoding="utf-8")
        command = "conductor" if "conductor" in unit.name else "serve"
        assert f"ExecStart=/usr/local/bin/halfmoon {command}" in text
        files = ["conductor.env"] if command == "conductor" else ["serve.env"]
        for name in files:
            assert f"EnvironmentFile=/etc/halfmoon/{name}" in text
            text += (DEPLOY / "systemd" / name).read_text(encoding="utf-8")
        names = set(re.findall(r"^(?:Environment=)?(HALFMOON_[A-Z_]+)=", text, re.MULTILINE))
        assert names and names <= variables_of(halfmoon, command), unit.name


def test_units_leave_time_to_drain():
    for unit in units():
        text = unit.read_text(encoding="utf-8")
        grace = int(re.search(r"HALFMOON_GRACE_SECONDS=(\d+)", text)[1])
        assert int(re.search(r"TimeoutStopSec=(\d+)", text)[1]) > grace


def test_systemd_accepts_the_units(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    for unit in units():
        # The program need not be installed for this.
        text = unit.read_text(encoding="utf-8").replace("/usr/local/bin/halfmoon", str(binary()))
        copy = tmp_path / unit.name.replace("@.", "@prefill.")
        copy.write_text(text, encoding="utf-8")
        verified = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60)
        assert copy.name not in verified.stderr, verified.stderr
        exposure = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=30", copy],
                                  capture_output=True, text=True, timeout=60)
        assert exposure.returncode == 0, exposure.stdout


def test_container_file_builds_and_runs_as_nobody():
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    assert text.count("\nFROM ") == 2
    assert "RUN ./run build" in text
    assert "\nUSER 10001\n" in text
    users = {workload["spec"]["template"]["spec"]["securityContext"]["runAsUser"] for workload in workloads().values()}
    assert users == {10001}
