"""Run by a rank's supervisor: tells the other ranks what has ended this one, which could not say so itself."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

from common.ranks.ends import End
from common.ranks.place import place_of


def main(text: str) -> None:
    """text: of an `End`."""
    place = place_of(os.environ)
    # A rank 0 whose store was its own has taken it along, and may not open another one.
    if place.size == 1 or (place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"):
        return
    from common.ranks.group import store_of

    store_of(place, timedelta(seconds=5)).compare_set("end", "", End.from_text(text).to_text())


if __name__ == "__main__":
    main(sys.argv[1])
