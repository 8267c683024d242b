"""The files that make and run the container image, as far as they can be held to their word without an engine."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml  # type: ignore[import-untyped]
from compose_spec import PyCompose

from common import __version__
from common.config.command_line import parse
from common.config.reading import configuration
from common.errors import JobError
from common.reporting import supervisor
from common.reporting.server_process import ProgressServer
from detect.config import YOLOv3Config
from tests.helpers.polling import eventually

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("common", "detect", "classification", "reid", "landmark")
PIN = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.M)


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", "")
    return [
        (name, " ".join(rest.split()) if name != "RUN" else rest)
        for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())
    ]


def pins(text: str) -> set[tuple[str, str]]:
    """(name, version) of every entry; a package may have another version for another Python."""
    return set(PIN.findall(text))


def names(pinned: set[tuple[str, str]]) -> set[str]:
    return {name for name, _ in pinned}


def only(name: str) -> list[str]:
    return [arguments for instruction, arguments in instructions() if instruction == name]


# What the image is made of


def install(
    tmp_path: Path, **arguments: str
) -> tuple[subprocess.CompletedProcess[str], set[tuple[str, str]], list[str]]:
    """Run the first stage's command with a Python that notes what it is asked for.

    Returns how it ended, the pins that are installed, and the command lines of pip.
    """
    for name in ("requirements.lock", "requirements-gpu.lock", "requirements-torch.lock"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / "programs"
    programs.mkdir()
    noted = tmp_path / "noted"
    (programs / "python3").write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(noted))}\n')
    (programs / "python3").chmod(0o755)
    venv = tmp_path / "venv"
    (venv / "lib").mkdir(parents=True)
    command = next(run for run in only("RUN") if "chosen.lock" in run).replace("/opt/venv", str(venv))
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=tmp_path,
        env={"PATH": f"{programs}:/usr/bin:/bin", "VARIANT": "cpu", "MXNET": "", **arguments},
        capture_output=True,
        text=True,
    )
    lock = tmp_path / "chosen.lock"
    text = lock.read_text() if lock.exists() else ""
    # An entry without a hash, or a hash without an entry, would be what is left of one that was cut in two.
    entries = re.findall(r"^\S+==\S+(?: ; [^\\\n]+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+$", text, re.M)
    assert len({entry.split(" ")[0] for entry in entries}) == len(pins(text))
    assert text.count("--hash") == sum(entry.count("--hash") for entry in entries)
    return done, pins(text), noted.read_text().splitlines() if noted.exists() else []


def test_the_cpu_image_has_exactly_the_locked_packages(tmp_path: Path) -> None:
    done, installed, asked = install(tmp_path)
    assert done.returncode == 0, done.stderr
    assert installed == pins((ROOT / "requirements.lock").read_text())
    assert all("--require-hashes" in line and "--no-deps" in line for line in asked if " install " in line)


def test_the_gpu_image_has_the_cuda_build_in_place_of_the_other_and_nvidias_libraries(tmp_path: Path) -> None:
    done, installed, _ = install(tmp_path, VARIANT="gpu")
    assert done.returncode == 0, done.stderr
    cpu, gpu = (pins((ROOT / name).read_text()) for name in ("requirements.lock", "requirements-gpu.lock"))
    assert names(cpu) & names(gpu) == set()
    assert installed == {pin for pin in cpu if pin[0] != "mxnet"} | gpu
    assert dict(gpu)["mxnet-cu117"] == dict(cpu)["mxnet"]
    others = names(gpu) - {"mxnet-cu117"}
    assert all(name.startswith("nvidia-") and name.endswith("-cu11") for name in others)
    assert len(others) == 10


def test_the_image_for_newer_gpus_has_pytorch_beside_the_locked_packages(tmp_path: Path) -> None:
    done, installed, _ = install(tmp_path, VARIANT="torch")
    assert done.returncode == 0, done.stderr
    cpu, torch = (
        pins((ROOT / name).read_text()) for name in ("requirements.lock", "requirements-torch.lock")
    )
    assert installed == cpu | torch
    assert {"torch", "nvidia-cudnn-cu13", "nvidia-nccl-cu13"} <= names(torch)
    # On Python 3.10 these are there already.
    assert names(cpu) & names(torch) == {"mpmath", "sympy"}


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_an_mxnet_of_ones_own_takes_the_place_of_the_published_one(tmp_path: Path, variant: str) -> None:
    wheel = "mxnet_cu118-1.9.1-py3-none-manylinux2014_x86_64.whl"
    done, installed, asked = install(tmp_path, VARIANT=variant, MXNET=f"wheels/{wheel}")
    assert done.returncode == 0, done.stderr
    assert not [name for name in names(installed) if name.startswith("mxnet")]
    assert "numpy" in names(installed)
    assert ("nvidia-cudnn-cu11" in names(installed)) == (variant == "gpu")
    assert asked[-1].endswith(f" --no-deps ./{wheel}")


def test_an_unknown_variant_is_an_error_that_names_the_known_ones(tmp_path: Path) -> None:
    done, _, asked = install(tmp_path, VARIANT="cuda")
    assert done.returncode == 1
    assert done.stderr == "VARIANT is 'cuda'; it must be cpu, gpu or torch\n"
    assert asked == []


def test_the_image_holds_what_a_job_needs_and_no_more() -> None:
    copied = [source for arguments in only("COPY") for source in shlex.split(arguments)[:-1]]
    copied = [source for source in copied if not source.startswith(("-", "/", "$"))]
    assert {*FOLDERS, "configs", "LICENSE", "NOTICE"} <= set(copied)
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in allowed), f"{source} is ignored"
    for pattern in allowed:
        assert "*" in pattern or (ROOT / pattern).exists(), pattern
    demo = json.loads((ROOT / "configs" / "demo.json").read_text())
    assert demo["dataset"]["data_root"] in copied


def test_code_comes_after_everything_that_takes_long() -> None:
    order = [f"{name} {arguments}" for name, arguments in instructions()]
    code = min(index for index, line in enumerate(order) if re.match(r"COPY common ", line))
    slow = max(index for index, line in enumerate(order) if "apt-get" in line or "COPY --from" in line)
    assert slow < code


def test_the_image_says_its_version_and_runs_a_python_that_mxnet_has() -> None:
    assert f'org.opencontainers.image.version="{__version__}"' in only("LABEL")[0]
    assert only("ARG")[0].startswith("BASE_IMAGE=python:3.11-")
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{__version__}"' in project
    assert 'requires-python = ">=3.10,<3.12"' in project


def test_libraries_of_the_system_are_those_that_the_two_commands_ask_for() -> None:
    asked = re.search(r"apt-get install (lib[^)]*)\)", (ROOT / ".ci" / "requirements.sh").read_text())
    assert asked
    install_line = next(run for run in only("RUN") if "apt-get install" in run)
    assert set(asked[1].split()) <= set(install_line.split())


def test_signals_reach_the_job_and_the_contracts_command_line_works() -> None:
    assert only("ENTRYPOINT") == ['["tini", "--"]']
    command = json.loads(only("CMD")[0])
    assert command[0] == "python3"
    assert (ROOT / command[1]).is_file()
    assert only("EXPOSE") == ["8888"]
    assert only("USER") == []


def test_the_dockerfile_is_clean() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# Health


def healthy(port: int) -> bool:
    arguments = only("HEALTHCHECK")[0]
    command = json.loads(arguments[arguments.index("[") :])
    assert command[0] == "python3"
    code = command[-1].replace("8888", str(port))
    done = subprocess.run(
        [sys.executable, *command[1:-1], code], capture_output=True, env={"http_proxy": "http://127.0.0.1:9"}
    )
    return done.returncode == 0


def test_a_job_is_healthy_until_it_is_stuck(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert not healthy(nobody.getsockname()[1])
    with ProgressServer(tmp_path, 0, stuck_after=2.0) as server:
        server.publish([(time.time(), 1, 0.0)])
        eventually(lambda: healthy(server.port))
        eventually(lambda: not healthy(server.port))


# Kubernetes and Compose


def kubernetes() -> dict[str, dict[str, Any]]:
    documents = list(yaml.safe_load_all((ROOT / "configs" / "kubernetes-job.yaml").read_text()))
    assert all(document["apiVersion"] for document in documents)
    return {document["kind"]: document for document in documents}


def container() -> dict[str, Any]:
    containers = kubernetes()["Job"]["spec"]["template"]["spec"]["containers"]
    assert len(containers) == 1
    return dict(containers[0])


def test_the_kubernetes_job_runs_a_valid_configuration() -> None:
    parts = kubernetes()
    pod = parts["Job"]["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount for mount in container()["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert volumes["config"]["configMap"]["name"] == parts["ConfigMap"]["metadata"]["name"]
    script, *options = container()["args"][1:]
    assert (ROOT / script).is_file()
    given = parse(YOLOv3Config, options, "")
    assert given.resume
    name = given.config.relative_to(mounts["config"]["mountPath"]).as_posix()
    config = configuration(YOLOv3Config, json.loads(parts["ConfigMap"]["data"][name]))
    assert str(config.log_dir).startswith(mounts["out"]["mountPath"] + "/")
    assert str(config.dataset.data_root).startswith(mounts["data"]["mountPath"] + "/")
    assert not mounts["out"].get("readOnly")
    assert len(config.gpus) == container()["resources"]["limits"]["nvidia.com/gpu"]
    assert mounts["models"]["mountPath"] == "/root/.mxnet/models"


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
def test_kubernetes_knows_every_field_of_the_manifest(version: str) -> None:
    for document in kubernetes().values():
        kubernetes_validate.validate(document, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_found() -> None:
    job = kubernetes()["Job"]
    job["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        kubernetes_validate.validate(job, "1.29", strict=True)


def test_the_kubernetes_job_can_be_polled_without_a_sidecar() -> None:
    parts = kubernetes()
    labels = parts["Job"]["spec"]["template"]["metadata"]["labels"]
    assert parts["Service"]["spec"]["selector"].items() <= labels.items()
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    (service,) = parts["Service"]["spec"]["ports"]
    assert ports[service["targetPort"]] == service["port"] == 8888


def test_the_kubernetes_job_is_replaced_unless_its_configuration_is_wrong() -> None:
    spec = kubernetes()["Job"]["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # what podFailurePolicy asks for
    (rule,) = (rule for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "FailJob")
    assert rule["onExitCodes"]["containerName"] == container()["name"]
    of_no_use = {error("").exit_status for error in JobError.__subclasses__() if not error.retry}
    assert set(rule["onExitCodes"]["values"]) == of_no_use
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] > 2 * supervisor.PATIENCE
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["ttlSecondsAfterFinished"] > 0
    assert container()["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_the_kubernetes_job_is_asked_whether_it_gets_on_and_talks_to_nobody() -> None:
    for probe in ("readinessProbe", "livenessProbe"):
        assert container()[probe]["httpGet"] == {"path": "/healthz", "port": "progress"}
    parts = kubernetes()
    assert parts["Job"]["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    policy = parts["NetworkPolicy"]["spec"]
    labels = parts["Job"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []
    assert policy["ingress"][0]["ports"] == [{"port": "progress", "protocol": "TCP"}]
    assert {"cpu", "memory"} <= container()["resources"]["limits"].keys()


def test_the_kubernetes_job_keeps_the_images_entry_point_and_writes_only_where_it_may() -> None:
    assert "command" not in container()
    assert container()["image"].startswith(f"visualtl:{__version__}")
    assert container()["securityContext"]["readOnlyRootFilesystem"]
    assert kubernetes()["Job"]["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"]
    mounts = {mount["mountPath"] for mount in container()["volumeMounts"] if not mount.get("readOnly")}
    assert mounts == {"/out", "/tmp"}


def composed(text: str, **environment: str) -> dict[str, Any]:
    """A compose file as compose sees it: variables replaced, aliases merged, extensions left out."""

    def value(match: re.Match[str]) -> str:
        name, kind, other = match.groups()
        if name not in environment and kind == ":?":
            raise KeyError(f"{name}: {other}")
        return environment.get(name, other)

    read = yaml.safe_load(re.sub(r"\$\{(\w+)(:[-?])([^}]*)\}", value, text))
    return {key: part for key, part in read.items() if not key.startswith("x-")}


def test_compose_knows_every_field_and_asks_for_the_folders_that_it_needs() -> None:
    text = (ROOT / "configs" / "compose.yaml").read_text()
    known = composed(text, DATA="/data/cats", OUT="/data/cats_out")
    assert PyCompose.from_json(json.dumps(known)).service_names() == ["train", "train-gpu"]
    with pytest.raises(KeyError, match="OUT: the folder for logs and results"):
        composed(text, DATA="/data/cats")
    known["services"]["train"]["read_onyl"] = True
    with pytest.raises(ValueError, match="read_onyl"):
        PyCompose.from_json(json.dumps(known))


def test_compose_runs_the_same_job_on_cpu_and_gpu() -> None:
    services = yaml.safe_load((ROOT / "configs" / "compose.yaml").read_text())["services"]
    assert {service["image"] for service in services.values()} == {
        f"visualtl:{__version__}",
        f"visualtl:{__version__}-gpu",
    }
    for name, service in services.items():
        python, script, *options = service["command"]
        assert python == "python3"
        assert (ROOT / script).is_file()
        assert parse(YOLOv3Config, options, "").resume
        assert [port.rpartition(":")[2] for port in service["ports"]] == ["8888"]
        assert {volume.split(":")[-1 - volume.endswith(":ro")] for volume in service["volumes"]} == {
            "/data",
            "/out",
            "/root/.mxnet/models",
        }
        assert service["read_only"]
        assert service["tmpfs"] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"]
        assert not service["user"].startswith(("0", "${USER_ID:-0}"))
        assert service["ports"][0].startswith("127.0.0.1:")
        assert {"cpus", "mem_limit", "pids_limit"} <= service.keys()
        assert "entrypoint" not in service
        assert bool(service.get("deploy")) == name.endswith("gpu")


# Several ranks

RANKED = ("kubeflow-trainjob.yaml", "kubeflow-pytorchjob.yaml")


def ranked(name: str) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Of a manifest for several machines: the job's configuration, its specification, and what its machines run."""
    settings, job = yaml.safe_load_all((ROOT / "configs" / name).read_text())
    if job["kind"] == "TrainJob":
        return json.loads(settings["data"]["job.json"]), job["spec"], [job["spec"]["trainer"]]
    replicas = job["spec"]["pytorchReplicaSpecs"].values()
    containers = [replica["template"]["spec"]["containers"][0] for replica in replicas]
    return json.loads(settings["data"]["job.json"]), job["spec"], containers


