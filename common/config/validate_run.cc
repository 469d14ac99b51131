#include "common/config/validate_run.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"

#include "common/config/collective_variables.h"

namespace muster::config {
namespace {

double Seconds(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + duration.nanos() * 1e-9;
}

// The longest name that Linux gives an interface.
constexpr size_t kLongestInterface = 15;

void CheckElastic(Checker* check, const v1::TrainJob& job) {
  const v1::Resources& resources = job.resources();
  check->InRange<uint32_t>("resources.min_nodes", resources.min_nodes(), 1, resources.nodes());
  // A rank needs an image of each step.
  const uint32_t most = resources.elastic_batch() == v1::ELASTIC_BATCH_KEEP
                            ? resources.nodes() * std::max(1U, job.data().images_per_rank())
                            : 4096;
  check->InRange<uint32_t>("resources.max_nodes", resources.max_nodes(), resources.nodes(), most);
  check->KnownEnum("resources.elastic_batch", resources.elastic_batch(), v1::ElasticBatch_IsValid);
}

void CheckPlacement(Checker* check, const v1::Resources& resources) {
  check->InRange<int32_t>("resources.priority", resources.priority(), -1000, 1000);
  if (resources.has_max_run_time()) {
    check->Positive("resources.max_run_time", Seconds(resources.max_run_time()));
  }
  for (const auto& [label, value] : resources.node_labels()) {
    if (label.empty()) check->Add("resources.node_labels", "has a label without a name");
  }
  for (int i = 0; i < resources.gpu_types_size(); ++i) {
    if (resources.gpu_types(i).empty()) {
      check->Add(absl::StrCat("resources.gpu_types[", i, "]"), "is empty");
    }
  }
}

void CheckDistributed(Checker* check, const v1::Distributed& distributed) {
  check->Positive("distributed.bucket_cap_bytes",
                  static_cast<double>(distributed.bucket_cap_bytes()));
  check->Positive("distributed.timeout", Seconds(distributed.timeout()));
  const std::string& interface = distributed.interface();
  if (interface.size() > kLongestInterface ||
      interface.find_first_of("/, =^\t\n") != std::string::npos) {
    check->Add("distributed.interface", absl::StrCat("'", interface, "' is no interface's name"));
  }
  for (const auto& [name, value] : distributed.environment()) {
    if (!IsCollectiveVariable(name)) {
      check->Add("distributed.environment",
                 absl::StrCat("'", name, "' must begin with NCCL_, GLOO_ or TORCH_NCCL_"));
    }
  }
}

}  // namespace

void CheckRun(Checker* check, const v1::TrainJob& job) {
  const v1::Resources& resources = job.resources();
  check->InRange<uint32_t>("resources.nodes", resources.nodes(), 1, 4096);
  check->InRange<uint32_t>("resources.ranks_per_node", resources.ranks_per_node(), 1, 64);
  check->KnownEnum("resources.device", resources.device(), v1::Device_IsValid);
  check->InRange<uint32_t>("resources.max_restarts", resources.max_restarts(), 0, 1000);
  check->InRange("resources.grace_period", Seconds(resources.grace_period()), 0.0, 3600.0);
  check->InRange("resources.start_timeout", Seconds(resources.start_timeout()), 1.0, 86400.0);
  check->InRange("resources.restart_backoff", Seconds(resources.restart_backoff()), 0.0, 300.0);
  CheckElastic(check, job);
  CheckPlacement(check, resources);
  CheckDistributed(check, job.distributed());
  if (job.checkpointing().has_every()) {
    check->Positive("checkpointing.every", Seconds(job.checkpointing().every()));
  }
  check->Positive("checkpointing.keep_last", job.checkpointing().keep_last());
}

}  // namespace muster::config
