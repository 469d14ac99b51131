#include "coordinator/service/guarded_service.h"

namespace muster::coordinator {

template <>
void Guarded<AccessServiceImpl>::GuardMethods() {
  GuardService("muster.v1.AccessService");
  Guard("CreateToken", &AccessServiceImpl::CreateToken);
  Guard("ListTokens", &AccessServiceImpl::ListTokens);
  Guard("RevokeToken", &AccessServiceImpl::RevokeToken);
  Guard("JoinNode", &AccessServiceImpl::JoinNode);
}

template <>
void Guarded<JobServiceImpl>::GuardMethods() {
  GuardService("muster.v1.JobService");
  Guard("CreateJob", &JobServiceImpl::CreateJob);
  Guard("GetJob", &JobServiceImpl::GetJob);
  Guard("ListJobs", &JobServiceImpl::ListJobs);
  Guard("CancelJob", &JobServiceImpl::CancelJob);
  Guard("WatchJob", &JobServiceImpl::WatchJob);
  Guard("StreamLogs", &JobServiceImpl::StreamLogs);
  Guard("ListEvents", &JobServiceImpl::ListEvents);
}

template <>
void Guarded<NodeServiceImpl>::GuardMethods() {
  GuardService("muster.v1.NodeService");
  Guard("GetNode", &NodeServiceImpl::GetNode);
  Guard("ListNodes", &NodeServiceImpl::ListNodes);
  Guard("CordonNode", &NodeServiceImpl::CordonNode);
  Guard("UncordonNode", &NodeServiceImpl::UncordonNode);
  Guard("DrainNode", &NodeServiceImpl::DrainNode);
}

template <>
void Guarded<WorkerServiceImpl>::GuardMethods() {
  GuardService("muster.v1.WorkerService");
  Guard("Session", &WorkerServiceImpl::Session);
}

}  // namespace muster::coordinator
