"""Train an SSD object detector: python3 detect/fit_ssd.py --config job.json [--load best_checkpoint.pkl]"""

import os
import sys

# A script's own folder comes first on Python's path; the packages stand one above it.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

from common.reporting.beginning import begin

if __name__ == "__main__":
    begin()  # what follows is the job; the process that was started watches it, and says what ended it

from common.job import main
from detect.config import SSDConfig

if __name__ == "__main__":
    sys.exit(main(SSDConfig, "detect.ssd.task:SSDTask", "Train an SSD object detector."))
