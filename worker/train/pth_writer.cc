#include "worker/train/pth_writer.h"

#include <caffe2/serialize/inline_container.h>
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "worker/checkpoint/pickle.h"

namespace muster::train {
namespace {

using checkpoint::Tensor;
using checkpoint::Value;

// Writes through PyTorch's container writer.
template <typename Sink>
absl::Status WriteContainer(const Value& value, const Sink& sink) {
  std::vector<Tensor> tensors;
  MUSTER_ASSIGN_OR_RETURN(const std::string pickle,
                          checkpoint::Pickle(value, [&](const Tensor& tensor) {
                            tensors.push_back(tensor);
                            return std::to_string(tensors.size() - 1);
                          }));
  caffe2::serialize::PyTorchStreamWriter writer(sink);
  writer.writeRecord("data.pkl", pickle.data(), pickle.size());
  writer.writeRecord("byteorder", "little", 6);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const checkpoint::Storage& storage = *tensors[i].storage;
    writer.writeRecord(absl::StrCat("data/", i), storage.data,
                       static_cast<size_t>(storage.bytes()));
  }
  writer.writeEndOfFile();
  return absl::OkStatus();
}

}  // namespace

absl::Status WritePth(const std::filesystem::path& path, const Value& value) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return base::ErrnoStatus(errno, "cannot create", path);
  int error = 0;
  const absl::Status status = WriteContainer(value, [&](const void* data, size_t size) -> size_t {
    // PyTorch's writer throws from its destructor when it hears of a failure: it never does,
    // and what follows the first failure goes nowhere.
    size_t done = error == 0 ? 0 : size;
    while (done < size) {
      const ssize_t got = ::write(fd, static_cast<const char*>(data) + done, size - done);
      if (got >= 0) {
        done += static_cast<size_t>(got);
      } else if (errno != EINTR) {
        error = errno;
        break;
      }
    }
    return size;
  });
  if (::close(fd) != 0 && error == 0) error = errno;
  if (error != 0) return base::ErrnoStatus(error, "cannot write", path);
  return status;
}

absl::StatusOr<std::string> WritePthToString(const Value& value) {
  std::string bytes;
  MUSTER_RETURN_IF_ERROR(WriteContainer(value, [&](const void* data, size_t size) -> size_t {
    bytes.append(static_cast<const char*>(data), size);
    return size;
  }));
  return bytes;
}

}  // namespace muster::train
