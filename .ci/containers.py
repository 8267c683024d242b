"""Images and containers without an engine: built by buildah, run in namespaces that are made here."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BASE = "localhost/visualtl-test-base"
ROOT = Path(__file__).resolve().parents[1]
PROGRESS = "http://127.0.0.1:8888/data/plugin/scalars/scalars?run=.&tag=progress"
# The machine's certificates and settings of pip: seen while the image is built, no part of it.
OF_THIS_MACHINE = {
    os.environ.get(
        "SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"
    ): "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pip.conf": "/etc/pip.conf",
    os.path.expanduser("~/.config/pip/pip.conf"): "/root/.config/pip/pip.conf",
}
# What an engine does before it starts process 1. $root, $volumes ("source target ro|rw" a line), $read_only
CONTAINER = r"""
set -eu
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm"; mount -t tmpfs -o mode=1777,size=64m tmpfs "$root/dev/shm"
printf '%s' "$volumes" | while read -r source target mode; do
    mount --bind "$source" "$root$target"
    [ "$mode" = rw ] || mount -o remount,bind,ro "$root$target"
done
[ -z "$read_only" ] || mount -o remount,bind,ro "$root"
ip link set lo up
cd "$root"
exec "$@"
"""


def say(text: str) -> None:
    print(f"image-test: {text}", flush=True)


def expect(condition: object, what: str, seen: object = "") -> None:
    """Say what holds; end with status 1 if it does not."""
    if not condition:
        sys.exit(f"image-test: FAILED: {what}\n{seen}")
    say(f"ok: {what}")


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something that has to come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            expect(False, f"{what} within {seconds:g} s")
        time.sleep(0.2)


# The image


class Buildah:
    """buildah with a storage of its own."""

    def __init__(self, work: Path) -> None:
        self.words = ["buildah", "--root", str(work / "storage"), "--runroot", str(work / "run")]
        self.work = work
        os.environ["BUILDAH_ISOLATION"] = "chroot"

    def __call__(self, *arguments: str) -> str:
        """What a command prints."""
        done = subprocess.run([*self.words, *arguments], stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.strip()

    def sizes(self) -> dict[str, str]:
        """Images, NAME:TAG, and how large they are."""
        lines = self("images", "--format", "{{.Name}}:{{.Tag}}={{.Size}}").splitlines()
        return dict(line.split("=") for line in lines)

    def make_base(self) -> None:
        """A Debian with Python, as `python:3.11-slim-bookworm` is one; it stays for the next time."""
        if BASE + ":latest" in self.sizes():
            return
        folder = self.work / "base"
        shutil.rmtree(folder, ignore_errors=True)
        packages = "--include=python3,python3-pip,python3-venv,ca-certificates"
        command = ["debootstrap", "--variant=minbase", packages, "bookworm", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder / "var" / "cache" / "apt" / "archives")
        made = self("from", "scratch")
        self("add", "-q", made, str(folder), "/")
        self("commit", "-q", "--rm", made, BASE)
        shutil.rmtree(folder)


@dataclass
class Image:
    """A built image with a container of it mounted at `root`."""

    buildah: Buildah
    name: str
    container: str
    root: Path
    config: dict[str, Any]

    @staticmethod
    def build(work: Path, variant: str, keep: bool) -> Image:
        """Build the image, on a base that is made the first time; say how long it took and how large it is.

        keep: take the image that was left there, if one was.
        """
        buildah = Buildah(work)
        buildah.make_base()
        name = f"localhost/visualtl-test:{variant}"
        mounts = {source: target for source, target in OF_THIS_MACHINE.items() if Path(source).is_file()}
        if not (keep and name in buildah.sizes()):
            started = time.monotonic()
            options = [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
            command = ["make", "image", f"VARIANT={variant}", f"IMAGE={name}", f"BASE_IMAGE={BASE}"]
            command += [f"BUILD={shlex.join([*buildah.words, 'bud', '--format', 'docker'])}"]
            command += [f"BUILD_OPTIONS={shlex.join(options)}"]
            with open(work / f"build-{variant}.log", "w") as log:
                done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
            expect(done.returncode == 0, f"the {variant} image is built ({work / f'build-{variant}.log'})")
            say(f"that took {time.monotonic() - started:.0f} s")
        sizes = buildah.sizes()
        say(f"the image has {sizes[name]}, of which the base is {sizes[BASE + ':latest']}")
        container = buildah("from", name)
        config = json.loads(buildah("inspect", "--type", "image", name))["Docker"]["config"]
        image = Image(buildah, name, container, Path(buildah("mount", container)), config)
        for target in list(mounts.values())[1:]:
            inside = image.root / target[1:]
            empty = not inside.exists() or not inside.stat().st_size
            expect(empty, f"nothing of this machine's {target} is in the image")
        return image

    def remove(self, keep: bool) -> None:
        """Remove the container and, unless it is kept, the image; the base stays for the next time."""
        self.buildah("rm", self.container)
        if not keep:
            self.buildah("rmi", self.name)


@dataclass
class Container:
    """Process 1 of a container of `image`, and how to reach it."""

    outer: subprocess.Popen[str]
    root: Path
    pid: int = field(init=False, default=0)  # of a command that is over already there is none

    def __post_init__(self) -> None:
        children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children")

        def started() -> bool:
            for pid in children.read_text().split():
                self.pid = int(pid)
            return self.outer.poll() is not None or (bool(self.pid) and self._is_inside())

        until(started, 60, "the container starts")

    def _is_inside(self) -> bool:
        """Whether the image is its root by now; before that, it sees this machine."""
        try:
            return os.readlink(f"/proc/{self.pid}/root") == str(self.root)
        except OSError:  # it is over
            return False

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """What `docker exec` does."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--net", "--root", "--wd"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, timeout=60)

    def points(self) -> list[list[float]]:
        """The progress, as a platform asks for it."""
        command = ["curl", "-s", "--noproxy", "*", "-X", "POST", PROGRESS]
        done = subprocess.run(
            ["nsenter", "--target", str(self.pid), "--net", *command], capture_output=True, text=True
        )
        return list(json.loads(done.stdout)) if done.stdout.startswith("[") else []

    def wait(self, seconds: float = 1800) -> tuple[int, str]:
        """Exit status and everything that was printed."""
        output, _ = self.outer.communicate(timeout=seconds)
        return self.outer.returncode, output


