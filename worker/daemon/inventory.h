#pragma once

#include <string>
#include <vector>

#include "muster/v1/node.pb.h"

namespace muster::worker {

// Processors that this process may run on; at least 1.
int AvailableCores();

// The node's GPUs as the NVIDIA driver lists them below `driver_folder` (/proc/driver/nvidia); none
// where there is no driver. Their memory is not listed there and stays 0.
std::vector<v1::Gpu> FindGpus(const std::string& driver_folder = "/proc/driver/nvidia");

// Cores, memory, GPUs, host name, machine id and version; the rest is the caller's.
v1::Inventory MachineInventory();

}  // namespace muster::worker
