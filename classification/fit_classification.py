"""Train an image classifier.

python3 classification/fit_classification.py --config job.json [--load best_checkpoint.pkl]
"""

import sys
from pathlib import Path

# A script's own folder comes first on Python's path; the packages stand one above it.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from classification.config import ClassificationConfig
from common.job import main

if __name__ == "__main__":
    sys.exit(
        main(
            ClassificationConfig,
            "classification.task:ClassificationTask",
            "Train an image classifier.",
        )
    )
