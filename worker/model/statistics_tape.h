#pragma once

#include <torch/types.h>

#include <cstddef>
#include <vector>

namespace muster::model {

// The batch statistics of one pass through a part of the network, in the order of its
// normalisations. A second pass over the same inputs plays them back: it takes no statistics, so it
// issues no collective, and updates no running statistics.
class StatisticsTape {
 public:
  // From here on Next instead of Record, from the beginning.
  void Rewind() {
    replaying_ = true;
    next_ = 0;
  }
  bool replaying() const { return replaying_; }

  void Record(const at::Tensor& statistics) { entries_.push_back(statistics); }
  const at::Tensor& Next() {
    TORCH_CHECK(next_ < entries_.size(), "the second pass has more normalisations than the first");
    return entries_[next_++];
  }

 private:
  std::vector<at::Tensor> entries_;
  size_t next_ = 0;
  bool replaying_ = false;
};

}  // namespace muster::model
