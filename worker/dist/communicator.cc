#include "worker/dist/communicator.h"

#include <c10/util/Exception.h>

#include <new>
#include <utility>

namespace muster::dist {
namespace {

class SoleCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  at::Tensor AllGather(const at::Tensor& local) override { return local.unsqueeze(0); }
  void AllReduceSum(const at::Tensor&) override {}
  void Broadcast(const at::Tensor&, int) override {}
  void Barrier() override {}
  std::vector<std::string> AllGatherBytes(const std::string& local) override { return {local}; }
  std::string BroadcastBytes(const std::string& bytes, int) override { return bytes; }
  int64_t collectives() const override { return 0; }
  absl::Duration waited() const override { return absl::ZeroDuration(); }
};

}  // namespace

CollectiveLost::CollectiveLost(std::string operation, const std::string& detail)
    : std::runtime_error(operation + ": " + detail), operation_(std::move(operation)) {}

std::unique_ptr<Communicator> MakeSoleCommunicator() {
  return std::make_unique<SoleCommunicator>();
}

void RethrowAsCollectiveLost(const std::string& operation) {
  try {
    throw;
  } catch (const CollectiveLost&) {
    throw;
  } catch (const c10::DistError& error) {
    throw CollectiveLost(operation, error.what_without_backtrace());
  } catch (const c10::Error&) {
    throw;
  } catch (const std::runtime_error& error) {
    // Gloo's own exceptions derive from std::runtime_error; its headers are not at hand to name
    // them.
    throw CollectiveLost(operation, error.what());
  }
}

}  // namespace muster::dist
