#!/usr/bin/env python3
"""Writes input_*.safetensors: what OpenCV, Pillow and mmcv make of small pictures.

    python make_input_cases.py FOLDER [--seed N] [--sides N]

Needs numpy, cv2, PIL, mmcv (or mmcv-lite) and safetensors. tests/parity/input_cases_test.cc compares the data
pipeline with these files: those under tests/golden/input (made with the defaults) and those in
$MUSTER_PARITY_CASES. Each file holds the bytes of one image file and what the steps of the pipeline give; its
metadata "case" is a JSON object with the steps' parameters. Boxes are half-open xyxy.
"""
import argparse
import io
import json
import pathlib

import cv2
import mmcv
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
DIVISOR = 32


def picture(random, width, height):
    """Waves under some noise, RGB: what scaling filters differ on."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    channels = []
    for _ in range(3):
        phase, across, down = random.uniform(0, 6), random.uniform(0.05, 0.6), random.uniform(0.05, 0.6)
        channels.append(128 + 110 * np.sin(phase + across * x + down * y) + random.normal(0, 12, x.shape))
    return np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, "JPEG", quality=92, exif=exif.tobytes())


def files(random, sides):
    """name -> bytes of one file of each kind."""
    rgb = picture(random, sides + 16, sides)
    image = Image.fromarray(rgb)
    grey = image.convert("L")
    alpha = np.dstack([rgb, picture(random, sides + 16, sides)[..., 0]])
    wide = (rgb.astype(np.uint16) << 8) | random.integers(0, 256, rgb.shape).astype(np.uint16)
    made = {
        "jpeg444": encode(image, "JPEG", quality=95, subsampling=0),
        "jpeg420": encode(image, "JPEG", quality=85, subsampling=2),
        "progressive": encode(image, "JPEG", quality=85, progressive=True),
        "grey": encode(grey, "JPEG", quality=90),
        "cmyk": encode(image.convert("CMYK"), "JPEG", quality=95),
        "png": encode(image, "PNG"),
        "png_palette": encode(image.quantize(64), "PNG"),
        "png_alpha": encode(Image.fromarray(alpha), "PNG"),
        "png_grey": encode(grey, "PNG"),
        "png_grey_alpha": encode(image.convert("LA"), "PNG"),
        "png_1bit": encode(image.convert("1"), "PNG"),
        "png_16bit": cv2.imencode(".png", wide)[1].tobytes(),
    }
    for orientation in (3, 6, 8):
        made[f"exif{orientation}"] = turned(image, orientation)
    return made


def resize_step(rgb, scale):
    """mmcv's imrescale and the new size, as mmdetection's Resize(keep_ratio=True) calls it."""
    resized, factor = mmcv.imrescale(rgb, scale, return_scale=True, interpolation="bilinear", backend="cv2")
    return resized, factor


def boxes_mmdet3(boxes, old, new, flip):
    (old_h, old_w), (new_h, new_w) = old, new
    out = boxes * np.array([new_w / old_w, new_h / old_h] * 2, np.float32)
    out[:, 0::2] = np.clip(out[:, 0::2], 0, new_w)
    out[:, 1::2] = np.clip(out[:, 1::2], 0, new_h)
    if flip:
        flipped = out.copy()
        flipped[:, 0] = new_w - out[:, 2]
        flipped[:, 2] = new_w - out[:, 0]
        out = flipped
    return out


def boxes_v06(boxes, factor, new, flip):
    """mmdetection 0.6's BboxTransform on inclusive corners, given back half-open."""
    new_h, new_w = new
    one = np.array([0, 0, 1, 1], np.float32)
    out = (boxes - one) * np.float32(factor)
    if flip:
        flipped = out.copy()
        flipped[:, 0] = new_w - out[:, 2] - 1
        flipped[:, 2] = new_w - out[:, 0] - 1
        out = flipped
    out[:, 0::2] = np.clip(out[:, 0::2], 0, new_w - 1)
    out[:, 1::2] = np.clip(out[:, 1::2], 0, new_h - 1)
    return out + one


