#include "tests/support/parity_cases.h"

#include <algorithm>
#include <cstdlib>
#include <regex>
#include <set>
#include <sstream>

#include "tests/support/parity.h"
#include "tests/support/safetensors_file.h"
#include "tests/support/shared_data.h"

namespace muster::testing {
namespace {

// MKL's kernels differ between CPUs in the last bit, its logarithm for one, so that regression
// targets made on another CPU are not ours to the bit. These kernels are the same on all of them;
// the cases were made with them. Before MKL is used for the first time, which reads it then.
[[maybe_unused]] const bool kMklAsked = setenv("MKL_CBWR", "COMPATIBLE", /*overwrite=*/0) == 0;

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) {
    if (!part.empty()) parts.push_back(part);
  }
  return parts;
}

std::vector<std::filesystem::path> Folders() {
  std::vector<std::filesystem::path> folders;
  if (const char* set = std::getenv("MUSTER_PARITY_CASES"); set != nullptr && *set != '\0') {
    for (const std::string& folder : Split(set, ':')) folders.emplace_back(folder);
    return folders;
  }
  if (const auto shared = SharedData()) folders.push_back(*shared / "oracle/cases");
  folders.push_back(SourceFolder() / "build/parity-cases");
  return folders;
}

bool IsWanted(const std::string& arch) {
  const char* set = std::getenv("MUSTER_PARITY_ARCHS");
  if (set == nullptr || *set == '\0') return true;
  const std::vector<std::string> wanted = Split(set, ',');
  return std::find(wanted.begin(), wanted.end(), arch) != wanted.end();
}

void AddCase(const std::filesystem::path& path, std::set<std::string>* seen, ParityCases* cases) {
  static const std::regex kTraining(
      "(([a-z]+[0-9]*)_([a-z0-9]+)_(train|eval)_(first_k|strided)(_lr[0-9.]+)?(_float64)?)"
      "_step0\\.safetensors");
  static const std::regex kInference("(([a-z]+[0-9]*)_([a-z0-9]+)_test(_float64)?)\\.safetensors");
  const std::string name = path.filename().string();
  std::smatch match;
  ParityCase found;
  found.folder = path.parent_path();
  const bool trains = std::regex_match(name, match, kTraining);
  if (trains) {
    found.norm_eval = match[4] == "eval";
    found.first_k = match[5] == "first_k";
    found.is_float64 = match[7].matched;
  } else if (std::regex_match(name, match, kInference)) {
    found.is_float64 = match[4].matched;
  } else {
    return;
  }
  found.stem = match[1];
  found.arch = match[2];
  found.images = match[3];
  if (!IsWanted(found.arch) || !seen->insert(found.stem).second) return;
  (trains ? cases->training : cases->inference).push_back(found);
}

}  // namespace

std::string ParityCase::test_name() const {
  std::string name = stem;
  std::replace(name.begin(), name.end(), '.', 'p');
  return name;
}

ParityCases FindParityCases() {
  ParityCases cases;
  std::set<std::string> seen;
  for (const std::filesystem::path& folder : Folders()) {
    if (!std::filesystem::is_directory(folder)) continue;
    std::set<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      paths.insert(entry.path());
    }
    for (const std::filesystem::path& path : paths) AddCase(path, &seen, &cases);
  }
  return cases;
}

config::v1::Model ModelOfCase(const ParityCase& parity_case) {
  config::v1::Model model = ModelOfArch(parity_case.arch);
  model.mutable_norm()->set_norm_eval(parity_case.norm_eval);
  const SafetensorsFile batch = ReadSafetensors(parity_case.batch());
  const auto threshold = batch.metadata.find("ignore_iof_thr");
  if (threshold != batch.metadata.end()) {
    const double value = std::stod(threshold->second);
    model.mutable_rpn_head()->mutable_assigner()->set_ignore_iof_thr(value);
    model.mutable_roi_head()->mutable_assigner()->set_ignore_iof_thr(value);
  }
  return model;
}

}  // namespace muster::testing
