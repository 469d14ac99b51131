#pragma once

#include <google/protobuf/descriptor.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/support/server_callback.h>

#include <cstdlib>
#include <string>
#include <utility>

#include "common/base/log.h"
#include "common/rpc/errors.h"
#include "coordinator/service/access_control.h"
#include "coordinator/service/access_service.h"
#include "coordinator/service/job_service.h"
#include "coordinator/service/node_service.h"
#include "coordinator/service/worker_service.h"

namespace muster::coordinator {

// A service over gRPC's callback API with AccessControl before each of its methods: `Base` never
// sees a call that is refused. GuardMethods, one specialization a service (guarded_service.cc),
// names the methods; a method that is missing there or in the permission table ends the program at
// the start, so that no new RPC can go out unguarded.
template <typename Base>
class Guarded : public Base {
 public:
  template <typename... Arguments>
  explicit Guarded(AccessControl* access, Arguments&&... arguments)
      : Base(std::forward<Arguments>(arguments)...), access_(access) {
    GuardMethods();
    if (service_ != nullptr && guarded_ == service_->method_count()) return;
    base::Log(base::LogSeverity::kError, "coordinator", "a service has methods without a guard",
              {{"service", service_ == nullptr ? "?" : service_->full_name()}});
    std::abort();
  }

 private:
  void GuardMethods();

  void GuardService(const std::string& name) {
    service_ = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
  }

  template <typename Class, typename Request, typename Reply>
  void Guard(const std::string& name,
             grpc::ServerUnaryReactor* (Class::*method)(grpc::CallbackServerContext*,
                                                        const Request*, Reply*)) {
    const std::string full_name = Register(name);
    this->MarkMethodCallback(
        IndexOf(name), new grpc::internal::CallbackUnaryHandler<Request, Reply>(
                           [this, method, full_name](grpc::CallbackServerContext* context,
                                                     const Request* request, Reply* reply) {
                             const absl::Status admitted = access_->AdmitRpc(full_name, *context);
                             if (admitted.ok()) return (this->*method)(context, request, reply);
                             grpc::ServerUnaryReactor* refused = context->DefaultReactor();
                             refused->Finish(rpc::ToGrpcStatus(admitted));
                             return refused;
                           }));
  }

  template <typename Class, typename Request, typename Reply>
  void Guard(const std::string& name,
             grpc::ServerWriteReactor<Reply>* (Class::*method)(grpc::CallbackServerContext*,
                                                               const Request*)) {
    const std::string full_name = Register(name);
    this->MarkMethodCallback(
        IndexOf(name), new grpc::internal::CallbackServerStreamingHandler<Request, Reply>(
                           [this, method, full_name](grpc::CallbackServerContext* context,
                                                     const Request* request) {
                             const absl::Status admitted = access_->AdmitRpc(full_name, *context);
                             if (admitted.ok()) return (this->*method)(context, request);
                             return static_cast<grpc::ServerWriteReactor<Reply>*>(
                                 new Refusal<grpc::ServerWriteReactor<Reply>>(admitted));
                           }));
  }

  template <typename Class, typename Request, typename Reply>
  void Guard(const std::string& name, grpc::ServerBidiReactor<Request, Reply>* (Class::*method)(
                                          grpc::CallbackServerContext*)) {
    const std::string full_name = Register(name);
    this->MarkMethodCallback(
        IndexOf(name), new grpc::internal::CallbackBidiHandler<Request, Reply>(
                           [this, method, full_name](grpc::CallbackServerContext* context) {
                             const absl::Status admitted = access_->AdmitRpc(full_name, *context);
                             if (admitted.ok()) return (this->*method)(context);
                             return static_cast<grpc::ServerBidiReactor<Request, Reply>*>(
                                 new Refusal<grpc::ServerBidiReactor<Request, Reply>>(admitted));
                           }));
  }

  // Answers a stream with an error.
  template <typename Reactor>
  class Refusal : public Reactor {
   public:
    explicit Refusal(const absl::Status& status) { this->Finish(rpc::ToGrpcStatus(status)); }
    void OnDone() override { delete this; }
  };

  int IndexOf(const std::string& name) const { return service_->FindMethodByName(name)->index(); }

  std::string Register(const std::string& name) {
    const std::string full_name = service_->full_name() + "/" + name;
    if (RpcPermission(full_name).has_value()) ++guarded_;
    return full_name;
  }

  AccessControl* const access_;
  const google::protobuf::ServiceDescriptor* service_ = nullptr;
  int guarded_ = 0;
};

template <>
void Guarded<AccessServiceImpl>::GuardMethods();
template <>
void Guarded<JobServiceImpl>::GuardMethods();
template <>
void Guarded<NodeServiceImpl>::GuardMethods();
template <>
void Guarded<WorkerServiceImpl>::GuardMethods();

}  // namespace muster::coordinator
