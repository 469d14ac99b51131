#include "worker/daemon/trainer_service.h"

#include "common/base/status_macros.h"
#include "common/rpc/errors.h"

namespace muster::worker {

absl::Status TrainerService::Start(const std::filesystem::path& socket) {
  MUSTER_ASSIGN_OR_RETURN(server_, rpc::Server::Start({.address = "unix:" + socket.string(),
                                                       .services = {this},
                                                       .credentials = nullptr}));
  return absl::OkStatus();
}

void TrainerService::Stop() {
  if (server_ == nullptr) return;
  server_->Shutdown(absl::Seconds(1));
  server_.reset();
}

grpc::Status TrainerService::Report(grpc::ServerContext* /*context*/,
                                    const internal::TrainerReport* report,
                                    internal::TrainerReportReply* reply) {
  const absl::StatusOr<bool> stop = deps_.manager->OnReport(*report);
  if (!stop.ok()) return rpc::ToGrpcStatus(stop.status());
  reply->set_stop(*stop);
  reply->set_dump_collectives(deps_.collectives->OnReport(*report));
  deps_.progress->Update(*report);
  deps_.metrics->Update(*report);
  if (report->has_checkpoint()) {
    v1::Checkpoint checkpoint = report->checkpoint();
    checkpoint.set_job(report->job());
    deps_.outbox->AddCheckpoint(checkpoint);
  }
  if (report->has_evaluation()) {
    v1::EvaluationReport evaluation;
    evaluation.set_job(report->job());
    evaluation.set_generation(report->generation());
    *evaluation.mutable_result() = report->evaluation();
    deps_.outbox->AddEvaluation(evaluation);
  }
  return grpc::Status::OK;
}

}  // namespace muster::worker
