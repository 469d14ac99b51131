#pragma once
// The types that ProcessGroupGloo.hpp names; their definitions are in libtorch_cpu.so.
namespace gloo::transport {
class Device;
class UnboundBuffer {
 public:
  virtual ~UnboundBuffer() = 0;
};
}  // namespace gloo::transport
