#include "coordinator/service/rate_limiter.h"

#include <algorithm>

namespace muster::coordinator {
namespace {

constexpr size_t kManyBuckets = 1000;

}  // namespace

absl::Duration RateLimiter::Take(const std::string& key) {
  const absl::Duration now = clock_.Monotonic();
  absl::MutexLock lock(&mutex_);
  if (buckets_.size() > kManyBuckets) ForgetFullOnes(now);
  auto [it, is_new] = buckets_.try_emplace(key, Bucket{rate_.burst, now});
  Bucket& bucket = it->second;
  bucket.tokens =
      std::min(rate_.burst,
               bucket.tokens + absl::ToDoubleSeconds(now - bucket.filled_at) * rate_.per_second);
  bucket.filled_at = now;
  if (bucket.tokens < 1) return absl::Seconds((1 - bucket.tokens) / rate_.per_second);
  bucket.tokens -= 1;
  return absl::ZeroDuration();
}

void RateLimiter::ForgetFullOnes(absl::Duration now) {
  const absl::Duration full_after = absl::Seconds(rate_.burst / rate_.per_second);
  for (auto it = buckets_.begin(); it != buckets_.end();) {
    it = now - it->second.filled_at >= full_after ? buckets_.erase(it) : std::next(it);
  }
}

}  // namespace muster::coordinator
