"""What a report calls things, in English and Chinese."""

from __future__ import annotations

from common.language import Words

TASKS: dict[str, Words] = {
    "detection": ("Object detection", "目标检测"),
    "classification": ("Image classification", "图像分类"),
    "reid": ("Re-identification", "重识别"),
    "landmark": ("Keypoints", "关键点"),
}
SETS: dict[str, Words] = {
    "train": ("Training set", "训练集"),
    "valid": ("Validation set", "验证集"),
    "test": ("Test set", "测试集"),
}
# Figures by name, with what they say where the name does not.
FIGURES: dict[str, tuple[Words, Words]] = {
    "mAP": (
        ("mAP", "mAP"),
        ("mean of the classes' average precision", "各类平均精度的均值"),
    ),
    "COCO_AP": (("COCO AP", "COCO AP"), ("mean over IoU 0.5 to 0.95", "IoU 0.5 至 0.95 的均值")),
    "COCO_AP50": (("COCO AP50", "COCO AP50"), ("IoU 0.5", "IoU 0.5")),
    "COCO_AP75": (("COCO AP75", "COCO AP75"), ("IoU 0.75", "IoU 0.75")),
    "COCO_AP_small": (("COCO AP small", "COCO AP 小目标"), ("below 32 × 32 pixels", "小于 32 × 32 像素")),
    "COCO_AP_medium": (
        ("COCO AP medium", "COCO AP 中目标"),
        ("32 × 32 to 96 × 96 pixels", "32 × 32 至 96 × 96 像素"),
    ),
    "COCO_AP_large": (("COCO AP large", "COCO AP 大目标"), ("above 96 × 96 pixels", "大于 96 × 96 像素")),
    "COCO_AR1": (("COCO AR1", "COCO AR1"), ("recall with 1 detection an image", "每图 1 个检测的召回率")),
    "COCO_AR10": (("COCO AR10", "COCO AR10"), ("recall with 10", "每图 10 个检测的召回率")),
    "COCO_AR100": (("COCO AR100", "COCO AR100"), ("recall with 100", "每图 100 个检测的召回率")),
    "COCO_AR_small": (("COCO AR small", "COCO AR 小目标"), ("", "")),
    "COCO_AR_medium": (("COCO AR medium", "COCO AR 中目标"), ("", "")),
    "COCO_AR_large": (("COCO AR large", "COCO AR 大目标"), ("", "")),
    "best_thresh": (
        ("Best threshold", "最佳阈值"),
        ("score with the greatest F1 over all classes", "全部类别合计 F1 最大的分数"),
    ),
    "precision": (("Precision", "精确率"), ("at the best threshold", "最佳阈值处")),
    "recall": (("Recall", "召回率"), ("at the best threshold", "最佳阈值处")),
    "f1": (("F1", "F1"), ("at the best threshold", "最佳阈值处")),
    "mean_precision": (("Mean precision", "平均精确率"), ("of the classes", "各类的均值")),
    "mean_recall": (("Mean recall", "平均召回率"), ("of the classes", "各类的均值")),
    "mean_f1": (("Mean F1", "平均 F1"), ("of the classes", "各类的均值")),
    "objects": (("Objects", "目标数"), ("annotated", "标注的")),
    "images": (("Samples", "样本数"), ("", "")),
    "missed": (("Missed", "漏检"), ("objects without a detection", "没有检测到的目标")),
    "twice": (("Found twice", "重复检测"), ("further detections of one object", "同一目标的多余检测")),
    "wrong_place": (("Wrong place", "位置不准"), ("near an object, not near enough", "靠近目标但重叠不够")),
    "wrong_class": (("Wrong class", "类别错误"), ("on an object of another class", "落在其他类别的目标上")),
    "background": (("Nothing there", "误检背景"), ("detections where no object is", "没有目标的地方的检测")),
    "accuracy": (("Accuracy", "准确率"), ("", "")),
    "top5": (("Top-5 accuracy", "前五准确率"), ("", "")),
    "calibration_error": (
        ("Calibration error", "校准误差"),
        ("mean distance of confidence and accuracy", "置信度与准确率的平均差距"),
    ),
    "rank1": (("Rank-1", "Rank-1"), ("the nearest image is of the same identity", "最近的图像属于同一身份")),
    "rank5": (("Rank-5", "Rank-5"), ("", "")),
    "rank10": (("Rank-10", "Rank-10"), ("", "")),
    "queries": (("Queries", "查询数"), ("", "")),
    "identities": (("Identities", "身份数"), ("", "")),
    "RMSE": (("RMSE", "RMSE"), ("pixels, over all coordinates", "像素，所有坐标")),
    "NME": (
        ("NME", "NME"),
        ("mean distance as a share of the points' extent", "平均距离与关键点范围之比"),
    ),
    "AUC": (("AUC", "AUC"), ("area below the cumulative curve of errors", "累积误差曲线下的面积")),
    "failure_rate": (("Failures", "失败率"), ("images with a large error", "误差过大的图像比例")),
}
# Figures that stand first and large; the others follow in a table.
LEADING = (
    *("mAP", "accuracy", "rank1", "RMSE", "COCO_AP", "best_thresh", "precision", "recall", "f1"),
    *("missed", "twice", "wrong_place", "wrong_class", "background"),
    *("top5", "mean_f1", "calibration_error", "rank5", "rank10", "NME", "AUC", "failure_rate"),
)
COLUMNS: dict[str, Words] = {
    "objects": ("objects", "目标数"),
    "samples": ("samples", "样本数"),
    "predicted": ("predicted", "预测数"),
    "AP": ("AP", "AP"),
    "best_thresh": ("best threshold", "最佳阈值"),
    "precision": ("precision", "精确率"),
    "recall": ("recall", "召回率"),
    "f1": ("F1", "F1"),
    "queries": ("queries", "查询数"),
    "rank1": ("rank-1", "Rank-1"),
    "rmse": ("RMSE (px)", "RMSE（像素）"),
    "nme": ("NME", "NME"),
    "visible": ("visible", "可见数"),
}
VERDICTS: dict[str, Words] = {
    "right": ("right", "正确"),
    "twice": ("found twice", "重复"),
    "wrong_place": ("wrong place", "位置不准"),
    "wrong_class": ("wrong class", "类别错误"),
    "background": ("nothing there", "误检"),
    "found": ("annotated", "标注"),
    "missed": ("missed", "漏检"),
}
REASONS: dict[str, Words] = {
    "other_class": ("looks like another class", "看起来像另一类"),
    "other_identity": ("looks like another identity", "看起来像另一身份"),
    "not_labelled": ("an object without a label?", "漏标？"),
    "nothing_there": ("a label where nothing is found", "标注处没有目标？"),
    "far_off": ("far from what is predicted", "与预测相差很远"),
}
BACKGROUND: Words = ("background", "背景")
