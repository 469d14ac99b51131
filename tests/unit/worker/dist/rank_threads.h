#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include "worker/dist/process_groups.h"

namespace muster::testing {

// Runs `body` once for each of `ranks` ranks, as threads of this process that talk over Gloo on the
// loopback interface. Rethrows the first rank's exception.
inline void RunRanks(int ranks, const std::function<void(dist::ProcessGroups&)>& body,
                     absl::Duration timeout = absl::Seconds(30)) {
  auto store = c10::make_intrusive<c10d::HashStore>();
  std::vector<std::exception_ptr> errors(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        dist::ProcessGroupOptions options;
        options.timeout = timeout;
        auto groups =
            dist::JoinProcessGroupsThrough(store, rank, ranks, "127.0.0.1", options).value();
        body(*groups);
      } catch (...) {
        errors[rank] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace muster::testing
