#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "muster/v1/worker_service.pb.h"

namespace muster::worker {

inline void WriteText(const std::filesystem::path& file, const std::string& text) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

// A data root with the set "set": what a worker looks at before it starts a job.
inline void WriteDataSet(const std::filesystem::path& root) {
  for (const char* file : {"annotations/instances_train.json", "annotations/instances_val.json",
                           "images/train.zip", "images/val.zip"}) {
    WriteText(root / "set" / file, "x");
  }
}

// Generation `generation` of job "a": all of `ranks` here, on that data set.
inline v1::Allocation MakeAllocation(int64_t generation, v1::Allocation::Goal goal,
                                     const std::vector<int>& ranks = {0, 1}) {
  v1::Allocation allocation;
  allocation.set_job("jobs/a");
  allocation.set_job_uid("0123456789abcdef");
  allocation.set_generation(generation);
  allocation.set_goal(goal);
  allocation.set_world_size(ranks.back() + 1);
  for (int rank : ranks) allocation.add_ranks(rank);
  if (goal == v1::Allocation::GOAL_RUN) allocation.set_master("127.0.0.1:1");
  config::v1::TrainJob& config = *allocation.mutable_config();
  config.mutable_data()->set_root("set");
  config.mutable_data()->mutable_train()->set_annotations("annotations/instances_train.json");
  config.mutable_data()->mutable_train()->set_images("images/train.zip");
  config.mutable_data()->mutable_val()->set_annotations("annotations/instances_val.json");
  config.mutable_data()->mutable_val()->set_images("images/val.zip");
  config.mutable_resources()->mutable_grace_period()->set_seconds(10);
  return allocation;
}

}  // namespace muster::worker
