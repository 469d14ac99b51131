#include "worker/train/pth_file.h"

#include <caffe2/serialize/inline_container.h>
#include <fcntl.h>
#include <unistd.h>
#include <zip.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include "common/base/status_macros.h"

namespace muster::train {
namespace {

absl::Status Bad(const std::string& name, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(name, " is no readable checkpoint: ", what));
}

struct CloseArchive {
  void operator()(zip_t* archive) const { zip_discard(archive); }
};
using Archive = std::unique_ptr<zip_t, CloseArchive>;

// The records of a zip container. libzip verifies their checksums, which LibTorch's reader does
// not.
class Records {
 public:
  static absl::StatusOr<Records> Open(absl::string_view bytes, const std::string& name) {
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t* source = zip_source_buffer_create(bytes.data(), bytes.size(), 0, &error);
    zip_t* archive = source == nullptr ? nullptr : zip_open_from_source(source, ZIP_RDONLY, &error);
    if (archive == nullptr) {
      const std::string reason = zip_error_strerror(&error);
      if (source != nullptr) zip_source_free(source);
      zip_error_fini(&error);
      return Bad(name, reason);
    }
    zip_error_fini(&error);
    Records records(Archive(archive), bytes.size(), name);
    MUSTER_RETURN_IF_ERROR(records.FindPrefix());
    return records;
  }

  bool Has(const std::string& record) const {
    return zip_name_locate(archive_.get(), (prefix_ + record).c_str(), 0) >= 0;
  }

  absl::StatusOr<uint64_t> SizeOf(const std::string& record) const {
    zip_stat_t stat;
    if (zip_stat(archive_.get(), (prefix_ + record).c_str(), 0, &stat) != 0) {
      return Bad(name_, absl::StrCat("record ", record, " is missing"));
    }
    if ((stat.valid & ZIP_STAT_COMP_METHOD) == 0 || stat.comp_method != ZIP_CM_STORE) {
      return Bad(name_, absl::StrCat("record ", record, " is compressed"));
    }
    // Stored: a size beyond the file's is a lie, and must not be allocated.
    if (stat.size > file_size_) return Bad(name_, absl::StrCat("record ", record, " has no end"));
    return stat.size;
  }

  absl::Status Read(const std::string& record, void* out, uint64_t size) const {
    zip_file_t* file = zip_fopen(archive_.get(), (prefix_ + record).c_str(), 0);
    if (file == nullptr) return Bad(name_, zip_strerror(archive_.get()));
    char* bytes = static_cast<char*>(out);
    uint64_t done = 0;
    std::string error;
    // One read beyond the last byte: there libzip compares the checksum.
    while (error.empty()) {
      char end = 0;
      const zip_int64_t got =
          done < size ? zip_fread(file, bytes + done, size - done) : zip_fread(file, &end, 1);
      if (got < 0) error = absl::StrCat("record ", record, ": ", zip_file_strerror(file));
      if (got == 0 && done < size) error = absl::StrCat("record ", record, " ends too early");
      if (got > 0 && done >= size) error = absl::StrCat("record ", record, " is too long");
      if (got == 0 && done == size) break;
      if (got > 0) done += static_cast<uint64_t>(got);
    }
    zip_fclose(file);
    return error.empty() ? absl::OkStatus() : Bad(name_, error);
  }

  const std::string& name() const { return name_; }

 private:
  Records(Archive archive, uint64_t file_size, std::string name)
      : archive_(std::move(archive)), file_size_(file_size), name_(std::move(name)) {}

  // All records lie in one folder, which may be called anything.
  absl::Status FindPrefix() {
    const zip_int64_t entries = zip_get_num_entries(archive_.get(), 0);
    for (zip_int64_t i = 0; i < entries; ++i) {
      const char* entry = zip_get_name(archive_.get(), static_cast<zip_uint64_t>(i), 0);
      if (entry != nullptr && absl::EndsWith(entry, "/data.pkl")) {
        const absl::string_view text(entry);
        prefix_ = std::string(text.substr(0, text.size() - std::strlen("data.pkl")));
        return absl::OkStatus();
      }
    }
    return Bad(name_, "it has no data.pkl");
  }

