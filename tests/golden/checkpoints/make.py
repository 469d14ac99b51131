#!/usr/bin/env python3
"""Makes the checkpoints of this folder: make.py FOLDER, with torch, mmengine and numpy.

They were made by torch 2.14.1, mmengine 0.10.7 and numpy 2.4.6. modern.pth and old.pth (the format
before PyTorch 1.6) hold the same: every element type, views, shared memory, and beside the tensors
what mmengine's runner leaves there, objects of its own classes and numpy's.
"""
import os
import sys
from collections import OrderedDict

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging.history_buffer import HistoryBuffer

folder = sys.argv[1]


def state_dict():
    module = torch.nn.BatchNorm1d(3)
    state = module.state_dict()  # an OrderedDict with _metadata
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    state["whole"] = base
    state["row"] = base[1]  # shares the memory
    state["transposed"] = base.t()
    state["every_other"] = base[:, ::2]
    state["parameter"] = torch.nn.Parameter(torch.tensor([1.5, -2.0]))
    state["scalar"] = torch.tensor(2.5)
    state["empty"] = torch.empty(0, 4)
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int16,
                  torch.int8, torch.uint8):
        state[str(dtype)] = torch.tensor([0, 1, 2, 100]).to(dtype)
    state["torch.bool"] = torch.tensor([True, False, True])
    return OrderedDict(("module." + key, value) for key, value in state.items())


def checkpoint():
    history = HistoryBuffer(np.array([0.5, 0.25]), np.array([1, 1]))
    return {
        "meta": {
            "epoch": 3, "iter": 1 << 40, "negative": -7, "lr": 0.02, "none": None, "yes": True,
            "dataset_meta": {"classes": ("cat", "d\u00f6g")},
            "numpy": np.float64(0.5), "array": np.arange(3), "set": {1, 2},
            "config": ConfigDict(model=dict(type="FasterRCNN")), "size": torch.Size([2, 3]),
            "dtype": torch.float32, "device": torch.device("cpu"),
        },
        "state_dict": state_dict(),
        "message_hub": {"log_scalars": OrderedDict([("train/loss", history)]),
                        "runtime_info": OrderedDict(), "resumed_keys": {"train/loss": True}},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}},
                      "param_groups": [{"lr": 0.02, "params": [0]}]},
        "param_schedulers": [{"last_step": 3}],
    }


class Call:
    def __init__(self, function, *arguments):
        self.value = function, arguments

    def __reduce__(self):
        return self.value


def save(name, value, **options):
    torch.save(value, os.path.join(folder, name), **options)


save("modern.pth", checkpoint())
save("old.pth", checkpoint(), _use_new_zipfile_serialization=False)
save("protocol_4.pth", {"state_dict": OrderedDict(weight=torch.ones(2))}, pickle_protocol=4)
save("calls_system.pth", Call(os.system, "touch executed"))
save("calls_system_in_state_dict.pth",
     {"state_dict": OrderedDict(weight=Call(os.system, "touch executed"))})
save("config_in_state_dict.pth", {"state_dict": OrderedDict(weight=ConfigDict(a=1))})
save("whole_module.pth", torch.nn.Linear(1, 1))
