"""The folders of a job's sets, and the format that annotates each."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config.sections import DatasetConfig
from common.data.formats.base import AnnotatedSet, Place, inside
from common.data.formats.recognise import READERS, choose, count_alike
from common.data.listing import Listing
from common.errors import DataError, shortened_path
from common.images.decoding import printable

log = logging.getLogger("visualtl")

_MISSING = "does not exist"
WORDS = {"train": "training", "valid": "validation", "test": "test"}


@dataclass(frozen=True)
class Folders:
    """Folders of the sets; an empty list: no such set."""

    train: list[Path]
    valid: list[Path]
    test: list[Path]


@dataclass(frozen=True)
class SetFolder:
    """A folder of a set. annotated: what another format says of it; None: our own texts do."""

    listing: Listing
    annotated: AnnotatedSet | None


def find_folders(dataset: DatasetConfig) -> Folders:
    """The folders that the configuration means. Raises DataError for one that it names and that is not there."""
    by_key: dict[str, list[Path]] = {"train_dir": [], "valid_dir": [], "test_dir": []}
    for name, folders in by_key.items():
        for value in dataset.folders(name):
            folder = Path(dataset.data_root) / value
            problem = _problem_of(folder)
            if problem == _MISSING and name != "train_dir" and dataset.is_default(name):
                continue
            if problem:
                raise DataError(
                    f"dataset.{name}: the folder {shortened_path(printable(str(folder)))} {problem}"
                )
            folders.append(folder)
    return Folders(*by_key.values())


def _problem_of(folder: Path) -> str | None:
    """What is wrong with a folder that is to be read; None: nothing."""
    try:
        with os.scandir(folder):
            return None
    except FileNotFoundError:
        return _MISSING
    except NotADirectoryError:
        return "is not a folder"
    except (OSError, ValueError) as error:  # ValueError: of names that no file can have
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def list_folders(folders: Folders) -> dict[str, list[Listing]]:
    """What lies in the folders of the sets, by name; one within another belongs to that other set no more. Raises
    DataError for one that a set has twice."""
    paths = {name: list(map(str, getattr(folders, name))) for name in WORDS if getattr(folders, name)}
    for name, own in paths.items():
        known: dict[tuple[int, int], str] = {}
        for path in own:
            status = os.stat(path)
            first = known.setdefault((status.st_dev, status.st_ino), path)
            if first is not path:
                raise DataError(
                    f"dataset.{name}_dir: {printable(first)} and {printable(path)} are the same folder; name it once"
                )
    everything = [path for part in paths.values() for path in part]
    return {name: [Listing(path, everything) for path in part] for name, part in paths.items()}


def open_sources(
    dataset: DatasetConfig,
    task: str,
    listings: Mapping[str, Sequence[Listing]],
    kept: Callable[[str], Path] | None = None,
) -> dict[str, list[SetFolder]]:
    """The folders of the sets with what annotates them. task: as `Task.does`. kept: where what is read of large files
    is kept, by name. Raises DataError.
    """
    root = str(dataset.data_root)
    sources: dict[str, list[SetFolder]] = {}
    for name, parts in listings.items():
        named = getattr(dataset, f"{name}_annotations")
        annotations = os.path.join(root, named) if named is not None else None
        if annotations is not None and not inside(os.path.abspath(annotations), os.path.abspath(root)):
            raise DataError(
                f"dataset.{name}_annotations: {printable(str(named))} leads out of dataset.data_root, {printable(root)}"
            )
        formats = dataset.formats(len(parts))
        sources[name] = []
        for index, (listing, form) in enumerate(zip(parts, formats, strict=True)):
            file = kept(f"{numbered(name, index)}_annotations") if kept else None
            place = Place(root, listing.folder, annotations, name, task, file)
            kind, reason = choose(place, listing, form)
            log.info("%s: the labels are %s: %s", printable(listing.folder), kind, reason[0])
            annotated = None if kind == "txt" else READERS[kind].read(place, listing)
            sources[name].append(SetFolder(listing, annotated))
        count_alike([part.annotated for part in sources[name] if part.annotated is not None])
    return sources


def numbered(name: str, index: int) -> str:
    """The name of a folder of a set; the first one has the set's."""
    return f"{name}_{index}" if index else name
