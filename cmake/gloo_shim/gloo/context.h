#pragma once
// The part of gloo::Context that ProcessGroupGloo.hpp names; its definition is in libtorch_cpu.so.
#include <chrono>

namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};
}  // namespace gloo