  Archive archive_;
  uint64_t file_size_;
  std::string name_;
  std::string prefix_;
};

absl::StatusOr<Value> ReadZip(absl::string_view bytes, const std::string& name) {
  MUSTER_ASSIGN_OR_RETURN(const Records records, Records::Open(bytes, name));
  if (records.Has("byteorder")) {
    std::string order(6, '\0');
    MUSTER_ASSIGN_OR_RETURN(const uint64_t size, records.SizeOf("byteorder"));
    if (size != order.size()) return Bad(name, "its byte order is not little-endian");
    MUSTER_RETURN_IF_ERROR(records.Read("byteorder", order.data(), size));
    if (order != "little") return Bad(name, "its byte order is not little-endian");
  }
  MUSTER_ASSIGN_OR_RETURN(const uint64_t pickle_size, records.SizeOf("data.pkl"));
  std::string pickle(pickle_size, '\0');
  MUSTER_RETURN_IF_ERROR(records.Read("data.pkl", pickle.data(), pickle_size));

  std::map<std::string, at::Tensor> storages;
  const LoadStorage load = [&](const StorageReference& reference) -> absl::StatusOr<at::Tensor> {
    at::Tensor& storage = storages[reference.key];
    if (storage.defined()) {
      if (storage.scalar_type() != reference.type || storage.numel() != reference.elements) {
        return absl::InvalidArgumentError(
            absl::StrCat("storage ", reference.key, " is described in two ways"));
      }
      return storage;
    }
    const std::string record = absl::StrCat("data/", reference.key);
    MUSTER_ASSIGN_OR_RETURN(const uint64_t size, records.SizeOf(record));
    const uint64_t element = c10::elementSize(reference.type);
    if (static_cast<uint64_t>(reference.elements) != size / element || size % element != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("storage ", reference.key, " has another size than its tensor"));
    }
    storage = at::empty({reference.elements}, reference.type);
    MUSTER_RETURN_IF_ERROR(records.Read(record, storage.data_ptr(), size));
    return storage;
  };
  absl::StatusOr<Value> value = Unpickle(pickle, load);
  if (!value.ok() && !absl::StrContains(value.status().message(), name)) {
    return Bad(name, value.status().message());
  }
  return value;
}

// Files from before PyTorch 1.6: five pickles (magic number, protocol, system, object, storage
// keys), then each storage's element count (8 bytes) and bytes.
constexpr absl::string_view kOldMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);

absl::StatusOr<Value> ReadOld(absl::string_view bytes, const std::string& name) {
  std::map<std::string, at::Tensor> storages;
  const LoadStorage load = [&](const StorageReference& reference) -> absl::StatusOr<at::Tensor> {
    at::Tensor& storage = storages[reference.key];
    if (!storage.defined()) {
      if (static_cast<uint64_t>(reference.elements) > bytes.size()) {
        return absl::InvalidArgumentError("a storage is larger than the file");
      }
      storage = at::empty({reference.elements}, reference.type);
    }
    if (storage.numel() != reference.elements || storage.scalar_type() != reference.type) {
      return absl::InvalidArgumentError("a storage is described in two ways");
    }
    return storage;
  };
  std::vector<Value> values;
  absl::string_view rest = bytes;
  for (int i = 0; i < 5; ++i) {
    size_t consumed = 0;
    absl::StatusOr<Value> value = Unpickle(rest, load, &consumed);
    if (!value.ok()) return Bad(name, value.status().message());
    if (i == 0 && (value->text() == nullptr || *value->text() != kOldMagic)) {
      return Bad(name, "it is neither a zip container nor an old PyTorch file");
    }
    rest.remove_prefix(consumed);
    values.push_back(*std::move(value));
  }
  const std::vector<Value>* keys = values[4].items();
  if (values[4].kind() != Value::Kind::kList) return Bad(name, "its storages are not listed");
  for (const Value& key : *keys) {
    if (key.text() == nullptr) return Bad(name, "a storage has no name");
    const auto found = storages.find(*key.text());
    if (found == storages.end()) return Bad(name, "a storage is listed and not used");
    at::Tensor& storage = found->second;
    uint64_t elements = 0;
    if (rest.size() < sizeof(elements)) return Bad(name, "it ends too early");
    std::memcpy(&elements, rest.data(), sizeof(elements));
    rest.remove_prefix(sizeof(elements));
    const uint64_t size = storage.nbytes();
    if (elements != static_cast<uint64_t>(storage.numel()) || rest.size() < size) {
      return Bad(name, "it ends too early");
    }
    std::memcpy(storage.data_ptr(), rest.data(), size);
    rest.remove_prefix(size);
    storages.erase(found);
  }
  if (!storages.empty()) return Bad(name, "a storage is missing");
  return std::move(values[3]);
}

