#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace muster::ops {

// Draws which candidates of an image are trained on.
class IndexSampler {
 public:
  virtual ~IndexSampler() = default;
  // `count` distinct numbers of 0 .. total - 1, ascending; 0 <= count <= total. `purpose` names the
  // draw ("rpn_positive", ...).
  virtual std::vector<int64_t> Choose(int64_t total, int64_t count, int64_t sample_id,
                                      std::string_view purpose) = 0;
};

// Uniform without replacement; a function of (seed, epoch, sample, purpose) alone, so the same on
// any rank, in any order, and after a resume.
class RandomIndexSampler : public IndexSampler {
 public:
  RandomIndexSampler(uint64_t seed, uint64_t epoch) : seed_(seed), epoch_(epoch) {}
  std::vector<int64_t> Choose(int64_t total, int64_t count, int64_t sample_id,
                              std::string_view purpose) override;

 private:
  uint64_t seed_;
  uint64_t epoch_;
};

// Numbers i * total / count: deterministic, for comparisons with other programs.
class StridedIndexSampler : public IndexSampler {
 public:
  std::vector<int64_t> Choose(int64_t total, int64_t count, int64_t sample_id,
                              std::string_view purpose) override;
};

// 0 .. count - 1, likewise.
class FirstIndexSampler : public IndexSampler {
 public:
  std::vector<int64_t> Choose(int64_t total, int64_t count, int64_t sample_id,
                              std::string_view purpose) override;
};

}  // namespace muster::ops
