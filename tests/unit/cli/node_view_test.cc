#include "cli/node_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace muster::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

v1::Node Ready() {
  v1::Node node;
  node.set_name("nodes/w0");
  node.set_state(v1::Node::STATE_READY);
  node.set_slots_used(1);
  node.mutable_inventory()->set_slots(2);
  return node;
}

TEST(NodeViewTest, StatesOfANode) {
  v1::Node node = Ready();
  EXPECT_EQ(NodeStateName(node), "READY");
  node.set_cordoned(true);
  EXPECT_EQ(NodeStateName(node), "CORDONED");
  node.set_draining(true);
  EXPECT_EQ(NodeStateName(node), "DRAINED");
  node.add_jobs("jobs/a");
  EXPECT_EQ(NodeStateName(node), "DRAINING");
  node.set_state(v1::Node::STATE_LOST);
  EXPECT_EQ(NodeStateName(node), "LOST");
}

TEST(NodeViewTest, APlainNodeHasAPlainRow) {
  const std::string table = NodeTable({Ready()}, absl::UnixEpoch());
  EXPECT_THAT(table, AllOf(HasSubstr("nodes/w0  READY  1/2"), HasSubstr("HEARTBEAT  JOBS")));
  EXPECT_THAT(table, Not(HasSubstr("LABELS")));
}

TEST(NodeViewTest, LabelsMaintenanceReasonAndGpusAreShown) {
  v1::Node node = Ready();
  (*node.mutable_inventory()->mutable_labels())["zone"] = "1";
  (*node.mutable_inventory()->mutable_labels())["disk"] = "nvme";
  for (int i = 0; i < 8; ++i) node.mutable_inventory()->add_gpus()->set_type("NVIDIA H100");
  node.set_cordoned(true);
  node.set_cordon_reason("fan 3 fails");
  v1::MaintenanceEvent& preempt = *node.add_maintenance();
  preempt.set_type("Preempt");
  preempt.set_status("Scheduled");
  preempt.mutable_not_before()->set_seconds(30);
  v1::MaintenanceEvent& freeze = *node.add_maintenance();
  freeze.set_type("Freeze");
  freeze.set_status("Started");
  node.add_maintenance()->set_type("Reboot");
  const std::string table = NodeTable({Ready(), node}, absl::FromUnixSeconds(5));
  EXPECT_THAT(table, AllOf(HasSubstr("LABELS"), HasSubstr("disk=nvme,zone=1"),
                           HasSubstr("8x NVIDIA H100"), HasSubstr("fan 3 fails"),
                           HasSubstr("Preempt in 25s, Freeze started, Reboot now")));
}

TEST(NodeViewTest, ADrainSaysWhatIsLeft) {
  v1::Node node = Ready();
  node.set_draining(true);
  EXPECT_EQ(DrainLine(node), "nodes/w0 DRAINED");
  node.add_jobs("jobs/a");
  EXPECT_EQ(DrainLine(node), "nodes/w0 DRAINING; 1 job left: jobs/a");
  node.add_jobs("jobs/b");
  EXPECT_EQ(DrainLine(node), "nodes/w0 DRAINING; 2 jobs left: jobs/a, jobs/b");
}

}  // namespace
}  // namespace muster::cli
