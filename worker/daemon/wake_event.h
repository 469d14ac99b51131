#pragma once

#include <unistd.h>

#include <cstdint>

#include "worker/daemon/process_identity.h"

namespace muster::worker {

// Makes an eventfd readable, for a thread that polls it. Thread-safe.
inline void Wake(const UniqueFd& event) {
  const uint64_t one = 1;
  // Fails only when a wake-up is pending already.
  [[maybe_unused]] const ssize_t written = write(event.get(), &one, sizeof(one));
}

}  // namespace muster::worker
