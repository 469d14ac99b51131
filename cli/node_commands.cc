#include "cli/node_commands.h"

#include <ostream>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "cli/format.h"
#include "cli/interrupt.h"
#include "cli/node_view.h"
#include "common/base/exit_codes.h"

namespace muster::cli {
namespace {

constexpr absl::Duration kLookInterval = absl::Milliseconds(500);

int Fail(const Context& context, const grpc::Status& status) {
  context.err << "muster: " << context.client.Explain(status) << "\n";
  return ExitCodeFor(status);
}

std::string NodeName(const std::string& node) {
  return absl::StartsWith(node, "nodes/") ? node : absl::StrCat("nodes/", node);
}

int Show(const grpc::Status& status, const v1::Node& node, bool json, const Context& context) {
  if (!status.ok()) return Fail(context, status);
  context.out << (json ? ToJson(node) : absl::StrCat(node.name(), " ", NodeStateName(node)))
              << std::endl;
  return base::kExitCompleted;
}

// What `muster drain` has printed and said.
class DrainPrinter {
 public:
  DrainPrinter(bool json, const Context& context) : json_(json), context_(context) {}

  void Print(const v1::Node& node) {
    away_ = false;
    const std::string line = DrainLine(node);
    if (line == last_) return;
    last_ = line;
    context_.out << (json_ ? ToJson(node) : line) << std::endl;
  }
  void SayAway() {
    if (away_) return;
    away_ = true;
    context_.err << "muster: the coordinator is away; waiting for it\n";
  }

 private:
  const bool json_;
  const Context& context_;
  std::string last_;
  bool away_ = false;
};

}  // namespace

int Nodes(bool json, const Context& context) {
  std::vector<v1::Node> nodes;
  v1::ListNodesRequest request;
  request.set_page_size(1000);
  do {
    v1::ListNodesResponse response;
    const grpc::Status status = context.client.ListNodes(request, &response);
    if (!status.ok()) return Fail(context, status);
    nodes.insert(nodes.end(), response.nodes().begin(), response.nodes().end());
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  if (json) {
    for (const v1::Node& node : nodes) context.out << ToJson(node) << "\n";
  } else if (nodes.empty()) {
    context.out << "no nodes; start muster-worker --coordinator ... on each machine\n";
  } else {
    context.out << NodeTable(nodes, context.clock.Now());
  }
  return base::kExitCompleted;
}

int Cordon(const std::string& name, const std::string& reason, bool json, const Context& context) {
  v1::CordonNodeRequest request;
  request.set_name(NodeName(name));
  request.set_reason(reason);
  v1::Node node;
  const grpc::Status status = context.client.CordonNode(request, &node);
  return Show(status, node, json, context);
}

int Uncordon(const std::string& name, bool json, const Context& context) {
  v1::UncordonNodeRequest request;
  request.set_name(NodeName(name));
  v1::Node node;
  const grpc::Status status = context.client.UncordonNode(request, &node);
  return Show(status, node, json, context);
}

int Drain(const std::string& name, const std::string& reason, bool json, const Context& context) {
  // First, so that its thread's signals are blocked in those that gRPC starts.
  const InterruptWatcher interrupt([] {});
  v1::DrainNodeRequest request;
  request.set_name(NodeName(name));
  request.set_reason(reason);
  v1::Node node;
  grpc::Status status = context.client.DrainNode(request, &node);
  if (!status.ok()) return Fail(context, status);
  DrainPrinter printer(json, context);
  while (true) {
    if (status.ok()) {
      printer.Print(node);
      if (node.jobs().empty()) return base::kExitCompleted;
      if (!node.draining()) {
        context.err << "muster: the draining of " << node.name() << " was ended by somebody\n";
        return base::kExitJobFailed;
      }
    } else if (ExitCodeFor(status) == base::kExitUnavailable) {
      printer.SayAway();
    } else {
      return Fail(context, status);
    }
    if (interrupt.WaitFor(kLookInterval)) {
      const std::string plain(absl::StripPrefix(node.name(), "nodes/"));
      context.err << node.name() << " goes on draining; see it with: muster nodes; end it with: "
                  << "muster uncordon " << plain << "\n";
      return base::kExitCompleted;
    }
    v1::Node looked;
    status = context.client.GetNode(node.name(), &looked);
    if (status.ok()) node = looked;
  }
}

}  // namespace muster::cli