def batch_of(rgb, flip):
    """Flipped, normalised and padded with zeros to the divisor, (3, H, W)."""
    image = mmcv.imflip(rgb) if flip else rgb
    image = (image.astype(np.float32) - MEAN) / STD
    height, width = (-(-side // DIVISOR) * DIVISOR for side in rgb.shape[:2])
    return np.ascontiguousarray(mmcv.impad(image, shape=(height, width), pad_val=0).transpose(2, 0, 1))


def pillow_step(rgb, to, crop):
    left, top, width, height = crop
    resized = Image.fromarray(rgb).resize(to, Image.BILINEAR)
    return np.asarray(resized)[top:top + height, left:left + width].copy()


def distort(rgb, draw):
    """mmdetection's PhotoMetricDistortion with its draws given; the channels' order is that of RGB."""
    image = rgb.astype(np.float32)
    image += np.float32(draw["brightness"])
    if draw["contrast_first"]:
        image *= np.float32(draw["contrast"])
    image = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    image[..., 1] *= np.float32(draw["saturation"])
    if draw["limit_saturation"] and draw["saturation"] > 1:
        image[..., 1] = image[..., 1].clip(0, 1)
    image[..., 0] += np.float32(draw["hue"])
    image[..., 0][image[..., 0] > 360] -= 360
    image[..., 0][image[..., 0] < 0] += 360
    image = cv2.cvtColor(image, cv2.COLOR_HSV2RGB)
    if not draw["contrast_first"]:
        image *= np.float32(draw["contrast"])
    return np.ascontiguousarray(image[..., draw["channels"]])


def random_boxes(random, width, height, count):
    """Some stick out, some are tiny; two decimals as in COCO."""
    x = random.uniform(-3, width - 2, count)
    y = random.uniform(-3, height - 2, count)
    w = random.uniform(1, width, count)
    h = random.uniform(1, height, count)
    return np.round(np.stack([x, y, x + w, y + h], -1), 2).astype(np.float32)


def transform_case(random, width, height):
    rgb = picture(random, width, height)
    boxes = random_boxes(random, width, height, 12)
    tensors = {"picture": rgb, "boxes": boxes}
    case = {"resize": [], "batch": [], "pillow": [], "distort": []}
    long_side, short_side = max(width, height), min(width, height)
    for share in (1.37, 0.61, 0.3):
        scale = (max(8, round(long_side * share)), max(8, round(short_side * share)))
        resized, factor = resize_step(rgb, scale)
        index = len(case["resize"])
        case["resize"].append(list(scale))
        tensors[f"resized.{index}"] = resized
        for flip in (0, 1):
            tensors[f"boxes_mmdet3.{index}.{flip}"] = boxes_mmdet3(boxes, rgb.shape[:2], resized.shape[:2], flip)
            tensors[f"boxes_seed.{index}.{flip}"] = boxes_v06(boxes, factor, resized.shape[:2], flip)
    for index, flip in ((2, 0), (2, 1)):
        tensors[f"batch.{len(case['batch'])}"] = batch_of(tensors[f"resized.{index}"], flip)
        case["batch"].append({"resized": index, "flip": flip})
    for share in (1.5, 0.73, 0.2):
        to = (max(2, int(width * share)), max(2, int(height * share)))
        size = (max(1, to[0] * 2 // 3), max(1, to[1] * 3 // 4))
        crop = (int(random.integers(0, to[0] - size[0] + 1)), int(random.integers(0, to[1] - size[1] + 1)), *size)
        tensors[f"pillow.{len(case['pillow'])}"] = pillow_step(rgb, to, crop)
        case["pillow"].append({"to": to, "crop": crop})
    for first, limit, saturation in ((True, True, 1.5), (False, False, 1.43), (True, False, 0.52)):
        draw = {"brightness": float(random.uniform(-32, 32)), "contrast_first": first,
                "contrast": float(random.uniform(0.5, 1.5)), "saturation": saturation, "limit_saturation": limit,
                "hue": float(random.uniform(-18, 18)), "channels": [int(c) for c in random.permutation(3)]}
        part = rgb[:16, :16]
        tensors[f"distorted.{len(case['distort'])}"] = distort(part, draw)
        tensors["distort_picture"] = np.ascontiguousarray(part)
        case["distort"].append(draw)
    return tensors, case


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sides", type=int, default=23, help="about the sides of the pictures, in pixels")
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    cases = {}
    for name, data in files(random, arguments.sides).items():
        rgb = np.ascontiguousarray(mmcv.imfrombytes(data, flag="color", channel_order="rgb", backend="cv2"))
        cases[name] = ({"file": np.frombuffer(data, np.uint8), "decoded": rgb}, {})
    side = arguments.sides
    for name, width, height in (("landscape", side + 18, side), ("portrait", side - 3, side + 16),
                                ("square", side + 2, side + 2), ("stretched", 3 * side, side // 2)):
        cases[name] = transform_case(random, width, height)
    for name, (tensors, case) in cases.items():
        metadata = {"case": json.dumps(case), "cv2": cv2.__version__, "numpy": np.__version__}
        save_file(tensors, arguments.folder / f"input_{name}.safetensors", metadata)


if __name__ == "__main__":
    main()
