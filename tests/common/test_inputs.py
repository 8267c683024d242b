"""What `common.predict` is given: files, folders, patterns and videos."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from common.inputs import frame_count, frames


def test_a_video_says_how_many_frames_are_to_come(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (90, 60))
    for shade in range(7):
        video.write(np.full((60, 90, 3), 30 * shade, np.uint8))
    video.release()
    assert frame_count(str(path)) == len(list(frames(str(path)))) == 7
    (tmp_path / "text.mp4").write_text("no video")
    assert frame_count(str(tmp_path / "text.mp4")) == 0
    assert frame_count(str(tmp_path / "nowhere.mp4")) == 0
