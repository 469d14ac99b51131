#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns from the function when expr, an absl::Status, is not ok.
#define MUSTER_RETURN_IF_ERROR(expr)                                \
  do {                                                              \
    if (absl::Status muster_status = (expr); !muster_status.ok()) { \
      return muster_status;                                         \
    }                                                               \
  } while (false)

#define MUSTER_STATUS_CONCAT_INNER(a, b) a##b
#define MUSTER_STATUS_CONCAT(a, b) MUSTER_STATUS_CONCAT_INNER(a, b)

// MUSTER_ASSIGN_OR_RETURN(auto x, F()): assigns F()'s value, or returns its status.
#define MUSTER_ASSIGN_OR_RETURN(lhs, expr) \
  MUSTER_ASSIGN_OR_RETURN_INNER(MUSTER_STATUS_CONCAT(muster_statusor_, __LINE__), lhs, expr)
#define MUSTER_ASSIGN_OR_RETURN_INNER(statusor, lhs, expr) \
  auto statusor = (expr);                                  \
  if (!statusor.ok()) return std::move(statusor).status(); \
  lhs = *std::move(statusor)
