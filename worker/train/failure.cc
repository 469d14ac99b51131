#include "worker/train/failure.h"

#include <c10/util/Exception.h>

#include <exception>
#include <new>

#include "absl/strings/str_cat.h"

#include "worker/dist/communicator.h"

namespace muster::train {

void Require(const absl::Status& status, base::ExitCode code) {
  if (!status.ok()) throw TrainingFailure(code, std::string(status.message()));
}

FailureReport DescribeCurrentException() {
  try {
    throw;
  } catch (const TrainingFailure& failure) {
    return {failure.exit_code, failure.what()};
  } catch (const dist::CollectiveLost& lost) {
    return {base::kExitCollectiveLost, lost.what()};
  } catch (const c10::OutOfMemoryError& error) {
    return {base::kExitDeviceError, error.what_without_backtrace()};
  } catch (const c10::Error& error) {
    return {base::kExitInternal, error.what_without_backtrace()};
  } catch (const std::bad_alloc&) {
    return {base::kExitDeviceError, "out of memory"};
  } catch (const std::exception& error) {
    return {base::kExitInternal, error.what()};
  }
}

}  // namespace muster::train
