"""Pretrained parameters: which file is meant, where it is looked for, and how it is fetched.

A name such as `yolo3_darknet53_coco` stands for `NAME-HASH.params`, as the model zoo publishes it (HASH: the first
eight digits of the file's SHA-1), or for a user's own `NAME.params`, in `~/.mxnet/models`; `MXNET_HOME` moves
`~/.mxnet`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from common.errors import PretrainedError

log = logging.getLogger("visualtl")

# Seconds that a connection may stay silent: long enough for slow lines, short enough to say soon that there is none.
_TIMEOUT = 15.0


def models_folder() -> Path:
    """The folder of pretrained parameters."""
    home = os.environ.get("MXNET_HOME")
    return (Path(home) if home else Path.home() / ".mxnet").expanduser() / "models"


def published_file(name: str) -> tuple[str, str] | None:
    """File name and SHA-1 of the published parameters `name`; None if nothing is published under it."""
    from gluoncv.model_zoo import model_store

    sha1 = model_store._model_sha1.get(name)
    return (f"{name}-{sha1[:8]}.params", sha1) if sha1 else None


def find_parameters(name: str) -> Path:
    """Path of the parameters called `name`; fetched where they are missing and a connection exists.

    Raises PretrainedError, which names the exact file and folder, if they cannot be had or are damaged.
    """
    folder = models_folder()
    own = folder / f"{name}.params"
    if own.is_file():
        log.info("Pretrained parameters: %s", own)
        return own
    published = published_file(name)
    if published is None:
        raise PretrainedError(
            f"pretrained parameters {own.name} are not in {folder}, and none are published as {name!r}"
        )
    file_name, sha1 = published
    path = folder / file_name
    if path.is_file():
        if _sha1(path) != sha1:
            raise PretrainedError(
                f"{path} is damaged: its SHA-1 does not begin with {sha1[:8]}; delete it and fetch it again, "
                f"or name a file of your own {own.name}"
            )
        log.info("Pretrained parameters: %s", path)
        return path
    _fetch(path, sha1, own.name)
    return path


def _sha1(path: Path) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _fetch(path: Path, sha1: str, own_name: str) -> None:
    from gluoncv.model_zoo import model_store

    base = os.environ.get("MXNET_GLUON_REPO", model_store.apache_repo_url).rstrip("/") + "/"
    address = model_store._url_format.format(repo_url=base, file_name=path.stem)
    log.info("Pretrained parameters %s are not in %s; fetching them", path.name, path.parent)
    archive = path.with_name(f".{path.stem}.{os.getpid()}.zip")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(address, timeout=_TIMEOUT) as source, open(archive, "wb") as target:
            for block in iter(lambda: source.read(1 << 20), b""):
                target.write(block)
        extracted = archive.with_suffix(".part")
        with (
            zipfile.ZipFile(archive) as bundle,
            bundle.open(path.name) as source,
            open(extracted, "wb") as target,
        ):
            for block in iter(lambda: source.read(1 << 20), b""):
                target.write(block)
        if _sha1(extracted) != sha1:
            extracted.unlink()
            raise OSError("what was fetched has another SHA-1")
        os.replace(extracted, path)
    except (OSError, urllib.error.URLError, zipfile.BadZipFile, KeyError) as error:
        raise PretrainedError(
            f"pretrained parameters are missing: put {path.name} (or your own {own_name}) into {path.parent}; "
            f"fetching it failed: {getattr(error, 'reason', None) or error}"
        ) from None
    finally:
        archive.unlink(missing_ok=True)
