"""Train a CenterNet object detector.

python3 detect/fit_center_net.py --config job.json [--load best_checkpoint.pkl]
"""

import sys
from pathlib import Path

# A script's own folder comes first on Python's path; the packages stand one above it.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.job import main
from detect.config import CenterNetConfig

if __name__ == "__main__":
    sys.exit(
        main(CenterNetConfig, "detect.center_net.task:CenterNetTask", "Train a CenterNet object detector.")
    )
