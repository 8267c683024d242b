"""Train a re-identification embedding: python3 reid/fit_reid.py --config job.json [--load best_checkpoint.pkl]"""

import os
import sys

# A script's own folder comes first on Python's path; the packages stand one above it.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

from common.reporting.beginning import begin

if __name__ == "__main__":
    begin()  # what follows is the job; the process that was started watches it, and says what ended it

from common.job import main
from reid.config import ReIDConfig

if __name__ == "__main__":
    sys.exit(main(ReIDConfig, "reid.task:ReIDTask", "Train a re-identification embedding."))
