# SPDX-License-Identifier: Apache-2.0
"""The files of deploy/: they parse, the flags in them exist, and what refers to each other agrees."""

import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

from server import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
SYSTEMD = ROOT / "deploy" / "systemd"


@pytest.fixture(scope="module")
def documents():
    names = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    return [document for name in names for document in yaml.safe_load_all((KUBERNETES / name).read_text())]


@pytest.fixture(scope="module")
def known_flags(halfmoon_run):
    """Long flags of each command."""
    return {command: set(re.findall(r"--[a-z][a-z0-9-]*", halfmoon_run(command, "--help").stdout))
            for command in ("serve", "conductor")}


def pods(documents):
    return [(document["metadata"]["name"], document["spec"]["template"]["spec"]) for document in documents
            if document["kind"] in ("Deployment", "StatefulSet")]


def test_every_file_is_listed():
    listed = set(yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"])
    assert listed == {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}


def test_flags_and_environment_exist(documents, known_flags):
    for name, pod in pods(documents):
        for container in pod["containers"]:
            flags = known_flags[container["args"][0]]
            assert {argument for argument in container["args"] if argument.startswith("--")} <= flags, name
            for variable in container["env"]:
                if variable["name"].startswith("HALFMOON_"):
                    assert "--" + variable["name"].removeprefix("HALFMOON_").lower().replace("_", "-") in flags, variable


def test_selectors_find_their_pods(documents):
    labels = [document["spec"]["template"]["metadata"]["labels"] for document in documents
              if document["kind"] in ("Deployment", "StatefulSet")]
    for document in documents:
        selector = document["spec"].get("selector") or document["spec"].get("podSelector")
        if selector is None:
            continue
        wanted = selector.get("matchLabels", selector)
        assert any(wanted.items() <= pod.items() for pod in labels), document["metadata"]["name"]


def test_pods_have_probes_and_time_to_drain(documents):
    for name, pod in pods(documents):
        (container,) = pod["containers"]
        assert container["readinessProbe"]["httpGet"]["path"] == "/ready", name
        assert container["livenessProbe"]["httpGet"]["path"] == "/health", name
        grace = next(int(variable["value"]) for variable in container["env"] if variable["name"] == "HALFMOON_GRACE_SECONDS")
        assert pod["terminationGracePeriodSeconds"] > grace, name
        assert pod["securityContext"]["runAsNonRoot"] and not container["securityContext"]["allowPrivilegeEscalation"]


def test_every_workload_has_a_disruption_budget(documents):
    budgets = [document["spec"]["selector"]["matchLabels"] for document in documents if document["kind"] == "PodDisruptionBudget"]
    workloads = [document["spec"]["selector"]["matchLabels"] for document in documents
                 if document["kind"] in ("Deployment", "StatefulSet")]
    assert sorted(map(str, budgets)) == sorted(map(str, workloads))


def test_readme_names_flags_that_exist(known_flags):
    text = (ROOT / "deploy" / "README.md").read_text()
    every = known_flags["serve"] | known_flags["conductor"]
    for variable in re.findall(r"\bHALFMOON_([A-Z_]+)=", text):
        assert "--" + variable.lower().replace("_", "-") in every, variable


@pytest.mark.parametrize("unit", sorted(path.name for path in SYSTEMD.glob("*.service")))
def test_units_are_what_systemd_understands(unit, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    text = (SYSTEMD / unit).read_text().replace("/usr/local/bin/halfmoon", "/bin/true")
    target = tmp_path / unit.replace("@.", "@one.")
    target.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", target], capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stderr.splitlines() if unit.split("@")[0].removesuffix(".service") in line]
    assert not complaints, done.stderr


def test_units_give_time_to_drain():
    for path in SYSTEMD.glob("*.service"):
        text = path.read_text()
        grace = int(re.search(r"HALFMOON_GRACE_SECONDS=(\d+)", text).group(1))
        assert int(re.search(r"TimeoutStopSec=(\d+)", text).group(1)) > grace, path


def test_container_has_what_the_program_links(halfmoon):
    """Every shared library of the program comes with a package that the image installs, or with its base."""
    if shutil.which("ldd") is None:
        pytest.skip("ldd is not here")
    linked = subprocess.run(["ldd", halfmoon], capture_output=True, text=True, check=True).stdout
    installed = (ROOT / "deploy" / "Containerfile").read_text()
    packages = {"libboost_json": "libboost-json", "libprometheus-cpp-core": "libprometheus-cpp-core", "libspdlog": "libspdlog",
                "libfmt": "libspdlog", "libssl": "libssl3", "libcrypto": "libssl3", "liburing": "liburing",
                "libz": "zlib1g", "libboost_container": "libboost-json"}
    base = ("linux-vdso", "libstdc++", "libm.", "libgcc_s", "libc.", "ld-linux", "libdl", "libpthread", "librt")
    for name in re.findall(r"^\s*(?:/\S*/)?([\w.+-]+\.so\S*)", linked, re.MULTILINE):
        stem = re.split(r"\.so|-\d", name)[0]
        assert name.startswith(base) or packages[stem] in installed, name
