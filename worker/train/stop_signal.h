#pragma once

namespace muster::train {

// Turns SIGTERM and SIGINT into a flag that the training loop looks at. A second SIGINT ends the
// process as usual. One object at a time.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  bool received() const;
};

}  // namespace muster::train
