"""How a rank ended, as it tells the others."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from common.errors import JobError


@dataclass(frozen=True)
class End:
    """The end of a job, and the rank that it came from. state: finished, failed or stopped; the rest as in
    `status.json`, and `exit_status`, with which the process ended."""

    rank: int
    state: str
    message: str = ""
    kind: str = ""
    retry: bool = True
    exit_status: int = 0

    @classmethod
    def of(cls, rank: int, end: JobError | str, exit_status: int) -> End:
        """That of a rank which failed (a JobError) or was stopped (text)."""
        if isinstance(end, JobError):
            return cls(rank, "failed", str(end), end.kind, end.retry, exit_status)
        return cls(rank, "stopped", end, "stopped", True, exit_status)

    def to_text(self) -> str:
        """As `from_text` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str | bytes) -> End:
        """What `to_text` has written."""
        return cls(**json.loads(text))
