#include "worker/dist/cuda_plugin.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>

#include "worker/dist/process_groups.h"

namespace muster::dist {
namespace {

using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(CudaPlugin, ABuildWithoutItTellsHowToGetIt) {
  const auto plugin = LoadCudaPlugin("no/such/libmuster_cuda.so");
  ASSERT_EQ(plugin.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(plugin.status()), HasSubstr("this build has no CUDA parts"));
  EXPECT_THAT(Message(plugin.status()), HasSubstr("-DMUSTER_CUDA=ON"));
}

TEST(CudaPlugin, LoadsAndResolvesNcclWithoutADevice) {
  const auto plugin = LoadCudaPlugin();
  if (!MUSTER_TEST_WITH_CUDA && plugin.status().code() == absl::StatusCode::kNotFound) {
    GTEST_SKIP() << "this build has no CUDA parts";
  }
  ASSERT_TRUE(plugin.ok()) << plugin.status();
  EXPECT_GE(plugin->nccl_version(), 22000);
  EXPECT_NE(plugin->make_nccl_backend, nullptr);
  EXPECT_NE(plugin->kernels.current_stream, nullptr);
  EXPECT_NE(plugin->kernels.float32.roi_align_forward, nullptr);
  EXPECT_NE(plugin->kernels.float32.roi_align_backward, nullptr);
  EXPECT_NE(plugin->kernels.float32.nms_mask, nullptr);
  EXPECT_NE(plugin->kernels.float64.roi_align_forward, nullptr);
  EXPECT_NE(plugin->kernels.float64.roi_align_backward, nullptr);
  EXPECT_NE(plugin->kernels.float64.nms_mask, nullptr);
}

// What a job that asks for CUDA hears on a node that has none.
TEST(CudaPlugin, WithoutADeviceTheReasonIsOneLine) {
  const auto plugin = LoadCudaPlugin();
  char reason[256] = "";
  if (plugin.ok() && plugin->device_count(reason, sizeof(reason)) > 0) {
    GTEST_SKIP() << "this node has a CUDA device";
  }
  ProcessGroupOptions options;
  options.device = at::Device(at::kCUDA, 0);
  const auto groups = JoinProcessGroups(RankEnvironment{}, options);
  ASSERT_EQ(groups.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(groups.status()), HasSubstr("device CUDA asked for, but "));
  if (plugin.ok()) {
    EXPECT_THAT(Message(groups.status()), HasSubstr("no CUDA device is visible: "));
    EXPECT_STRNE(reason, "");
  } else {
    EXPECT_THAT(Message(groups.status()), HasSubstr("this build has no CUDA parts"));
  }
  EXPECT_THAT(Message(groups.status()), ::testing::Not(HasSubstr("\n")));
}

}  // namespace
}  // namespace muster::dist
