#include "worker/dist/process_groups.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <torch/torch.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "common/base/exit_codes.h"
#include "worker/dist/gradient_reducer.h"
#include "worker/model/sync_batch_norm.h"

namespace muster::dist {
namespace {

using ::testing::HasSubstr;

// A socket that listens on a free loopback port, as a worker binds it for rank 0.
struct Listener {
  Listener() : fd(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    if (bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(fd, 128) != 0 ||
        getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      std::perror("listener");
      std::abort();
    }
    port = ntohs(address.sin_port);
  }
  int fd;
  uint16_t port = 0;
};

// Runs `body` in `ranks` forked processes that find each other through the environment that a
// worker sets; returns their exit codes (128 + signal for a killed one). A failed expectation is
// code 1.
std::vector<int> RunProcesses(int ranks, absl::Duration timeout,
                              const std::function<void(ProcessGroups&)>& body) {
  const Listener listener;
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; ++rank) {
    const pid_t child = fork();
    if (child == 0) {
      at::set_num_threads(1);
      setenv("RANK", std::to_string(rank).c_str(), 1);
      setenv("WORLD_SIZE", std::to_string(ranks).c_str(), 1);
      setenv("MASTER_ADDR", "127.0.0.1", 1);
      setenv("MASTER_PORT", std::to_string(listener.port).c_str(), 1);
      if (rank == 0) {
        setenv("MUSTER_MASTER_FD", std::to_string(listener.fd).c_str(), 1);
      } else {
        close(listener.fd);
      }
      int code = base::kExitInternal;
      try {
        ProcessGroupOptions options;
        options.timeout = timeout;
        auto groups = JoinProcessGroups(ReadRankEnvironment().value(), options).value();
        body(*groups);
        code = ::testing::Test::HasFailure() ? 1 : base::kExitCompleted;
      } catch (const CollectiveLost& lost) {
        std::fprintf(stderr, "rank %d: %s\n", rank, lost.what());
        code = base::kExitCollectiveLost;
      } catch (const std::exception& error) {
        std::fprintf(stderr, "rank %d: %s\n", rank, error.what());
      }
      std::fflush(nullptr);
      _exit(code);
    }
    children.push_back(child);
  }
  close(listener.fd);
  std::vector<int> codes;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    codes.push_back(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  }
  return codes;
}

// Before any other test: a fork after the process has made threads is not safe.
TEST(ProcessGroups, ProcessesTrainTogetherOverAnInheritedSocket) {
  const auto codes = RunProcesses(3, absl::Seconds(30), [](ProcessGroups& groups) {
    const at::Tensor weight = at::full({2}, 1.5, at::kDouble).requires_grad_();
    const at::Tensor bias = at::zeros({2}, at::kDouble).requires_grad_();
    GradientReducer reducer({weight, bias}, groups, 1 << 20);
    const auto generator = at::detail::createCPUGenerator(5);
    // Each rank's slice of one batch: 1, 2 and 3 images.
    const at::Tensor all = at::randn({6, 2, 3, 4}, generator, at::kDouble);
    const int rank = groups.rank();
    const at::Tensor x = all.narrow(0, rank * (rank + 1) / 2, rank + 1);
    at::Tensor mean = at::zeros({2}, at::kDouble), variance = at::ones({2}, at::kDouble);
    for (int step = 0; step < 3; ++step) {
      reducer.BeginStep();
      const auto y =
          model::SyncBatchNorm({{x, weight, bias, mean, variance}}, groups.sync_batch_norm());
      reducer.Backward(y[0].pow(3).sum() * groups.size());
    }
    // Three steps' gradients have added up; one process over the whole batch gives the same.
    const at::Tensor whole_weight = weight.detach().clone().requires_grad_();
    const at::Tensor whole_bias = bias.detach().clone().requires_grad_();
    (3 * at::batch_norm(all, whole_weight, whole_bias, {}, {}, true, 0.1, 1e-5, false).pow(3).sum())
        .backward();
    EXPECT_TRUE(weight.grad().allclose(whole_weight.grad(), 1e-10)) << weight.grad();
    EXPECT_TRUE(bias.grad().allclose(whole_bias.grad(), 1e-10, 1e-10)) << bias.grad();
    const at::Tensor statistics = groups.control()->AllGather(at::stack({mean, variance}));
    for (int peer = 0; peer < groups.size(); ++peer) {
      EXPECT_TRUE(statistics[peer].equal(statistics[0]));
    }
  });
  EXPECT_THAT(codes, ::testing::Each(base::kExitCompleted));
}

TEST(ProcessGroups, AKilledRankEndsTheOthersWithCollectiveLost) {
  const auto codes = RunProcesses(3, absl::Seconds(20), [](ProcessGroups& groups) {
    groups.control()->Barrier();
    if (groups.rank() == 1) raise(SIGKILL);
    for (int i = 0; i < 100; ++i) groups.sync_batch_norm()->AllGather(at::zeros({8}));
  });
  EXPECT_THAT(codes, ::testing::ElementsAre(base::kExitCollectiveLost, 128 + SIGKILL,
                                            base::kExitCollectiveLost));
}

TEST(ProcessGroups, ARankThatNeverComesIsALostCollective) {
  const Listener listener;
  RankEnvironment environment;
  environment.world_size = 2;
  environment.master_address = "127.0.0.1";
  environment.master_port = listener.port;
  environment.master_fd = listener.fd;
  ProcessGroupOptions options;
  options.timeout = absl::Seconds(1);
  try {
    (void)JoinProcessGroups(environment, options);
    FAIL() << "there is no second rank";
  } catch (const CollectiveLost& lost) {
    EXPECT_THAT(lost.what(), HasSubstr("rank 0 of 2 joining rank 0's store at 127.0.0.1:"));
  }
}

TEST(ProcessGroups, AWorldOfOneNeedsNoNetwork) {
  const auto groups = JoinProcessGroups(RankEnvironment{}, ProcessGroupOptions{});
  ASSERT_TRUE(groups.ok()) << groups.status();
  EXPECT_EQ((*groups)->size(), 1);
  EXPECT_EQ((*groups)->gradients(), nullptr);
}

TEST(ProcessGroups, AMasterAddressThatIsNoIpIsRefused) {
  RankEnvironment environment;
  environment.world_size = 2;
  environment.master_address = "node-a";
  environment.master_port = 1;
  const auto groups = JoinProcessGroups(environment, ProcessGroupOptions{});
  EXPECT_EQ(groups.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(groups.status().message()), HasSubstr("node-a"));
}

}  // namespace
}  // namespace muster::dist
