#include "worker/eval/detections.h"

#include <algorithm>

namespace muster::eval {

void SortByImage(std::vector<Detection>* detections) {
  std::stable_sort(detections->begin(), detections->end(),
                   [](const Detection& a, const Detection& b) { return a.image_id < b.image_id; });
}

}  // namespace muster::eval
