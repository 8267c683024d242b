"""Train a YOLOv3 object detector: python3 detect/fit_yolov3.py --config job.json [--load best_checkpoint.pkl]"""

import os
import sys

# A script's own folder comes first on Python's path; the packages stand one above it.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

from common.reporting.beginning import begin

if __name__ == "__main__":
    begin()  # what follows is the job; the process that was started watches it, and says what ended it

from common.job import main
from detect.config import YOLOv3Config

if __name__ == "__main__":
    sys.exit(main(YOLOv3Config, "detect.yolov3.task:YOLOv3Task", "Train a YOLOv3 object detector."))
