"""Pretrained parameters: which file is meant, where it is looked for, and how it is fetched.

A name such as `yolo3_darknet53_coco` stands for `NAME-HASH.params`, as the model zoo publishes it (HASH: the first
eight digits of the file's SHA-1), or for a user's own `NAME.params`, in `~/.mxnet/models`; `MXNET_HOME` moves
`~/.mxnet`, `MXNET_GLUON_REPO` names another place to fetch from. What is not there may have come with the project, in
`backbones`. Neither MXNet nor GluonCV is imported.
"""

from __future__ import annotations

import csv
import functools
import glob
import hashlib
import logging
import os
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from common.errors import FetchError, PretrainedError

log = logging.getLogger("visualtl")

_ROOT = Path(__file__).resolve().parents[2]
_PUBLISHED = _ROOT / "configs" / "pretrained.csv"
_BUNDLED = _ROOT / "backbones"
# Where the model zoo of MXNet and GluonCV keeps its files.
_ZOO = "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com"
# Seconds that a connection may stay silent: long enough for slow lines, short enough to say soon that there is none.
_TIMEOUT = 15.0

# What else a job can do whose file is missing.
OR_RANDOM = (
    "or train from random parameters (model.use_pretrained, of detectors also train.pretrained_base: false)"
)


@dataclass(frozen=True)
class Published:
    """Parameters as the model zoo publishes them: the file, its whole SHA-1, and the archive that holds it."""

    file_name: str
    sha1: str
    address: str


def models_folder() -> Path:
    """The folder of pretrained parameters."""
    home = os.environ.get("MXNET_HOME")
    return (Path(home) if home else Path.home() / ".mxnet").expanduser() / "models"


def published_hashes() -> Mapping[str, str]:
    """Name to SHA-1 of what the model zoo publishes and a task here can begin with."""
    return MappingProxyType({row["name"]: row["sha1"] for row in published_files()})


@functools.cache
def published_files() -> list[dict[str, str]]:
    """The rows of configs/pretrained.csv: name, sha1, megabytes (about), figure and images_per_second as published."""
    with open(_PUBLISHED, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def published(name: str) -> Published | None:
    """The published parameters `name`; None if nothing is published under it."""
    sha1 = published_hashes().get(name)
    if sha1 is None:
        return None
    base = os.environ.get("MXNET_GLUON_REPO") or _ZOO
    stem = f"{name}-{sha1[:8]}"
    return Published(f"{stem}.params", sha1, f"{base.rstrip('/')}/gluon/models/{stem}.zip")


def own_file(name: str, folder: Path) -> Path:
    """Where a user's own parameters `name` would lie; they are taken before published ones."""
    return folder / f"{name}.params"


def bundled(name: str) -> Path | None:
    """Path of the parameters called `name` that came with the project, None if there are none.

    Its name has the first eight digits of its SHA-1. Raises PretrainedError if it is damaged.
    """
    path = next(_BUNDLED.glob(f"{glob.escape(name)}-{'[0-9a-f]' * 8}.params"), None)
    if path and not sha1_of(path).startswith(path.stem[-8:]):
        raise PretrainedError(
            f"{path} is damaged: its SHA-1 does not begin with {path.stem[-8:]}; take the project's file again, or put "
            f"your own {own_file(name, models_folder()).name} into {models_folder()}"
        )
    return path


def find_parameters(name: str, folder: Path | None = None) -> Path:
    """Path of the parameters called `name`; fetched where they are missing and a connection exists.

    folder: to look in, instead of the folder of pretrained parameters. Raises PretrainedError, which names the exact
    file and folder, if they cannot be had or are damaged.
    """
    path = present(name, folder or models_folder())
    if path is None:
        return _fetch(name, folder or models_folder())
    if path.parent == _BUNDLED:
        log.info("Pretrained parameters: %s, which came with the project", path)
    else:
        log.info("Pretrained parameters: %s", path)
    return path


def present(name: str, folder: Path) -> Path | None:
    """Path of the parameters called `name` in `folder`, else of those that came with the project; None if they would
    have to be fetched.

    Raises PretrainedError if they are damaged, or if nothing is published under that name.
    """
    own = own_file(name, folder)
    if own.is_file():
        return own
    file = published(name)
    if file is None and (path := bundled(name)):
        return path
    if file is None:
        raise PretrainedError(
            f"pretrained parameters {own.name} are not in {folder}, and none are published as {name!r}"
        )
    path = folder / file.file_name
    if not path.is_file():
        return bundled(name)
    if sha1_of(path) != file.sha1:
        raise PretrainedError(
            f"{path} is damaged: its SHA-1 does not begin with {file.sha1[:8]}; delete it and fetch it again, "
            f"or name a file of your own {own.name}"
        )
    return path


def sha1_of(path: Path) -> str:
    """SHA-1 of a file, in hexadecimal digits. Raises OSError."""
    digest = hashlib.sha1(usedforsecurity=False)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def fetchable(name: str) -> str | None:
    """Why the published parameters `name` cannot be fetched from here, None if they can; nothing is fetched."""
    file = published(name)
    if file is None:
        return "nothing is published under that name"
    try:
        with urllib.request.urlopen(urllib.request.Request(file.address, method="HEAD"), timeout=_TIMEOUT):
            return None
    except OSError as error:
        return _reason(error)


def _fetch(name: str, folder: Path) -> Path:
    file = published(name)
    assert file is not None
    path = folder / file.file_name
    log.info("Pretrained parameters %s are not in %s; fetching them", path.name, folder)
    archive = path.with_name(f".{path.stem}.{os.getpid()}.zip")
    extracted = archive.with_suffix(".part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(file.address, timeout=_TIMEOUT) as source, open(archive, "wb") as target:
            for block in iter(lambda: source.read(1 << 20), b""):
                target.write(block)
        with (
            zipfile.ZipFile(archive) as bundle,
            bundle.open(path.name) as source,
            open(extracted, "wb") as target,
        ):
            for block in iter(lambda: source.read(1 << 20), b""):
                target.write(block)
        if sha1_of(extracted) != file.sha1:
            raise OSError("what was fetched has another SHA-1")
        os.replace(extracted, path)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise FetchError(
            f"pretrained parameters are missing: put {path.name} (or your own {own_file(name, folder).name}) into "
            f"{folder}, {OR_RANDOM}; fetching it failed: {_reason(error)}"
        ) from None
    finally:
        archive.unlink(missing_ok=True)
        extracted.unlink(missing_ok=True)
    return path


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)
