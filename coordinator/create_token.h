#pragma once

#include <string>

#include "absl/status/statusor.h"

#include "muster/v1/access_service.pb.h"

namespace muster::coordinator {

// `muster-coordinator create-token`: a token made in the store itself, for the first admin. `store`
// as in --store. Returns the secret. FailedPrecondition while a coordinator holds the store.
absl::StatusOr<std::string> CreateTokenInStore(const std::string& store, const v1::Token& wanted);

}  // namespace muster::coordinator
