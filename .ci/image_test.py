"""Build the container image and run jobs in it, on a machine without a container engine: `make image-test`.

    python3 .ci/image_test.py [--variant gpu|torch] [--work FOLDER] [--keep]

Needs root, and Debian's buildah and debootstrap; the GPU variant gcc too. The image is built by buildah (chroot
isolation) on a base of this machine's Debian mirror. Jobs run in namespaces of their own (mounts, processes, network)
that are made here as an engine makes them: the image's entry point is process 1, port 8888 is nobody else's, data and
results are mounted. What is not tried: docker itself, and GPUs. The images for GPUs run on the CPU: MXNet's with a
library in the place of the driver's that says that there is no GPU, PyTorch's without a driver.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from containers import Container, Image, expect, running, say, until

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "tests" / "data" / "blood_cells"
# Libraries that come with the driver.
DRIVERS = {"libcuda.so.1"}
RESULTS = {"estimator.log", "best_checkpoint.pkl", "valid_data_result.json", "model.json", "status.json"}
JOB = {
    "log_dir": "/out",
    "dataset": {"data_root": "/data", "train_dir": "detect_train", "valid_dir": "detect_valid"},
    "gpus": [],
    "model": {"base_network": "mobilenet1.0", "use_pretrained": False, "data_shape": [96, 96]},
    "train": {"epochs": 2, "batch_size": 8, "num_workers": 2},
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the image and run jobs in it.")
    parser.add_argument("--variant", choices=("cpu", "gpu", "torch"), default="cpu")
    parser.add_argument(
        "--work", type=Path, default=Path("/var/tmp/visualtl-image-test"), help="default: %(default)s"
    )
    parser.add_argument("--keep", action="store_true", help="leave the image, and take one that was left")
    given = parser.parse_args()
    needed = ["buildah", "debootstrap", "unshare", "nsenter", "ip", "curl", "make"]
    missing = [
        name for name in [*needed, *(["gcc"] if given.variant == "gpu" else [])] if not shutil.which(name)
    ]
    if os.getuid() or missing:
        print(
            f"missing: {', '.join(missing) or 'root'}; this needs root and {', '.join(needed)}",
            file=sys.stderr,
        )
        return 1
    given.work.mkdir(parents=True, exist_ok=True)
    image = Image.build(given.work, given.variant, given.keep)
    try:
        {"cpu": check_cpu, "gpu": check_gpu, "torch": check_torch}[given.variant](image, given.work)
    finally:
        image.remove(given.keep)
    return 0


# What is checked


def prepare(work: Path, owner: int = 0) -> dict[str, str]:
    """Data, an empty folder for results, and the job's configuration; as volumes."""
    data, out = work / "data", work / "out"
    for folder in (data, out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for part, count in (("detect_train", 24), ("detect_valid", 8)):
        (data / part).mkdir()
        for path in sorted((DATA / part).glob("*.jpg"))[:count]:
            for file in (path, path.with_suffix(".txt")):
                shutil.copy(file, data / part)
    (data / "detect_yolov3.json").write_text(json.dumps(JOB))
    os.chown(out, owner, owner)
    return {"/data:ro": str(data), "/out": str(out)}


def check_cpu(image: Image, work: Path) -> None:
    """Everything that is promised of the image."""
    expect(image.config["ExposedPorts"] == {"8888/tcp": {}}, "port 8888 is exposed")
    expect(image.config["Labels"]["org.opencontainers.image.title"] == "VisualTL", "the image has its labels")
    expect({"NVIDIA_VISIBLE_DEVICES=all"} <= set(image.config["Env"]), "the NVIDIA variables are set")
    tools = [path for path in ("usr/bin/gcc", "opt/venv/bin/pip") if (image.root / path).exists()]
    expect(not tools, "no build tools are left", tools)
    job = ["python3", "detect/fit_yolov3.py", "--config", "detect_yolov3.json"]
    config = str(work / "data" / "detect_yolov3.json")

    volumes = prepare(work)
    with running(
        image, job, volumes
    ) as container:  # the guide's own example, with nothing mounted in its place
        status, output = container.wait()
    expect(
        status == 1 and "gpus: [0] asked for and not there" in output.splitlines()[-1],
        "a GPU that is not there is named",
        output,
    )

    with running(image, job, {**volumes, "/visualtl/detect_yolov3.json:ro": config}) as container:
        follow(container, image, Path(volumes["/out"]))

    volumes = prepare(work, owner=1000)
    job[-1] = "/data/detect_yolov3.json"
    with running(image, [*job, "--linger", "0"], volumes, "1000:1000", read_only=True) as container:
        root = container.inside("touch", "/visualtl/file")
        status, output = container.wait()
    expect(root.returncode and "Read-only" in root.stderr, "the root is read-only", root.stderr)
    expect(status == 0, "a job runs as user 1000 with a read-only root", output)
    owners = {path.stat().st_uid for path in Path(volumes["/out"]).iterdir()}
    expect(owners == {1000}, "its results are that user's")

    stop_and_resume(image, job, prepare(work))

    models = work / "models"
    models.mkdir(exist_ok=True)
    (models / "yolo3_darknet53_coco.params").write_text("own")
    listing = ["python3", "-m", "common.models", "list", "yolo3_darknet53_coco"]
    with running(
        image, listing, {"/root/.mxnet/models:ro": str(models)}, "1000:1000", read_only=True
    ) as container:
        status, output = container.wait()
    expect(
        status == 0 and "your own file" in output,
        "parameters are mounted at /root/.mxnet/models for any user",
        output,
    )

    with running(image, ["sh", "-c", "(sleep 1 &) ; exec sleep 4"], {}) as container:
        time.sleep(2.5)
        children = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
        states = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in children]
    expect(states and "Z" not in states, "process 1 reaps zombies", states)


