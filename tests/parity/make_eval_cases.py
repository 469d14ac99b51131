#!/usr/bin/env python3
"""Random COCO evaluations with the figures of the installed pycocotools, for worker/eval's tests.
  make_eval_cases.py OUT [--count 200] [--first 0] [--small]
writes OUT/eval_NNN/{gt,dt,expected}.json. --small keeps to a few kB a case (tests/golden/eval were made so).
Needs numpy and pycocotools: the environment of ../shared/oracle/setup.sh."""
import argparse
import contextlib
import io
import json
import os

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

NAMES = ['AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl']
# Sides whose squares lie at or beside the limits of small, medium and large.
LIMIT_SIDES = [(32, 32), (96, 96), (64, 16), (144, 64), (32, 31), (33, 32), (97, 96), (95, 96)]


def random_box(rng, size):
    kind = rng.integers(4)
    if kind == 0:
        w, h = LIMIT_SIDES[rng.integers(len(LIMIT_SIDES))]
    elif kind == 1:
        w, h = (int(v) for v in rng.integers(1, 140, 2))
    else:
        w, h = (round(float(v), 2) for v in rng.uniform(1, 200, 2))
    x, y = (round(float(v), 1) for v in rng.uniform(0, size - 1, 2))
    return [x, y, w, h]


def near(rng, box):
    """A detection of `box`: exact, shifted to an IoU that is a threshold, or jittered."""
    x, y, w, h = box
    kind = rng.integers(4)
    if kind == 0:
        return [x, y, w, h]
    if kind == 1:
        # Width cut to t of it: an IoU of t, if it is a number.
        return [x, y, w * float(rng.choice([.5, .55, .6, .75, .9, .95])), h]
    shift = rng.normal(0, .15 * (1 + kind), 4) * [w, h, w, h]
    return [round(float(x + shift[0]), 2), round(float(y + shift[1]), 2), round(max(float(w + shift[2]), .5), 2),
            round(max(float(h + shift[3]), .5), 2)]


def make(rng, small):
    from_zero = rng.random() < .4
    base = 0 if from_zero else int(rng.integers(1, 1000))
    images = [base + int(i) for i in rng.permutation(int(rng.integers(1, 5 if small else 12)))]
    categories = [(0 if from_zero else 1) + int(c) for c in rng.choice(12, int(rng.integers(1, 5)), replace=False)]
    used = categories[:max(1, len(categories) - int(rng.integers(0, 2)))]  # the rest has no object
    size = 400
    crowd = .25 * (rng.random() < .5)
    annotations, detections = [], []
    next_id = 0 if from_zero else int(rng.integers(1, 50))
    # Few different scores make many ties.
    digits = int(rng.choice([1, 2, 6]))
    for image in images:
        if rng.random() < .2:
            objects = []  # nothing is annotated, but something may be found
        else:
            objects = [random_box(rng, size) for _ in range(int(rng.integers(0, 5 if small else 12)))]
        for box in objects:
            # The annotated area need not be the box's: masks have less.
            area = box[2] * box[3] if rng.random() < .5 else round(box[2] * box[3] * float(rng.uniform(.4, 1)), 2)
            category = int(rng.choice(used))
            annotations.append(dict(id=next_id, image_id=image, category_id=category, bbox=box, area=area,
                                    iscrowd=int(rng.random() < crowd)))
            next_id += 1
            for _ in range(int(rng.choice([0, 1, 1, 1, 2]))):
                found = category if rng.random() < .85 else int(rng.choice(categories))
                detections.append(dict(image_id=image, category_id=found, bbox=near(rng, box)))
        many = not small and rng.random() < .15
        for _ in range(int(rng.integers(90, 260)) if many else int(rng.integers(0, 6))):
            category = categories[0] if many else int(rng.choice(categories))
            box = near(rng, objects[rng.integers(len(objects))]) if objects and rng.random() < .4 else random_box(rng, size)
            detections.append(dict(image_id=image, category_id=category, bbox=box))
    detections = [detections[i] for i in rng.permutation(len(detections))]
    for d in detections:
        d['score'] = round(float(rng.beta(1, 1.5)), digits)
    gt = dict(images=[dict(id=i, width=size, height=size, file_name=f'{i}.jpg') for i in images],
              categories=[dict(id=c, name=f'class {c}') for c in categories], annotations=annotations)
    return gt, detections


def score(gt, detections):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(gt))
        coco.createIndex()
        e = COCOeval(coco, coco.loadRes(json.loads(json.dumps(detections))), 'bbox')
        e.evaluate()
        e.accumulate()
        e.summarize()
    # precision: IoU threshold, recall point, class, area range, detections an image
    of_class = {}
    for k, category in enumerate(e.params.catIds):
        p = e.eval['precision'][:, :, k, 0, 2]
        mean = [float(q[q > -1].mean()) if (q > -1).any() else -1. for q in (p, p[0])]
        of_class[str(category)] = dict(AP=mean[0], AP50=mean[1], annotated=sum(int(
            a['category_id'] == category and not a['iscrowd']) for a in gt['annotations']))
    return dict(figures=dict(zip(NAMES, (float(v) for v in e.stats))), categories=of_class)


def main():
    p = argparse.ArgumentParser()
    p.add_argument('out')
    p.add_argument('--count', type=int, default=200)
    p.add_argument('--first', type=int, default=0, help='number, and seed, of the first case')
    p.add_argument('--small', action='store_true')
    a = p.parse_args()
    made = 0
    number = a.first
    while made < a.count:
        gt, detections = make(np.random.default_rng(number), a.small)
        # pycocotools cannot read an empty list of results.
        if detections:
            folder = os.path.join(a.out, f'eval_{number:03d}')
            os.makedirs(folder, exist_ok=True)
            for name, value in (('gt', gt), ('dt', detections), ('expected', score(gt, detections))):
                with open(os.path.join(folder, name + '.json'), 'w') as f:
                    json.dump(value, f, separators=(',', ':'))
                    f.write('\n')
            made += 1
        number += 1


main()