// Writes through PyTorch's container writer.
template <typename Sink>
void WriteContainer(const Value& value, const Sink& sink) {
  caffe2::serialize::PyTorchStreamWriter writer(sink);
  std::vector<at::Tensor> storages;
  const std::string pickle = Pickle(value, [&](const at::Tensor& tensor) {
    storages.push_back(tensor);
    return std::to_string(storages.size() - 1);
  });
  writer.writeRecord("data.pkl", pickle.data(), pickle.size());
  writer.writeRecord("byteorder", "little", 6);
  for (size_t i = 0; i < storages.size(); ++i) {
    writer.writeRecord(absl::StrCat("data/", i), storages[i].const_data_ptr(),
                       storages[i].nbytes());
  }
  writer.writeEndOfFile();
}

}  // namespace

absl::StatusOr<Value> ReadPthFrom(absl::string_view bytes, const std::string& name) {
  if (bytes.empty()) return Bad(name, "it is empty");
  return absl::StartsWith(bytes, "PK") ? ReadZip(bytes, name) : ReadOld(bytes, name);
}

absl::StatusOr<Value> ReadPth(const std::filesystem::path& path) {
  const absl::StatusOr<std::string> bytes = base::ReadFile(path);
  if (!bytes.ok()) return bytes.status();
  return ReadPthFrom(*bytes, path.string());
}

absl::Status WritePth(const std::filesystem::path& path, const Value& value) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return base::ErrnoStatus(errno, "cannot create", path);
  int error = 0;
  WriteContainer(value, [&](const void* data, size_t size) -> size_t {
    // PyTorch's writer throws from its destructor when it hears of a failure: it never does, and
    // what follows the first failure goes nowhere.
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
  if (error != 0) {
    ::close(fd);
    return base::ErrnoStatus(error, "cannot write", path);
  }
  if (::close(fd) != 0) return base::ErrnoStatus(errno, "cannot write", path);
  return absl::OkStatus();
}

std::string WritePthToString(const Value& value) {
  std::string bytes;
  WriteContainer(value, [&](const void* data, size_t size) -> size_t {
    bytes.append(static_cast<const char*>(data), size);
    return size;
  });
  return bytes;
}

absl::Status CheckPth(const std::filesystem::path& path) {
  int error = 0;
  const Archive archive(zip_open(path.c_str(), ZIP_RDONLY, &error));
  if (archive == nullptr) return Bad(path.string(), "it is no zip container");
  const zip_int64_t entries = zip_get_num_entries(archive.get(), 0);
  for (zip_int64_t i = 0; i < entries; ++i) {
    const char* entry = zip_get_name(archive.get(), static_cast<zip_uint64_t>(i), 0);
    if (entry != nullptr && absl::EndsWith(entry, "/data.pkl")) return absl::OkStatus();
  }
  return Bad(path.string(), "it has no data.pkl");
}

}  // namespace muster::train
