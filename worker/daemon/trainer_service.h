#pragma once

#include <filesystem>
#include <memory>

#include "absl/status/status.h"

#include "common/rpc/server.h"
#include "muster/internal/trainer_service.grpc.pb.h"
#include "worker/daemon/allocation_manager.h"
#include "worker/daemon/collective_requests.h"
#include "worker/daemon/outbox.h"
#include "worker/daemon/progress_board.h"
#include "worker/daemon/worker_metrics.h"

namespace muster::worker {

// Takes the local trainers' reports over a unix socket and passes them on: joins and failures to
// the allocation, progress to heartbeats and metrics, checkpoints and evaluations to the
// coordinator, collectives to who asked for them.
class TrainerService final : public internal::TrainerService::Service {
 public:
  struct Deps {
    AllocationManager* manager = nullptr;
    ProgressBoard* progress = nullptr;
    WorkerMetrics* metrics = nullptr;
    Outbox* outbox = nullptr;
    CollectiveRequests* collectives = nullptr;
  };

  explicit TrainerService(const Deps& deps) : deps_(deps) {}
  ~TrainerService() override { Stop(); }

  absl::Status Start(const std::filesystem::path& socket);
  // Answers what is under way and refuses the rest. Idempotent.
  void Stop();

  grpc::Status Report(grpc::ServerContext* context, const internal::TrainerReport* report,
                      internal::TrainerReportReply* reply) override;

 private:
  const Deps deps_;
  std::unique_ptr<rpc::Server> server_;
};

}  // namespace muster::worker
