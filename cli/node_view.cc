#include "cli/node_view.h"

#include <google/protobuf/util/time_util.h>

#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

#include "cli/format.h"

namespace muster::cli {
namespace {

using google::protobuf::util::TimeUtil;

std::string Labels(const v1::Node& node) {
  const auto& labels = node.inventory().labels();
  return absl::StrJoin(std::map<std::string, std::string>(labels.begin(), labels.end()), ",",
                       absl::PairFormatter("="));
}

// "8x NVIDIA H100 80GB HBM3": what resources.gpu_types names.
std::string Gpus(const v1::Node& node) {
  std::map<std::string, int> counts;
  for (const v1::Gpu& gpu : node.inventory().gpus()) ++counts[gpu.type()];
  if (counts.empty()) return "0";
  return absl::StrJoin(counts, ", ", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, entry.second);
    if (!entry.first.empty()) absl::StrAppend(out, "x ", entry.first);
  });
}

// "Preempt in 25s", "Reboot started"
std::string Maintenance(const v1::Node& node, absl::Time now) {
  return absl::StrJoin(
      node.maintenance(), ", ", [&](std::string* out, const v1::MaintenanceEvent& event) {
        const absl::Duration notice =
            absl::FromUnixNanos(TimeUtil::TimestampToNanoseconds(event.not_before())) - now;
        absl::StrAppend(out, event.type());
        if (event.status() == "Started") {
          absl::StrAppend(out, " started");
        } else if (!event.has_not_before() || notice <= absl::ZeroDuration()) {
          absl::StrAppend(out, " now");
        } else {
          absl::StrAppend(out, " in ", DurationText(notice));
        }
      });
}

}  // namespace

std::string NodeStateName(const v1::Node& node) {
  if (node.state() != v1::Node::STATE_READY) {
    return std::string(absl::StripPrefix(v1::Node::State_Name(node.state()), "STATE_"));
  }
  if (node.draining()) return node.jobs().empty() ? "DRAINED" : "DRAINING";
  return node.cordoned() ? "CORDONED" : "READY";
}

std::string NodeTable(const std::vector<v1::Node>& nodes, absl::Time now) {
  std::vector<std::vector<std::string>> rows = {{"NAME", "STATE", "SLOTS", "CORES", "GPUS",
                                                 "ADDRESS", "HEARTBEAT", "LABELS", "MAINTENANCE",
                                                 "REASON", "JOBS"}};
  std::set<size_t> used;
  for (const v1::Node& node : nodes) {
    rows.push_back({node.name(), NodeStateName(node),
                    absl::StrCat(node.slots_used(), "/", node.inventory().slots()),
                    absl::StrCat(node.inventory().cores()), Gpus(node), node.inventory().address(),
                    AgeText(node.last_heartbeat_time(), now), Labels(node), Maintenance(node, now),
                    node.cordon_reason(), absl::StrJoin(node.jobs(), ", ")});
    for (size_t column = 0; column < rows.back().size(); ++column) {
      if (!rows.back()[column].empty()) used.insert(column);
    }
  }
  // Those that most clusters never fill.
  for (std::vector<std::string>& row : rows) {
    for (size_t column = 9; column >= 7; --column) {
      if (used.count(column) == 0) row.erase(row.begin() + static_cast<std::ptrdiff_t>(column));
    }
  }
  return FormatTable(rows);
}

std::string DrainLine(const v1::Node& node) {
  std::string line = absl::StrCat(node.name(), " ", NodeStateName(node));
  if (!node.jobs().empty()) {
    absl::StrAppend(&line, "; ", node.jobs_size(), node.jobs_size() == 1 ? " job" : " jobs",
                    " left: ", absl::StrJoin(node.jobs(), ", "));
  }
  return line;
}

}  // namespace muster::cli
