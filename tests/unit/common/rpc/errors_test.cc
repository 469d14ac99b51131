#include "common/rpc/errors.h"

#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace muster::rpc {
namespace {

TEST(ErrorsTest, DetailsSurviveTheWire) {
  const absl::Status sent =
      Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND", "no job jobs/a", {{"job", "jobs/a"}});
  const grpc::Status wire = ToGrpcStatus(sent);
  EXPECT_EQ(wire.error_code(), grpc::StatusCode::NOT_FOUND);
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(wire.error_details()));
  EXPECT_EQ(details.code(), 5);
  ASSERT_EQ(details.details_size(), 1);
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(details.details(0).UnpackTo(&info));
  EXPECT_EQ(info.domain(), "muster");
  EXPECT_EQ(info.metadata().at("job"), "jobs/a");

  const absl::Status received = FromGrpcStatus(wire);
  EXPECT_EQ(received, sent);
  EXPECT_EQ(ErrorReason(received), "JOB_NOT_FOUND");
}

TEST(ErrorsTest, BadRequestCarriesEveryViolation) {
  const absl::Status status = FromGrpcStatus(
      ToGrpcStatus(BadRequestError({{"job.config.seed", "is wrong"}, {"job_id", "has a space"}})));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "job.config.seed: is wrong (and 1 more)");
  EXPECT_EQ(ErrorReason(status), "BAD_REQUEST");
  const auto violations = FieldViolations(status);
  ASSERT_EQ(violations.size(), 2u);
  EXPECT_EQ(violations[1].field, "job_id");
  EXPECT_EQ(violations[1].description, "has a space");
}

TEST(ErrorsTest, PlainStatusesAndBrokenDetails) {
  EXPECT_TRUE(FromGrpcStatus(ToGrpcStatus(absl::OkStatus())).ok());
  EXPECT_EQ(ErrorReason(absl::UnavailableError("gone")), "");
  EXPECT_TRUE(FieldViolations(absl::UnavailableError("gone")).empty());
  EXPECT_EQ(FromGrpcStatus(grpc::Status(static_cast<grpc::StatusCode>(20), "odd")).code(),
            absl::StatusCode::kUnknown);
  EXPECT_EQ(FromGrpcStatus(grpc::Status(grpc::StatusCode::ABORTED, "a", "\xff\xff")).message(),
            "a");
}

}  // namespace
}  // namespace muster::rpc
