#!/usr/bin/env python3
"""Compares two evaluations of one checkpoint.
  compare_detections.py FIGURES_A DETECTIONS_A FIGURES_B DETECTIONS_B
FIGURES: a file that ends with a JSON list of COCO's 12 figures, or an object with their names. DETECTIONS: COCO results.
Fails unless the figures agree to 1e-3, and in both directions 99 % of the detections have a twin: the same image and class,
IoU above 0.99, score within 1e-3."""
import collections
import json
import re
import sys

NAMES = ['AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'AR1', 'AR10', 'AR100', 'ARs', 'ARm', 'ARl']


def figures(path):
    text = open(path).read()
    if '{' in text:
        found = json.loads(text[text.index('{'):])
        return [found[n] for n in NAMES]
    return json.loads(re.findall(r'\[.*?\]', text, re.S)[-1])


def iou(a, b):
    w = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    h = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    joint = max(w, 0) * max(h, 0)
    return joint / (a[2] * a[3] + b[2] * b[3] - joint)


def unmatched(ours, theirs):
    """The detections of `ours` without a twin of their own in `theirs`."""
    left = collections.defaultdict(list)
    for d in theirs:
        left[d['image_id'], d['category_id']].append(d)
    lonely = []
    for d in sorted(ours, key=lambda d: -d['score']):
        twins = [(abs(d['score'] - o['score']), i) for i, o in enumerate(left[d['image_id'], d['category_id']])
                 if abs(d['score'] - o['score']) <= 1e-3 and iou(d['bbox'], o['bbox']) > .99]
        if twins:
            del left[d['image_id'], d['category_id']][min(twins)[1]]
        else:
            lonely.append(d)
    return lonely


def main():
    a, b = figures(sys.argv[1]), figures(sys.argv[3])
    difference = max(abs(x - y) for x, y in zip(a, b))
    for name, x, y in zip(NAMES, a, b):
        print(f'{name:6s} {x:8.4f} {y:8.4f}  {x - y:+.4f}')
    first, second = (json.load(open(sys.argv[i])) for i in (2, 4))
    shares = []
    for ours, theirs in ((first, second), (second, first)):
        lonely = unmatched(ours, theirs)
        shares.append(1 - len(lonely) / max(len(ours), 1))
        print(f'{100 * shares[-1]:.2f} % of {len(ours)} detections have a twin'
              + (f'; best without: score {lonely[0]["score"]:.4f}' if lonely else ''))
    passed = difference <= 1e-3 and min(shares) >= .99
    print(f'largest difference of a figure {difference:.1e}:', 'equal' if passed else 'DIFFERENT')
    sys.exit(0 if passed else 1)


main()
