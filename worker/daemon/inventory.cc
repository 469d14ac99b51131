#include "worker/daemon/inventory.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <filesystem>
#include <system_error>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"

#include "common/base/files.h"

namespace muster::worker {

int AvailableCores() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 1;
  return std::max(1, CPU_COUNT(&cores));
}

std::vector<v1::Gpu> FindGpus(const std::string& driver_folder) {
  std::vector<v1::Gpu> gpus;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(driver_folder + "/gpus", ignored)) {
    const absl::StatusOr<std::string> text = base::ReadFile(entry.path() / "information");
    if (!text.ok()) continue;
    v1::Gpu gpu;
    for (absl::string_view line : absl::StrSplit(*text, '\n')) {
      const std::pair<absl::string_view, absl::string_view> field =
          absl::StrSplit(line, absl::MaxSplits(':', 1));
      const std::string value(absl::StripAsciiWhitespace(field.second));
      if (field.first == "Model") gpu.set_type(value);
      if (field.first == "GPU UUID") gpu.set_uuid(value);
    }
    gpus.push_back(std::move(gpu));
  }
  std::sort(gpus.begin(), gpus.end(),
            [](const v1::Gpu& a, const v1::Gpu& b) { return a.uuid() < b.uuid(); });
  return gpus;
}

v1::Inventory MachineInventory() {
  v1::Inventory inventory;
  inventory.set_cores(AvailableCores());
  inventory.set_memory_bytes(int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE));
  for (v1::Gpu& gpu : FindGpus()) *inventory.add_gpus() = std::move(gpu);
  char hostname[HOST_NAME_MAX + 1] = {};
  gethostname(hostname, HOST_NAME_MAX);
  inventory.set_hostname(hostname);
  if (const auto boot_id = base::ReadFile("/proc/sys/kernel/random/boot_id"); boot_id.ok()) {
    inventory.set_machine_id(std::string(absl::StripAsciiWhitespace(*boot_id)));
  }
  inventory.set_version(MUSTER_VERSION);
  return inventory;
}

}  // namespace muster::worker
