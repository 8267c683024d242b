"""What lies below a set's folder: images, other files, folders of classes, and what is not looked into."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Sequence

from common.data.problems import IMAGE_EXTENSIONS, Problem
from common.errors import DataError
from common.files import readable
from common.images.decoding import printable

# What systems and archives leave behind: copies, thumbnails and what was thrown away, none of it a part of a set.
_OF_THE_SYSTEM = frozenset(
    {
        "__macosx", "@eadir", "#recycle", "@recycle", "$recycle.bin", "recycler", "system volume information",
        "lost+found", "lost.dir",
    }
)  # fmt: skip

# Images to their owner, though not to the contract: worth a word where they lie.
_OTHER_IMAGES = (".jpe", ".jfif", ".webp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2")


class Listing:
    """The files below `folder`. Every folder is read once, whatever links lead to it, and under its own name if that
    is below `folder` too.

    images: paths of all images, whatever the case of the extension: a folder's own before those of its folders. others:
    paths of all other files, in the same order. roots: the folder, or folders, that the set is.
    folders: paths of all folders that were read. skipped: what was not looked into, with the reasons.

    inner: folders of other sets, which do not belong to this one where they lie within it.

    Raises DataError if the folder cannot be read.
    """

    def __init__(self, folder: str, inner: Sequence[str] = ()) -> None:
        self.folder = folder
        self.roots = [folder]
        self.folders: list[str] = []
        self.skipped: list[Problem] = []
        self._images: dict[str, list[str]] = {}
        self._others: dict[str, list[str]] = {}
        self._visited: dict[tuple[int, int], str] = {}
        self._inner = {_place(path) for path in inner} - {None, _place(folder)}
        links = self._read(folder)
        while links:  # behind all folders, so that these have the files that are theirs
            links = [further for link in sorted(links) for further in self._read(link)]
        self.folders.sort(key=_order)
        self.images = [path for current in self.folders for path in self._images[current]]
        self.others = [path for current in self.folders for path in self._others[current]]

    @classmethod
    def joined(cls, listings: Sequence[Listing]) -> Listing:
        """Several folders as one: `roots` are all of them, `folder` is the first."""
        if len(listings) == 1:
            return listings[0]
        made = cls.__new__(cls)
        made.folder = listings[0].folder
        for name in ("roots", "folders", "images", "others", "skipped"):
            setattr(made, name, [item for listing in listings for item in getattr(listing, name)])
        return made

    @property
    def class_folders(self) -> list[str]:
        """Names of the folders directly below, sorted; those of links to what is read under another name are none."""
        names = set()
        for root in self.roots:
            start = os.path.join(root, "")
            inner = (path[len(start) :] for path in self.folders if path.startswith(start))
            names |= {class_name(name) for name in inner if os.sep not in name}
        return sorted(names)

    def class_of(self, image: str) -> str | None:
        """The class of an image: the folder directly below the root that it lies in; None beside these."""
        return class_of(image, root_of(image, self.roots))

    def with_extension(self, *extensions: str) -> list[str]:
        """The other files that end so, whatever the case."""
        return [path for path in self.others if path.lower().endswith(extensions)]

    def _read(self, top: str) -> list[str]:
        """Read a folder and those below it; returns the links to folders on the way."""
        links: list[str] = []
        waiting = [top]
        while waiting:
            current = waiting.pop()
            try:
                status = os.stat(current)
                place = status.st_dev, status.st_ino
                if place in self._inner:
                    self._skip(current, "is the folder of another set")
                    continue
                if place in self._visited:
                    other = printable(self._visited[place])
                    self._skip(current, f"a link to a folder that is read as {other}")
                    continue
                self._visited[place] = current
                with os.scandir(current) as entries:
                    names = sorted((entry.name, _kind(entry)) for entry in entries)
            except OSError as error:
                if current == self.folder:
                    raise DataError(
                        f"the folder {printable(current)} cannot be read: {error.strerror}"
                    ) from None
                self._skip(current, f"cannot be read: {error.strerror}")
                continue
            self.folders.append(current)
            self._images[current], self._others[current] = [], []
            for name, kind in names:
                path = os.path.join(current, name)
                if kind == _FILE:
                    self._take_file(current, name, path)
                elif name.startswith("."):
                    self._skip(path, "hidden: its name begins with a dot")
                elif name.lower() in _OF_THE_SYSTEM:
                    self._skip(path, "a folder that a system keeps for itself")
                else:
                    (links if kind == _LINK else waiting).append(path)
        return links

    def _take_file(self, folder: str, name: str, path: str) -> None:
        extension = os.path.splitext(name)[1].lower()
        if name.startswith("."):
            if extension in IMAGE_EXTENSIONS:
                self._skip(path, "hidden: its name begins with a dot")
        elif extension in IMAGE_EXTENSIONS:
            self._images[folder].append(path)
        elif extension in _OTHER_IMAGES:
            self._skip(path, f"images are {' '.join(IMAGE_EXTENSIONS)}, not {extension}")
        else:
            self._others[folder].append(path)

    def _skip(self, path: str, reason: str) -> None:
        self.skipped.append(Problem(path, None, reason))


def class_name(folder: str) -> str:
    """The class that a folder's name means: one Unicode form, whatever system wrote it."""
    return unicodedata.normalize("NFC", readable(folder))


def root_of(image: str, roots: Iterable[str]) -> str:
    """The innermost of folders that an image lies in."""
    return max((root for root in roots if image.startswith(os.path.join(root, ""))), key=len)


def class_of(image: str, folder: str) -> str | None:
    """The class of an image of a set of class folders: the folder directly below `folder`; None beside these."""
    inner, separator, _ = image[len(os.path.join(folder, "")) :].partition(os.sep)
    return class_name(inner) if separator else None


_FILE, _FOLDER, _LINK = range(3)


def _kind(entry: os.DirEntry[str]) -> int:
    try:
        if not entry.is_dir():
            return _FILE
        return _LINK if entry.is_symlink() else _FOLDER
    except OSError:  # a link to itself
        return _FILE


def _place(folder: str) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _order(folder: str) -> list[str]:
    return folder.split(os.sep)
