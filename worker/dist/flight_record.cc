#include "worker/dist/flight_record.h"

#include <algorithm>
#include <exception>
#include <map>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include <torch/csrc/distributed/c10d/FlightRecorder.hpp>

#include "worker/dist/cuda_plugin.h"
#include <nlohmann/json.hpp>

namespace muster::dist {
namespace {

using State = FlightRecord::State;

State StateOf(const nlohmann::json& entry) {
  const std::string state = entry.at("state");
  // Gloo's entries have no events: it only retires them at their end.
  if (state == "completed" || entry.at("retired") == true) return State::kCompleted;
  return state == "started" ? State::kStarted : State::kScheduled;
}

void Read(const std::string& dump, std::vector<FlightRecord>* records) {
  const nlohmann::json json = nlohmann::json::parse(dump);
  if (!json.contains("entries")) return;
  for (const nlohmann::json& entry : json.at("entries")) {
    FlightRecord record;
    record.group = entry.at("process_group").at(1);
    if (record.group.empty()) continue;
    record.sequence = entry.at("collective_seq_id");
    // "gloo:all_reduce"
    const std::string name = entry.at("profiling_name");
    record.operation = name.substr(name.find(':') + 1);
    record.state = StateOf(entry);
    records->push_back(std::move(record));
  }
}

}  // namespace

absl::StatusOr<std::vector<FlightRecord>> NewestCollectives(size_t per_group) {
  std::vector<FlightRecord> all;
  try {
    Read(c10d::dump_fr_trace_json(/*includeCollectives=*/true, /*onlyActive=*/false), &all);
    if (const std::optional<CudaPlugin> plugin = LoadedCudaPlugin(); plugin.has_value()) {
      Read(plugin->dump_nccl_trace_json(), &all);
    }
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat("c10d's flight recorder: ", error.what()));
  }
  std::map<std::string, size_t> kept;
  std::vector<FlightRecord> newest;
  for (auto record = all.rbegin(); record != all.rend(); ++record) {
    if (++kept[record->group] <= per_group) newest.push_back(*record);
  }
  std::reverse(newest.begin(), newest.end());
  return newest;
}

}  // namespace muster::dist