def follow(container: Container, image: Image, out: Path) -> None:
    """Poll a job to its end as a platform does."""
    points: list[list[float]] = []

    def polled(step: int, fraction: float) -> bool:
        points[:] = container.points() or points
        return bool(points) and points[-1][1:] >= [step, fraction]

    until(lambda: polled(1, 0.0), 60, "the job answers")
    healthy = container.inside(*image.config["Healthcheck"]["Test"][1:]).returncode
    until(lambda: polled(30, 1.0), 300, "the job comes to its end")
    expect(
        [*dict.fromkeys(int(point[1]) for point in points)] == [1, 2, 10, 20, 30],
        "it is polled through all its steps",
    )
    expect(healthy == 0, "it is healthy while it runs", healthy)
    status, output = container.wait()
    expect(status == 0, "the contract's command line ends with status 0", output)
    results = {path.name for path in out.iterdir()}
    expect(
        results >= RESULTS and any(name.endswith("-symbol.json") for name in results),
        "its results are in /out",
        results,
    )


def stop_and_resume(image: Image, job: Sequence[str], volumes: dict[str, str]) -> None:
    """SIGTERM to process 1, as `docker stop` sends it, and a second container that goes on."""
    out = Path(volumes["/out"])
    with running(image, [*job, "--set", "train.epochs=1000"], volumes) as container:
        until((out / "training_state.pkl").exists, 300, "an epoch ends")
        started = time.monotonic()
        os.kill(container.pid, signal.SIGTERM)
        status, output = container.wait(30)
    expect(
        status == 143,
        f"SIGTERM ends it with status 143 after {time.monotonic() - started:.1f} s",
        (status, output),
    )
    state = json.loads((out / "status.json").read_text())
    expect(state["state"] == "stopped", "status.json says so", state)
    epochs = int(state["epoch"]) + 2
    with running(
        image, [*job, "--resume", "--linger", "0", "--set", f"train.epochs={epochs}"], volumes
    ) as container:
        status, output = container.wait()
    expect(
        status == 0 and "Resuming after epoch" in output, "another container resumes it to its end", output
    )


