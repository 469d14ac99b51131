#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "muster/v1/node.pb.h"

namespace muster::worker {

// Longer documents are refused.
inline constexpr size_t kMostScheduledEventsBytes = 256 << 10;

// Reads the document of Azure's metadata service
// (https://learn.microsoft.com/azure/virtual-machines/linux/scheduled-events, api-version
// 2020-07-01): the events that name the machine `vm` among their resources, in the document's
// order. Names compare without regard to case.
//
// Types that nobody knows yet are kept; an event without an id or type, or with one longer than
// any real one, is left out. A start that cannot be read counts as now, a duration as not known.
// InvalidArgument when the text is no such document at all.
absl::StatusOr<std::vector<v1::MaintenanceEvent>> ParseScheduledEvents(absl::string_view document,
                                                                       absl::string_view vm);

}  // namespace muster::worker
