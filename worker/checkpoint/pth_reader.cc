#include "worker/checkpoint/pth_reader.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

#include "common/base/files.h"
#include "common/base/status_macros.h"
#include "worker/checkpoint/pickle.h"
#include "worker/checkpoint/zip_records.h"

namespace muster::checkpoint {
namespace {

// The storages that a file's pickle has named so far, one for each key.
class Storages {
 public:
  // `limit`: bytes that all of them together may take.
  explicit Storages(uint64_t limit) : left_(limit) {}

  // The storage, and whether it is new.
  absl::StatusOr<std::pair<std::shared_ptr<Storage>, bool>> Find(
      const StorageReference& reference) {
    std::shared_ptr<Storage>& storage = by_key_[reference.key];
    if (storage != nullptr) {
      if (storage->type != reference.type || storage->elements != reference.elements) {
        return absl::InvalidArgumentError(
            absl::StrCat("storage ", reference.key, " is described in two ways"));
      }
      return std::make_pair(storage, false);
    }
    const auto element = static_cast<uint64_t>(SizeOf(reference.type));
    const auto elements = static_cast<uint64_t>(reference.elements);
    if (elements > left_ / element) {
      return absl::InvalidArgumentError(
          absl::StrCat("storage ", reference.key, " is larger than what the file holds"));
    }
    left_ -= elements * element;
    storage = NewStorage(reference.type, reference.elements);
    return std::make_pair(storage, true);
  }

  std::map<std::string, std::shared_ptr<Storage>>& by_key() { return by_key_; }

 private:
  uint64_t left_;
  std::map<std::string, std::shared_ptr<Storage>> by_key_;
};

absl::StatusOr<std::string> ReadSmallRecord(const ZipRecords& records, const std::string& record) {
  MUSTER_ASSIGN_OR_RETURN(const uint64_t size, records.SizeOf(record));
  std::string bytes(size, '\0');
  MUSTER_RETURN_IF_ERROR(records.Read(record, bytes.data(), size));
  return bytes;
}

absl::StatusOr<Value> ReadZip(absl::string_view bytes, const std::string& name) {
  MUSTER_ASSIGN_OR_RETURN(const ZipRecords records, ZipRecords::Open(bytes, name));
  if (records.Has("byteorder")) {
    MUSTER_ASSIGN_OR_RETURN(const std::string order, ReadSmallRecord(records, "byteorder"));
    if (order != "little") return BadCheckpoint(name, "its numbers are not little-endian");
  }
  MUSTER_ASSIGN_OR_RETURN(const std::string pickle, ReadSmallRecord(records, "data.pkl"));
  Storages storages(bytes.size());
  const LoadStorage load =
      [&](const StorageReference& reference) -> absl::StatusOr<std::shared_ptr<const Storage>> {
    const std::string record = absl::StrCat("data/", reference.key);
    MUSTER_ASSIGN_OR_RETURN(const uint64_t size, records.SizeOf(record));
    const auto element = static_cast<uint64_t>(SizeOf(reference.type));
    if (static_cast<uint64_t>(reference.elements) != size / element || size % element != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("storage ", reference.key, " has another size than its tensor"));
    }
    MUSTER_ASSIGN_OR_RETURN(const auto found, storages.Find(reference));
    if (found.second) MUSTER_RETURN_IF_ERROR(records.Read(record, found.first->data, size));
    return found.first;
  };
  absl::StatusOr<Value> value = Unpickle(pickle, load);
  if (!value.ok() && !absl::StrContains(value.status().message(), name)) {
    return BadCheckpoint(name, value.status().message());
  }
  return value;
}

// Files from before PyTorch 1.6: five pickles (magic number, protocol, system, object, storage
// keys), then, in the keys' order, each storage's element count (8 bytes) and bytes.
constexpr absl::string_view kOldMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);
constexpr int64_t kOldProtocol = 1001;

// What the first three pickles must say.
absl::Status CheckOldHeader(int pickle, const Value& value) {
  if (pickle == 0 && (value.text() == nullptr || *value.text() != kOldMagic)) {
    return absl::InvalidArgumentError("it is neither a zip container nor an old PyTorch file");
  }
  if (pickle == 1 && value.integer() != kOldProtocol) {
    return absl::InvalidArgumentError("its protocol is not 1001");
  }
  if (pickle == 2) {
    const Value* little = value.Find("little_endian");
    if (little == nullptr || little->boolean() != true) {
      return absl::InvalidArgumentError("its numbers are not little-endian");
    }
  }
  return absl::OkStatus();
}

