#include "tests/support/small_job.h"

#include <google/protobuf/text_format.h>

#include <stdexcept>

namespace muster::testing {

v1::CreateJobRequest SmallJobRequest(const std::string& job_id, const std::string& request_id) {
  v1::CreateJobRequest request;
  const bool parsed = google::protobuf::TextFormat::ParseFromString(
      R"pb(
        model { hrnet { width: 18 } }
        data {
          root: "set"
          train { annotations: "t.json" images: "t.zip" }
          val { annotations: "v.json" images: "v.zip" }
          images_per_rank: 2
          multi_scale { scales { long_side: 320 short_side: 240 } }
        }
        schedule {
          epochs: 2
          optimizer { lr: 0.02 }
          step_epochs: 1
        }
      )pb",
      request.mutable_job()->mutable_config());
  if (!parsed) throw std::logic_error("the config of SmallJobRequest is no TrainJob");
  request.set_job_id(job_id);
  request.set_request_id(request_id);
  return request;
}

}  // namespace muster::testing
