// The zip directory and the reading of members: ZipImageSource on any bytes.
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

#include "tests/fuzz/fuzz_target.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_coco.h"
#include "worker/data/zip_image_source.h"
#include "worker/data/zip_writer.h"

namespace muster::fuzz {
namespace {

constexpr const char* kNames[] = {"a", "b", "c.jpg", "d/e.jpg"};

std::string Number(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<char>(value >> (8 * i)));
  return out;
}

// An archive of one stored member whose sizes are in zip64 fields.
std::string Zip64(const std::string& plain, size_t name_size) {
  const size_t directory = plain.find("PK\x01\x02");
  const size_t end = plain.find("PK\x05\x06");
  const std::string size = plain.substr(directory + 24, 4) + std::string(4, '\0');
  std::string entry = plain.substr(directory, 46 + name_size);
  entry.replace(20, 8, std::string(8, '\xff'));
  entry.replace(30, 4, Number(28, 4));
  entry.replace(42, 4, std::string(4, '\xff'));
  entry += Number(1, 2) + Number(24, 2) + size + size + Number(0, 8);
  std::string archive = plain.substr(0, directory) + entry;
  const size_t end64 = archive.size();
  archive += "PK\x06\x06" + Number(44, 8) + Number(45, 2) + Number(45, 2) + Number(0, 8) +
             Number(1, 8) + Number(1, 8) + Number(entry.size(), 8) + Number(directory, 8);
  archive += "PK\x06\x07" + Number(0, 4) + Number(end64, 8) + Number(1, 4);
  std::string tail = plain.substr(end, 22);
  tail.replace(8, 12, std::string(12, '\xff'));
  return archive + tail;
}

}  // namespace

std::vector<std::string> Seeds() {
  const testing::TemporaryFolder folder;
  const std::filesystem::path path = folder.path() / "seed.zip";
  std::vector<std::string> seeds;
  const auto add = [&](const std::vector<data::ZipMember>& members,
                       data::ZipCompression compression) {
    Require(data::WriteZip(path, members, compression).ok(), "seed");
    seeds.push_back(testing::ReadText(path));
  };
  const std::vector<data::ZipMember> members = {
      {kNames[0], "first"}, {kNames[1], std::string(200, 'x')}, {kNames[2], ""}, {kNames[3], "e"}};
  add(members, data::ZipCompression::kStored);
  add(members, data::ZipCompression::kDeflated);
  add({{"a", "one"}}, data::ZipCompression::kStored);
  seeds.push_back(Zip64(seeds.back(), 1));
  return seeds;
}

void FuzzOne(absl::Span<const uint8_t> input) {
  static MemoryFile* const file = new MemoryFile();
  file->Write(input);
  const auto source = data::ZipImageSource::Open(file->path());
  if (!source.ok()) {
    Require(!source.status().message().empty(), "an error has a message");
    return;
  }
  std::vector<uint8_t> scratch;
  for (const char* name : kNames) {
    const auto bytes = (*source)->Read(name, &scratch);
    if (!bytes.ok()) continue;
    Require((*source)->Contains(name), "what is read is contained");
    uint32_t sum = 0;
    for (const uint8_t byte : *bytes) sum += byte;  // all of it can be read
    Require(sum <= 255 * bytes->size(), "bytes");
  }
}

}  // namespace muster::fuzz
