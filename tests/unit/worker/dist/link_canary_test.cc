// libtorch_cpu.so exports protobuf symbols of its own version: linked in the wrong order, protobuf,
// gRPC and LibTorch break each other in one process. This program has all three, as the trainer
// does.
#include <google/protobuf/text_format.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <memory>
#include <string>

#include "muster/config/v1/train_job.pb.h"
#include "muster/internal/trainer_service.grpc.pb.h"

namespace muster {
namespace {

class EchoingTrainerService : public internal::TrainerService::Service {
 public:
  grpc::Status Report(grpc::ServerContext*, const internal::TrainerReport* report,
                      internal::TrainerReportReply*) override {
    received = report->SerializeAsString();
    // Torch inside a gRPC thread.
    sum = at::ones({2, 3}).sum().item<double>();
    return grpc::Status::OK;
  }
  std::string received;
  double sum = 0;
};

TEST(LinkCanary, ProtobufGrpcAndTorchShareAProcess) {
  // Text round trip of nested messages, repeated numbers and a duration.
  const std::string text =
      "model { num_classes: 3 hrnet { width: 18 } rpn_head { anchor_ratios: 0.5 anchor_ratios: 2 } "
      "}\n"
      "distributed { timeout { seconds: 30 } }";
  config::v1::TrainJob job, again;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &job));
  std::string printed;
  ASSERT_TRUE(google::protobuf::TextFormat::PrintToString(job, &printed));
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(printed, &again));
  EXPECT_EQ(again.SerializeAsString(), job.SerializeAsString());
  EXPECT_EQ(again.model().hrnet().width(), 18u);
  EXPECT_FALSE(google::protobuf::TextFormat::ParseFromString("no_such_field: 1", &again));

  EchoingTrainerService service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  const auto stub = internal::TrainerService::NewStub(
      grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  internal::TrainerReport report;
  internal::TrainerReportReply reply;
  report.set_job("jobs/canary");
  report.mutable_step()->add_step_durations_seconds(0.5);
  const grpc::Status status = stub->Report(&context, report, &reply);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(service.received, report.SerializeAsString());
  EXPECT_EQ(service.sum, 6);
  server->Shutdown();

  torch::nn::Conv2d convolution(torch::nn::Conv2dOptions(1, 1, 3).bias(false));
  torch::nn::init::ones_(convolution->weight);
  const at::Tensor y = convolution->forward(at::ones({1, 1, 5, 5}));
  y.sum().backward();
  EXPECT_TRUE(y.equal(at::full({1, 1, 3, 3}, 9)));
  EXPECT_EQ(convolution->weight.grad().sum().item<double>(), 81);
}

}  // namespace
}  // namespace muster
