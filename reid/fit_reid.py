"""Train a re-identification embedding: python3 reid/fit_reid.py --config job.json [--load best_checkpoint.pkl]"""

import sys
from pathlib import Path

# A script's own folder comes first on Python's path; the packages stand one above it.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.job import main
from reid.config import ReIDConfig

if __name__ == "__main__":
    sys.exit(main(ReIDConfig, "reid.task:ReIDTask", "Train a re-identification embedding."))
