#!/usr/bin/env python3
"""Detections of several views of an image and what mmdetection 3's DetTTAModel makes of them.
  make_tta_cases.py ORACLE OUT.json        ORACLE: ../shared/oracle; tests/golden/tta_cases.json was made so
Needs the environment of ../shared/oracle/setup.sh."""
import json
import sys

import numpy as np

sys.path.insert(0, sys.argv[1])
import mmcv_ext_stub  # noqa: E402,F401  before mmcv.ops
import torch  # noqa: E402
from mmdet.models.test_time_augs.det_tta import DetTTAModel  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.config import ConfigDict  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

CLASSES = 3


def view(rng, objects, size, flip):
    """Each object a few times, jittered, as a detector finds it in this view."""
    boxes, scores, labels = [], [], []
    for box, label in objects:
        for _ in range(rng.integers(0, 4)):
            found = box + rng.normal(0, 3, 4)
            x1, x2 = sorted((found[0], found[2]))
            y1, y2 = sorted((found[1], found[3]))
            boxes.append([size[1] - x2, y1, size[1] - x1, y2] if flip else [x1, y1, x2, y2])
            scores.append(rng.uniform(0.05, 1))
            labels.append(label if rng.random() < 0.8 else int(rng.integers(CLASSES)))
    return (torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32),
            torch.tensor(scores, dtype=torch.float32), torch.tensor(labels, dtype=torch.int64))


def listed(boxes, scores, labels):
    return dict(boxes=boxes.double().tolist(), scores=scores.double().tolist(), labels=labels.tolist())


def main():
    rng = np.random.default_rng(7)
    cases = []
    for number in range(12):
        height, width = (int(v) for v in rng.integers(80, 200, 2))
        corners = rng.uniform(0, 60, (0 if number == 5 else rng.integers(2, 7), 2))
        objects = [(np.concatenate([c, c + rng.uniform(15, 60, 2)]), int(rng.integers(CLASSES))) for c in corners]
        threshold, most = (0.5, 100) if number % 3 else (0.3, 4)
        model = DetTTAModel.__new__(DetTTAModel)
        model.tta_cfg = ConfigDict(nms=dict(type='nms', iou_threshold=threshold), max_per_img=most)
        views, samples = [], []
        for index in range(2 + number % 3):
            flip = bool(index % 2)
            boxes, scores, labels = view(rng, objects, (height, width), flip)
            views.append(dict(flip=flip, **listed(boxes, scores, labels)))
            sample = DetDataSample(metainfo=dict(ori_shape=(height, width), flip=flip, flip_direction='horizontal'))
            sample.pred_instances = InstanceData(bboxes=boxes, scores=scores, labels=labels)
            samples.append(sample)
        merged = model._merge_single_sample(samples).pred_instances
        cases.append(dict(width=width, iou_threshold=threshold, max_per_img=most, views=views,
                          merged=listed(merged.bboxes, merged.scores, merged.labels)))
    with open(sys.argv[2], 'w') as out:
        out.write('[\n' + ',\n'.join(json.dumps(case) for case in cases) + '\n]\n')


main()