@contextmanager
def running(
    image: Image,
    command: Sequence[str],
    volumes: dict[str, str],
    user: str = "0:0",
    read_only: bool = False,
    **env: str,
) -> Iterator[Container]:
    """`docker run` of a command. volumes: "target" or "target:ro" in the container -> path here."""
    lines = []
    for target, source in volumes.items():
        place, _, mode = target.partition(":")
        inside = image.root / place[1:]
        if Path(source).is_dir():
            inside.mkdir(parents=True, exist_ok=True)
        lines.append(f"{source} {place} {mode or 'rw'}\n")
    settings = [f"{key}={value}" for key, value in env.items()]
    words = [
        "env",
        "-i",
        *image.config["Env"],
        *settings,
        "chroot",
        f"--userspec={user}",
        "--groups=",
        str(image.root),
    ]
    words += [
        "sh",
        "-c",
        'cd "$0" && exec "$@"',
        image.config["WorkingDir"],
        *image.config["Entrypoint"],
        *command,
    ]
    outer = subprocess.Popen(
        [
            "unshare",
            "--mount",
            "--pid",
            "--net",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            CONTAINER,
            "sh",
            *words,
        ],
        env={
            "PATH": os.environ["PATH"],
            "root": str(image.root),
            "volumes": "".join(lines),
            "read_only": "1" * read_only,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield Container(outer, image.root)
    finally:
        if outer.poll() is None:
            outer.kill()
            outer.wait()