def check_gpu(image: Image, work: Path) -> None:
    """The GPU image on a machine without a GPU, with and without a driver's library."""
    job = ["python3", "detect/fit_yolov3.py", "--config", "/data/detect_yolov3.json", "--linger", "0"]
    volumes = prepare(work)
    with running(image, job, volumes) as container:
        status, output = container.wait()
    expect(
        status == 1 and "libcuda.so.1" in output.splitlines()[-1],
        "without a driver the job says what is missing",
        output,
    )

    library = next(image.root.glob("opt/venv/lib/python3*/site-packages/mxnet/libmxnet.so"))
    with running(image, ["ldd", "/" + str(library.relative_to(image.root))], {}) as container:
        _, output = container.wait()
    unresolved = re.findall(r"(\S+) => not found", output)
    expect(unresolved == ["libcuda.so.1"], "all libraries but the driver's are in the image", unresolved)

    driver = make_driver(library, work / "driver")
    volumes["/driver:ro"] = str(driver)
    features = "import mxnet; print([f for f in ('CUDA', 'CUDNN', 'NCCL') if mxnet.runtime.Features().is_enabled(f)])"
    with running(image, ["python3", "-c", features], volumes, LD_LIBRARY_PATH="/driver") as container:
        status, output = container.wait()
    expect(
        output.strip() == "['CUDA', 'CUDNN', 'NCCL']", "mxnet is imported, with CUDA, cuDNN and NCCL", output
    )
    with running(image, job, volumes, LD_LIBRARY_PATH="/driver") as container:
        status, output = container.wait()
    expect(status == 0, "a job trains on the CPU", output)
    with running(image, [*job, "--set", "gpus=[0]"], volumes, LD_LIBRARY_PATH="/driver") as container:
        status, output = container.wait()
    expect(
        status == 1 and "gpus: [0] asked for and not there" in output,
        "a GPU that is not there is named",
        output,
    )


def check_torch(image: Image, work: Path) -> None:
    """The image of PyTorch on a machine without a GPU and without a driver."""
    both = "import mxnet, torch; print(torch.version.cuda.split('.')[0], torch.cuda.is_available())"
    with running(image, ["python3", "-c", both], {}) as container:
        status, output = container.wait()
    expect(output.strip() == "13 False", "torch, for CUDA 13, and mxnet are imported in one process", output)

    libraries = [
        str(path.relative_to(image.root))
        for pattern in ("torch/lib/*.so", "mxnet/libmxnet.so")
        for path in image.root.glob(f"opt/venv/lib/python3*/site-packages/{pattern}")
    ]
    with running(image, ["ldd", *(f"/{library}" for library in libraries)], {}) as container:
        _, output = container.wait()
    unresolved = sorted(set(re.findall(r"(\S+) => not found", output)))
    expect(
        len(libraries) > 5 and set(unresolved) <= DRIVERS,
        "all libraries that they need but the driver's are in the image",
        unresolved,
    )

    volumes = prepare(work)
    job = ["python3", "detect/fit_yolov3.py", "--config", "/data/detect_yolov3.json", "--set", "engine=torch"]
    with running(image, job, volumes) as container:
        follow(container, image, Path(volumes["/out"]))
    run = json.loads((work / "out" / "run.json").read_text())
    expect(run["device"]["engine"] == "torch", "PyTorch computed it", run)
    with running(
        image,
        ["python3", "-m", "common.predict", "/out", "/data/detect_valid", "--out", "/tmp/predicted"],
        volumes,
    ) as container:
        status, output = container.wait()
    expect(status == 0, "MXNet predicts with what PyTorch trained", output)

    with running(image, [*job[:4], "--linger", "0", "--set", "gpus=[0]"], prepare(work)) as container:
        status, output = container.wait()
    last = output.splitlines()[-1]
    expect(
        status == 1 and "gpus: [0] asked for and not there" in last, f"of a GPU a job says: {last}", output
    )


def make_driver(mxnet: Path, folder: Path) -> Path:
    """A libcuda.so.1 with the functions that MXNet links to, all of which answer that there is no device."""
    folder.mkdir(exist_ok=True)
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", mxnet], capture_output=True, text=True, check=True
    ).stdout
    names = sorted({match[1] for match in re.finditer(r" U (cu[A-Z]\w*)", symbols)})
    source = "".join(
        f"int {name}(void) {{ return 100; }}\n" for name in sorted({*names, "cuInit", "cuDeviceGetCount"})
    )
    (folder / "driver.c").write_text(source)
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        "-Wl,-soname,libcuda.so.1",
        "-o",
        str(folder / "libcuda.so.1"),
        str(folder / "driver.c"),
    ]
    subprocess.run(command, check=True)
    say(f"a driver of {len(names)} functions stands in for NVIDIA's")
    return folder


if __name__ == "__main__":
    sys.exit(main())
