#include "worker/dist/cuda_plugin.h"

#include <dlfcn.h>

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

#include "common/base/status_macros.h"

namespace muster::dist {
namespace {

constexpr char kLibrary[] = "libmuster_cuda.so";

// Where the library lies beside the program; empty when it is not there.
std::filesystem::path FindLibrary() {
  std::error_code error;
  const std::filesystem::path folder =
      std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  for (const std::filesystem::path& candidate :
       {folder.parent_path() / "lib" / kLibrary, folder / kLibrary}) {
    if (std::filesystem::exists(candidate, error)) return candidate;
  }
  return {};
}

absl::StatusOr<CudaPlugin> Load(std::filesystem::path file) {
  if (file.empty()) file = FindLibrary();
  std::error_code error;
  if (file.empty() || !std::filesystem::exists(file, error)) {
    return absl::NotFoundError(absl::StrCat(
        "this build has no CUDA parts (lib/", kLibrary,
        " is not there): install the CUDA toolkit, run scripts/setup --cuda and build with "
        "-DMUSTER_CUDA=ON, or use device: DEVICE_CPU"));
  }
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("the CUDA parts cannot be loaded: ", dlerror()));
  }
  using Fill = void (*)(CudaPlugin*);
  const auto fill = reinterpret_cast<Fill>(dlsym(library, "muster_cuda_plugin"));
  if (fill == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(file.string(), " is not muster's CUDA library: ", dlerror()));
  }
  CudaPlugin plugin;
  fill(&plugin);
  return plugin;
}

absl::Mutex loaded_mutex(absl::kConstInit);
std::optional<CudaPlugin> loaded ABSL_GUARDED_BY(loaded_mutex);

}  // namespace

absl::StatusOr<CudaPlugin> LoadCudaPlugin(const std::filesystem::path& file) {
  absl::MutexLock lock(&loaded_mutex);
  if (!loaded.has_value()) {
    MUSTER_ASSIGN_OR_RETURN(loaded, Load(file));
  }
  return *loaded;
}

std::optional<CudaPlugin> LoadedCudaPlugin() {
  absl::MutexLock lock(&loaded_mutex);
  return loaded;
}

absl::StatusOr<CudaPlugin> RequireCudaDevice(int index) {
  absl::StatusOr<CudaPlugin> plugin = LoadCudaPlugin();
  if (!plugin.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("device CUDA asked for, but ", plugin.status().message()));
  }
  char reason[256] = "";
  const int count = plugin->device_count(reason, sizeof(reason));
  if (count == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("device CUDA asked for, but no CUDA device is visible: ", reason,
                     "; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use device: DEVICE_CPU"));
  }
  if (index >= count) {
    return absl::FailedPreconditionError(absl::StrCat("device CUDA ", index,
                                                      " asked for, but this node has only ", count,
                                                      ": lower resources.ranks_per_node"));
  }
  return plugin;
}

}  // namespace muster::dist
