"""What a torchrun rank of bench/compare runs: the model of configs/quick/bccd.textproto from mmdetection's modules, DDP over Gloo,
from the newest checkpoint in the folder, which rank 0 writes every 5 steps. Appends "time node step" to FOLDER/events when the
first collective of a step is through (monotonic clock). Torch's SyncBatchNorm knows no CPU, so the collective that it would
issue at the first BatchNorm is issued there by hand."""
import argparse
import json
import os
import pathlib
import sys
import time
import zipfile

parser = argparse.ArgumentParser()
parser.add_argument("--shared", type=pathlib.Path, required=True)
parser.add_argument("--folder", type=pathlib.Path, required=True)
parser.add_argument("--index", type=int, required=True)
options = parser.parse_args()
sys.path.insert(0, str(options.shared / "oracle"))

import numpy as np  # noqa: E402
import oracle  # noqa: E402
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

CANVAS = (256, 320)


def build():
    import mmdet.models  # noqa: F401
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope
    init_default_scope("mmdet")
    oracle.quiet()
    config = oracle.model_config("w18", 3, norm_eval=False)
    extra = oracle.hrnet_extra(8, tiny=True)
    extra["stage1"]["num_channels"] = (16,)
    config["backbone"] = dict(type="HRNet", extra=extra, norm_eval=False)
    config["neck"] = dict(type="HRFPN", in_channels=[8, 16, 32, 64], out_channels=64)
    config["rpn_head"].update(in_channels=64, feat_channels=64)
    config["rpn_head"]["anchor_generator"]["scales"] = [4]
    extractor = config["roi_head"]["bbox_roi_extractor"]
    extractor["out_channels"] = 64
    extractor["roi_layer"]["sampling_ratio"] = 2
    config["roi_head"]["bbox_head"].update(in_channels=64, fc_out_channels=128)
    config["train_cfg"]["rcnn"]["sampler"]["num"] = 128
    config["train_cfg"]["rpn_proposal"].update(nms_pre=500, max_per_img=200)
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(config))
    model.init_weights()
    return model


class Loss(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images, samples):
        return oracle.total_loss(self.model.loss(images, samples))[0]


class Images:
    def __init__(self, data):
        annotations = json.load(open(data / "annotations/instances_train.json"))
        self.images = annotations["images"]
        self.boxes = {}
        for item in annotations["annotations"]:
            self.boxes.setdefault(item["image_id"], []).append(item)
        self.zip = zipfile.ZipFile(data / "images/train.zip")
        self.names = {name.split("/")[-1]: name for name in self.zip.namelist()}
        self.labels = {c["id"]: i for i, c in enumerate(sorted(annotations["categories"], key=lambda c: c["id"]))}

    def batch(self, step, rank, world):
        import cv2
        from mmdet.structures import DetDataSample
        from mmengine.structures import InstanceData
        batch, samples = torch.zeros(2, 3, *CANVAS), []
        for k in range(2):
            info = self.images[(step * world * 2 + rank * 2 + k) % len(self.images)]
            raw = cv2.imdecode(np.frombuffer(self.zip.read(self.names[info["file_name"]]), np.uint8), 1)
            factor = min(320 / max(raw.shape[:2]), 240 / min(raw.shape[:2]))
            width, height = int(raw.shape[1] * factor + .5), int(raw.shape[0] * factor + .5)
            resized = cv2.resize(raw, (width, height))[:, :, ::-1].transpose(2, 0, 1).copy()
            batch[k, :, :height, :width] = (torch.from_numpy(resized).float() - 115) / 58
            found = self.boxes.get(info["id"], [])
            corners = np.array([[b["bbox"][0], b["bbox"][1], b["bbox"][0] + b["bbox"][2], b["bbox"][1] + b["bbox"][3]]
                                for b in found], np.float32).reshape(-1, 4) * np.float32(factor)
            sample = DetDataSample(metainfo=dict(img_shape=(height, width), pad_shape=CANVAS, batch_input_shape=CANVAS,
                                                 ori_shape=raw.shape[:2], scale_factor=(factor, factor)))
            sample.gt_instances = InstanceData(bboxes=torch.from_numpy(corners), labels=torch.tensor(
                [self.labels[b["category_id"]] for b in found], dtype=torch.int64))
            samples.append(sample)
        return batch, samples


def main():
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(1)
    images = Images(options.shared / "data/bccd")
    loss = Loss(build())
    loss.train()
    checkpoint = options.folder / "checkpoint.pth"
    step = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        loss.load_state_dict(saved["model"])
        step = saved["step"]
    events = open(options.folder / "events", "a", buffering=1)
    started = [-1]

    def collective(*_):
        if started[0] == step:
            return
        started[0] = step
        dist.all_reduce(torch.zeros(64))
        events.write(f"{time.monotonic():.6f} {options.index} {step}\n")

    next(m for m in loss.modules() if isinstance(m, torch.nn.BatchNorm2d)).register_forward_pre_hook(collective)
    ddp = torch.nn.parallel.DistributedDataParallel(loss)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=.005, momentum=.9, weight_decay=1e-4)
    while True:
        optimizer.zero_grad()
        ddp(*images.batch(step, rank, world)).backward()
        torch.nn.utils.clip_grad_norm_(ddp.parameters(), 35)
        optimizer.step()
        step += 1
        if rank == 0 and step % 5 == 0:
            partial = checkpoint.with_suffix(".partial")
            torch.save({"model": loss.state_dict(), "step": step}, partial)
            os.rename(partial, checkpoint)


main()
