"""The report on the sets of a job, kept up to date as it runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.data.problems import FolderReport, Problem, write_report

log = logging.getLogger("visualtl")


class Report:
    """`data_report.json`: what was read and what was left out, by set; what comes to light later is added.

    left_out: told how many samples of each set cannot be used, whenever the file is written. path: of the file.
    written: whether this process writes it.
    """

    def __init__(
        self, path: Path, left_out: Callable[[dict[str, int]], None] | None = None, *, written: bool = True
    ) -> None:
        self._path = path
        self._written = written
        self._left_out = left_out
        self._folders: dict[str, FolderReport] = {}
        self._summaries: dict[str, dict[str, Any]] = {}
        self._notes: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What another rank gets of it: it writes nothing, and tells nobody."""
        return {**self.__dict__, "_left_out": None, "_written": False}

    def cache_file(self, name: str) -> Path:
        """Where beside the report the set `name` is kept for the next start."""
        return self._path.with_name(f"scan_cache_{name}.safetensors")

    def add(self, name: str, folder: FolderReport) -> None:
        """The report on the folder of a set."""
        self._folders[name] = folder

    def problems_of(self, name: str) -> list[Problem]:
        """What was left out of the set `name` so far."""
        return self._folders[name].problems if name in self._folders else []

    def summarise(self, name: str, summary: dict[str, Any]) -> None:
        """The task's figures of a set."""
        self._summaries[name] = summary

    def note(self, name: str, value: Any) -> None:
        """Something that is said of all sets together."""
        self._notes[name] = value

    def leave_out(self, name: str, problems: Sequence[Problem]) -> None:
        """Samples of the set `name` that could no longer be read when their turn came."""
        if problems:
            for problem in problems:
                log.warning("Left out: %s", problem)
            self._folders[name].images_left_out += len(problems)
            self._folders[name].problems.extend(problems)
            self.write()

    def leave_out_quietly(self, name: str, problems: Sequence[Problem]) -> None:
        """Samples of the set `name` that the caller says something of."""
        self._folders[name].images_left_out += len(problems)
        self._folders[name].problems.extend(problems)

    def write(self) -> None:
        """Bring the file up to date."""
        if self._left_out is not None:
            self._left_out({name: len(folder.problems) for name, folder in self._folders.items()})
        if self._written:
            write_report(self._path, self._folders, self._summaries, self._notes)