absl::Status ReadOldStorages(const Value& keys, absl::string_view rest, Storages* storages) {
  if (keys.kind() != Value::Kind::kList) {
    return absl::InvalidArgumentError("its storages are not listed");
  }
  auto& missing = storages->by_key();
  for (const Value& key : *keys.items()) {
    if (key.text() == nullptr) return absl::InvalidArgumentError("a storage has no name");
    const auto found = missing.find(*key.text());
    if (found == missing.end()) {
      return absl::InvalidArgumentError("a storage is listed that no tensor uses");
    }
    const Storage& storage = *found->second;
    uint64_t elements = 0;
    const auto size = static_cast<uint64_t>(storage.bytes());
    if (rest.size() < sizeof(elements)) return absl::InvalidArgumentError("it ends too early");
    std::memcpy(&elements, rest.data(), sizeof(elements));
    rest.remove_prefix(sizeof(elements));
    if (elements != static_cast<uint64_t>(storage.elements)) {
      return absl::InvalidArgumentError(
          absl::StrCat("storage ", *key.text(), " has another size than its tensor"));
    }
    if (rest.size() < size) return absl::InvalidArgumentError("it ends too early");
    if (size > 0) std::memcpy(storage.data, rest.data(), size);
    rest.remove_prefix(size);
    missing.erase(found);
  }
  if (!missing.empty()) return absl::InvalidArgumentError("a storage is missing");
  return absl::OkStatus();
}

absl::StatusOr<Value> ReadOld(absl::string_view bytes, const std::string& name) {
  Storages storages(bytes.size());
  const LoadStorage load =
      [&](const StorageReference& reference) -> absl::StatusOr<std::shared_ptr<const Storage>> {
    MUSTER_ASSIGN_OR_RETURN(const auto found, storages.Find(reference));
    return found.first;
  };
  std::vector<Value> values;
  absl::string_view rest = bytes;
  for (int i = 0; i < 5; ++i) {
    size_t consumed = 0;
    absl::StatusOr<Value> value = Unpickle(rest, load, &consumed);
    const absl::Status status = value.ok() ? CheckOldHeader(i, *value) : value.status();
    if (!status.ok()) return BadCheckpoint(name, status.message());
    rest.remove_prefix(consumed);
    values.push_back(*std::move(value));
  }
  const absl::Status status = ReadOldStorages(values[4], rest, &storages);
  if (!status.ok()) return BadCheckpoint(name, status.message());
  return std::move(values[3]);
}

}  // namespace

absl::StatusOr<Value> ReadPthFrom(absl::string_view bytes, const std::string& name) {
  if (bytes.empty()) return BadCheckpoint(name, "it is empty");
  return absl::StartsWith(bytes, "PK") ? ReadZip(bytes, name) : ReadOld(bytes, name);
}

absl::StatusOr<Value> ReadPth(const std::filesystem::path& path) {
  const absl::StatusOr<std::string> bytes = base::ReadFile(path);
  if (!bytes.ok()) return bytes.status();
  return ReadPthFrom(*bytes, path.string());
}

absl::Status CheckPth(const std::filesystem::path& path) {
  return ZipRecords::OpenFile(path).status();
}

absl::StatusOr<NamedTensors> TensorsOf(const Value& state_dict, const std::string& name) {
  if (const std::string* foreign = state_dict.opaque_class(); foreign != nullptr) {
    return BadCheckpoint(name, RefuseClass(state_dict).message());
  }
  if (!state_dict.is_dict()) return BadCheckpoint(name, "it holds no state_dict");
  const std::vector<Value>& entries = *state_dict.items();
  NamedTensors tensors;
  std::set<std::string> names;
  for (size_t i = 0; i + 1 < entries.size(); i += 2) {
    const std::string* key = entries[i].text();
    if (key == nullptr) return BadCheckpoint(name, "an entry of its state_dict has no name");
    const std::string entry = absl::StrCat("the state_dict's entry ", *key);
    if (entries[i + 1].opaque_class() != nullptr) {
      return BadCheckpoint(name, absl::StrCat(entry, ": ", RefuseClass(entries[i + 1]).message()));
    }
    const Tensor* tensor = entries[i + 1].tensor();
    if (tensor == nullptr) return BadCheckpoint(name, absl::StrCat(entry, " is no tensor"));
    std::string own(absl::StripPrefix(*key, "module."));
    if (!names.insert(own).second) {
      return BadCheckpoint(name, absl::StrCat(entry, " is there twice"));
    }
    tensors.emplace_back(std::move(own), *tensor);
  }
  return tensors;
}

}  // namespace muster::checkpoint
