"""Train on keypoints: python3 landmark/fit_landmark.py --config job.json [--load best_checkpoint.pkl]"""

import sys
from pathlib import Path

# A script's own folder comes first on Python's path; the packages stand one above it.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.job import main
from landmark.config import LandmarkConfig

if __name__ == "__main__":
    sys.exit(main(LandmarkConfig, "landmark.task:LandmarkTask", "Train a landmark (keypoint) network."))
