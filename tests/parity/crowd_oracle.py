#!/usr/bin/env python3
"""The oracle's `dump` on pictures with crowd boxes, and ignore_iof_thr 0.5 in both assigners (in mmdetection's own
configs it is off, where crowd boxes change nothing).
  crowd_oracle.py ORACLE_DIR --arch tiny --case crowd --bn train --sampler strided --out D [...]   as `oracle.py dump`
The batch file gains imgI.gt_bboxes_ignore and the metadata ignore_iof_thr."""
import os
import sys

sys.path.insert(0, sys.argv[1])
import oracle
import torch

IOF = 0.5
# xyxy; the first covers anchors and proposals of several levels, the second is inside an object.
CROWD = [[[20., 30., 120., 110.], [150., 100., 180., 140.]], [[40., 10., 190., 80.]]]
oracle.CASES['crowd'] = oracle.CASES['small']

make_batch, preprocess, model_config, save = oracle.make_batch, oracle.preprocess, oracle.model_config, oracle.save_st


def with_crowd(model, batch, scale_factor=(1.0, 1.0)):
    from mmengine.structures import InstanceData
    x, samples = preprocess(model, batch, scale_factor)
    for sample, boxes in zip(samples, CROWD):
        sample.ignored_instances = InstanceData(
            bboxes=torch.tensor(boxes), labels=torch.zeros(len(boxes), dtype=torch.long))
    return x, samples


def ignoring(*a, **k):
    config = model_config(*a, **k)
    for head in ('rpn', 'rcnn'):
        config['train_cfg'][head]['assigner']['ignore_iof_thr'] = IOF
    return config


def save_with_crowd(path, tensors, meta=None):
    if path.endswith('_batch.safetensors'):
        tensors = dict(tensors, **{f'img{i}.gt_bboxes_ignore': torch.tensor(b) for i, b in enumerate(CROWD)})
        meta = dict(meta or {}, ignore_iof_thr=str(IOF))
    save(path, tensors, meta)


# The starting weights are the arch's own, warmed up without crowd boxes.
os.makedirs(sys.argv[sys.argv.index('--out') + 1], exist_ok=True)
oracle.ensure_init(sys.argv[sys.argv.index('--arch') + 1], sys.argv[sys.argv.index('--out') + 1])
oracle.preprocess, oracle.model_config, oracle.save_st = with_crowd, ignoring, save_with_crowd
sys.argv = ['oracle.py', 'dump'] + sys.argv[2:]
oracle.main()
