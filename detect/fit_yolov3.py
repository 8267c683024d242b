"""Train a YOLOv3 object detector: python3 detect/fit_yolov3.py --config job.json [--load best_checkpoint.pkl]"""

import sys
from pathlib import Path

# A script's own folder comes first on Python's path; the packages stand one above it.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from common.job import main
from detect.config import YOLOv3Config

if __name__ == "__main__":
    sys.exit(main(YOLOv3Config, "detect.yolov3.task:YOLOv3Task", "Train a YOLOv3 object detector."))