@pytest.mark.parametrize("name", RANKED)
def test_the_manifests_for_several_machines_run_a_valid_configuration_with_a_rank_a_gpu(name: str) -> None:
    values, spec, machines = ranked(name)
    config = configuration(YOLOv3Config, values)
    machines_count = spec["trainer"]["numNodes"] if "trainer" in spec else len(machines)
    of_a_machine = int(spec["trainer"]["numProcPerNode"] if "trainer" in spec else spec["nprocPerNode"])
    assert config.engine == "torch"
    assert len(config.gpus) == of_a_machine
    assert config.train.batch_size % (2 * machines_count * of_a_machine) == 0
    for machine in machines:
        launcher, script, *options = machine["args"]
        assert launcher == "torchrun"
        assert (ROOT / script).is_file()
        assert parse(YOLOv3Config, options, "").resume
        resources = machine.get("resources") or machine["resourcesPerNode"]
        assert int(resources["limits"]["nvidia.com/gpu"]) == of_a_machine
        assert machine["image"] == f"visualtl:{__version__}-torch"


def test_kubernetes_knows_every_field_of_the_pytorchjobs_pods() -> None:
    _, job = yaml.safe_load_all((ROOT / "configs" / "kubeflow-pytorchjob.yaml").read_text())
    for replica in job["spec"]["pytorchReplicaSpecs"].values():
        pod = {"apiVersion": "v1", "kind": "Pod", **replica["template"]}
        kubernetes_validate.validate(pod, "1.33", strict=True)
    volumes = {
        kind: {volume["name"]: volume for volume in replica["template"]["spec"]["volumes"]}
        for kind, replica in job["spec"]["pytorchReplicaSpecs"].items()
    }
    assert "persistentVolumeClaim" in volumes["Master"]["out"]
    assert "emptyDir" in volumes["Worker"]["out"]  # rank 0 alone writes


def test_compose_runs_two_ranks_that_share_no_folder_to_write_in() -> None:
    text = (ROOT / "configs" / "compose-ranks.yaml").read_text()
    known = composed(text, DATA="/data/cats", OUT="/data/cats_out")
    assert PyCompose.from_json(json.dumps(known)).service_names() == ["first", "second"]
    places = []
    for service in known["services"].values():
        words = service["command"]
        script = words.index("detect/fit_yolov3.py")
        places.append(dict(zip(words[1:script:2], words[2:script:2], strict=True)))
        assert parse(YOLOv3Config, words[script + 1 :], "").resume
    first, second = places
    assert (first.pop("--node-rank"), second.pop("--node-rank")) == ("0", "1")
    assert first == second
    assert first["--nnodes"] == "2"
    assert first["--master-addr"] == known["services"]["first"]["hostname"]
    assert any("/out" in volume for volume in known["services"]["first"]["volumes"])
    assert not any("/out" in volume for volume in known["services"]["second"]["volumes"])
