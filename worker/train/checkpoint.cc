#include "worker/train/checkpoint.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <system_error>
#include <tuple>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "google/protobuf/util/json_util.h"
#include "google/protobuf/util/time_util.h"

#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "worker/train/pth_file.h"

namespace muster::train {
namespace {

void AppendStateDict(const torch::nn::Module& module, const std::string& prefix,
                     NamedTensors* result) {
  for (const auto& item : module.named_parameters(/*recurse=*/false)) {
    result->emplace_back(prefix + item.key(), item.value());
  }
  for (const auto& item : module.named_buffers(/*recurse=*/false)) {
    result->emplace_back(prefix + item.key(), item.value());
  }
  for (const auto& child : module.named_children()) {
    AppendStateDict(*child.value(), absl::StrCat(prefix, child.key(), "."), result);
  }
}

at::Tensor CopyToCpu(const at::Tensor& tensor) {
  return tensor.detach()
      .to(at::kCPU, tensor.scalar_type(), /*non_blocking=*/false, /*copy=*/true)
      .contiguous();
}

std::string Shape(const at::Tensor& tensor) {
  return absl::StrCat("(", absl::StrJoin(tensor.sizes(), ", "), ")");
}

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new()) { EVP_DigestInit_ex(context_, EVP_sha256(), nullptr); }
  ~Sha256() { EVP_MD_CTX_free(context_); }
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Add(const void* data, size_t size) { EVP_DigestUpdate(context_, data, size); }
  void Add(const at::Tensor& given) {
    const std::string shape = given.defined() ? Shape(given) : "none";
    Add(shape.data(), shape.size());
    if (!given.defined()) return;
    const at::Tensor tensor = given.detach().cpu().contiguous();
    Add(tensor.const_data_ptr(), tensor.nbytes());
  }
  std::string Finish() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_, digest.data(), &size);
    return absl::BytesToHexString(
        absl::string_view(reinterpret_cast<const char*>(digest.data()), size));
  }

 private:
  EVP_MD_CTX* context_;
};

absl::StatusOr<NamedTensors> TensorsOf(const Value& dict, const std::string& name) {
  const std::vector<Value>& entries = *dict.items();
  NamedTensors tensors;
  for (size_t i = 0; i + 1 < entries.size(); i += 2) {
    const std::string* key = entries[i].text();
    const at::Tensor* tensor = entries[i + 1].tensor();
    if (key == nullptr || tensor == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": the state_dict's entry ",
                                                     key == nullptr ? "without a name" : *key,
                                                     " is no tensor"));
    }
    tensors.emplace_back(std::string(absl::StripPrefix(*key, "module.")), *tensor);
  }
  return tensors;
}

}  // namespace

NamedTensors StateDict(const torch::nn::Module& module) {
  NamedTensors result;
  AppendStateDict(module, "", &result);
  return result;
}

std::string Digest(const NamedTensors& model, const std::vector<at::Tensor>& momentum) {
  Sha256 sha;
  for (const auto& [name, tensor] : model) {
    sha.Add(name.data(), name.size());
    sha.Add(tensor);
  }
  for (const at::Tensor& buffer : momentum) sha.Add(buffer);
  return sha.Finish();
}

Snapshot TakeSnapshot(const torch::nn::Module& module, const Sgd& sgd,
                      const TrainingPosition& position) {
  Snapshot snapshot;
  snapshot.position = position;
  for (const auto& [name, tensor] : StateDict(module)) {
    snapshot.model.emplace_back(name, CopyToCpu(tensor));
  }
  snapshot.optimizer = sgd.options();
  for (const at::Tensor& buffer : sgd.momentum_buffers()) {
    snapshot.momentum.push_back(buffer.defined() ? CopyToCpu(buffer) : at::Tensor());
  }
  snapshot.digest = Digest(snapshot.model, snapshot.momentum);
  return snapshot;
}

Value ToValue(const Snapshot& snapshot) {
  const TrainingPosition& position = snapshot.position;
  Value muster = Value::Dict();
  muster.Set("format", Value::Integer(1));
  muster.Set("step", Value::Integer(position.step));
  muster.Set("epoch", Value::Integer(position.epoch));
  muster.Set("cursor", Value::Integer(position.cursor));
  muster.Set("world_size", Value::Integer(position.world_size));
  muster.Set("generation", Value::Integer(position.generation));
  muster.Set("parent_generation", Value::Integer(position.parent_generation));
  muster.Set("parent_step", Value::Integer(position.parent_step));
  muster.Set("seed", Value::Integer(static_cast<int64_t>(snapshot.seed)));
  muster.Set("digest", Value::Text(snapshot.digest));

  std::vector<Value> classes;
  for (const std::string& name : snapshot.classes) classes.push_back(Value::Text(name));
  Value dataset = Value::Dict();
  dataset.Set("classes", Value::Tuple(std::move(classes)));
  Value meta = Value::Dict();
  meta.Set("epoch", Value::Integer(position.epoch));
  meta.Set("iter", Value::Integer(position.step));
  meta.Set("dataset_meta", dataset);
  meta.Set("muster", muster);

  Value state_dict = Value::OrderedDict();
  for (const auto& [name, tensor] : snapshot.model) state_dict.Set(name, Value::Tensor(tensor));

  Value states = Value::Dict();
  std::vector<Value> indices;
  for (size_t i = 0; i < snapshot.momentum.size(); ++i) {
    indices.push_back(Value::Integer(static_cast<int64_t>(i)));
    if (!snapshot.momentum[i].defined()) continue;
    Value state = Value::Dict();
    state.Set("momentum_buffer", Value::Tensor(snapshot.momentum[i]));
    states.Set(indices.back(), state);
  }
  Value group = Value::Dict();
  group.Set("lr", Value::Real(snapshot.learning_rate));
  group.Set("momentum", Value::Real(snapshot.optimizer.momentum));
  group.Set("dampening", Value::Integer(0));
  group.Set("weight_decay", Value::Real(snapshot.optimizer.weight_decay));
  group.Set("nesterov", Value::Bool(false));
  group.Set("maximize", Value::Bool(false));
  group.Set("foreach", Value());
  group.Set("differentiable", Value::Bool(false));
  group.Set("fused", Value());
  group.Set("params", Value::List(std::move(indices)));
  Value optimizer = Value::Dict();
  optimizer.Set("state", states);
  optimizer.Set("param_groups", Value::List({group}));

  Value checkpoint = Value::Dict();
  checkpoint.Set("meta", meta);
  checkpoint.Set("state_dict", state_dict);
  checkpoint.Set("optimizer", optimizer);
  return checkpoint;
}

absl::StatusOr<Snapshot> FromValue(const Value& value, const std::string& name) {
  const auto bad = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(name, " cannot be resumed from: ", what));
  };
  const Value* meta = value.Find("meta");
  const Value* muster = meta == nullptr ? nullptr : meta->Find("muster");
  if (muster == nullptr || !muster->is_dict()) {
    return bad("Muster did not write it; give it as model.load_from to start from its weights");
  }
  std::string missing;
  const auto integer = [&](const char* field) -> int64_t {
    const Value* found = muster->Find(field);
    const std::optional<int64_t> number = found == nullptr ? std::nullopt : found->integer();
    if (!number.has_value()) missing = field;
    return number.value_or(0);
  };
  Snapshot snapshot;
  snapshot.position = {.step = integer("step"),
                       .epoch = static_cast<int>(integer("epoch")),
                       .cursor = integer("cursor"),
                       .world_size = static_cast<int>(integer("world_size")),
                       .generation = integer("generation"),
                       .parent_generation = integer("parent_generation"),
                       .parent_step = integer("parent_step")};
  snapshot.seed = static_cast<uint64_t>(integer("seed"));
  const Value* digest = muster->Find("digest");
  if (digest == nullptr || digest->text() == nullptr) missing = "digest";
  if (!missing.empty()) return bad(absl::StrCat("meta.muster.", missing, " is missing"));
  snapshot.digest = *digest->text();

  const Value* state_dict = value.Find("state_dict");
  if (state_dict == nullptr || !state_dict->is_dict()) return bad("it has no state_dict");
  MUSTER_ASSIGN_OR_RETURN(snapshot.model, TensorsOf(*state_dict, name));

  const Value* optimizer = value.Find("optimizer");
  const Value* states = optimizer == nullptr ? nullptr : optimizer->Find("state");
  const Value* groups = optimizer == nullptr ? nullptr : optimizer->Find("param_groups");
  const Value* parameters = nullptr;
  if (groups != nullptr && groups->kind() == Value::Kind::kList && groups->items()->size() == 1) {
    parameters = groups->items()->front().Find("params");
  }
  if (states == nullptr || !states->is_dict() || parameters == nullptr ||
      parameters->kind() != Value::Kind::kList) {
    return bad("it has no optimizer state");
  }
  snapshot.momentum.resize(parameters->items()->size());
  const std::vector<Value>& entries = *states->items();
  for (size_t i = 0; i + 1 < entries.size(); i += 2) {
    const int64_t index = entries[i].integer().value_or(-1);
    const Value* buffer = entries[i + 1].Find("momentum_buffer");
    if (index < 0 || index >= static_cast<int64_t>(snapshot.momentum.size()) || buffer == nullptr ||
        buffer->tensor() == nullptr) {
      return bad("its optimizer state is not understood");
    }
    snapshot.momentum[static_cast<size_t>(index)] = *buffer->tensor();
  }
  if (Digest(snapshot.model, snapshot.momentum) != snapshot.digest) {
    return bad("its tensors do not match its digest");
  }
  return snapshot;
}

absl::Status LoadStateDict(const NamedTensors& tensors, const std::string& name,
                           torch::nn::Module& module) {
  std::map<std::string, at::Tensor> given(tensors.begin(), tensors.end());
  std::vector<std::string> differences;
  NamedTensors own = StateDict(module);
  for (const auto& [key, tensor] : own) {
    const auto found = given.find(key);
    if (found == given.end()) {
      differences.push_back(absl::StrCat(key, " is missing"));
    } else if (found->second.sizes() != tensor.sizes()) {
      differences.push_back(
          absl::StrCat(key, " is ", Shape(found->second), ", not ", Shape(tensor)));
    }
    if (found != given.end()) given.erase(found);
  }
  for (const auto& [key, tensor] : given) differences.push_back(absl::StrCat(key, " is unknown"));
  if (!differences.empty()) {
    const size_t count = differences.size();
    if (count > 10) differences.resize(10);
    return absl::InvalidArgumentError(absl::StrCat(
        name, " does not fit the model in ", count,
        " of its tensors: ", absl::StrJoin(differences, "; "), count > 10 ? "; ..." : ""));
  }
  const std::map<std::string, at::Tensor> by_name(tensors.begin(), tensors.end());
  const at::NoGradGuard no_grad;
  for (auto& [key, tensor] : own) tensor.copy_(by_name.at(key));
  return absl::OkStatus();
}

absl::StatusOr<NamedTensors> ReadWeights(const std::filesystem::path& path) {
  if (path.extension() == ".safetensors") return ReadSafetensors(path);
  if (path.extension() != ".pth") {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), ": weights are read from .pth and .safetensors files"));
  }
  MUSTER_ASSIGN_OR_RETURN(const Value value, ReadPth(path));
  const Value* state_dict = value.Find("state_dict");
  if (state_dict == nullptr) state_dict = &value;
  if (!state_dict->is_dict()) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), " holds no state_dict"));
  }
  return TensorsOf(*state_dict, path.string());
}

absl::Status LoadStartingWeights(const std::filesystem::path& path, torch::nn::Module& module) {
  MUSTER_ASSIGN_OR_RETURN(NamedTensors tensors, ReadWeights(path));
  const bool detector = std::any_of(tensors.begin(), tensors.end(), [](const auto& item) {
    return absl::StartsWith(item.first, "backbone.");
  });
  if (!detector) {
    std::set<std::string> backbone;
    NamedTensors complete = StateDict(module);
    for (const auto& [name, tensor] : complete) {
      if (absl::StartsWith(name, "backbone.")) backbone.insert(name);
    }
    NamedTensors renamed;
    for (auto& [name, tensor] : tensors) {
      std::string detector_name = absl::StrCat("backbone.", name);
      if (backbone.count(detector_name) > 0) renamed.emplace_back(detector_name, tensor);
    }
    std::set<std::string> given;
    for (const auto& [name, tensor] : renamed) given.insert(name);
    // The other parts keep their random weights.
    for (const auto& [name, tensor] : complete) {
      if (backbone.count(name) == 0) renamed.emplace_back(name, tensor.detach().clone());
      // Files from before PyTorch 0.4.1 do not count batches.
      if (given.count(name) == 0 && absl::EndsWith(name, ".num_batches_tracked") &&
          backbone.count(name) > 0) {
        renamed.emplace_back(name, tensor.detach().clone());
      }
    }
    tensors = std::move(renamed);
  }
  return LoadStateDict(tensors, path.string(), module);
}

v1::Checkpoint Describe(const Snapshot& snapshot, const std::string& job, const std::string& file) {
  v1::Checkpoint checkpoint;
  checkpoint.set_job(job);
  checkpoint.set_generation(snapshot.position.generation);
  checkpoint.set_step(snapshot.position.step);
  checkpoint.set_epoch(snapshot.position.epoch);
  checkpoint.set_parent_generation(snapshot.position.parent_generation);
  checkpoint.set_parent_step(snapshot.position.parent_step);
  checkpoint.set_digest(snapshot.digest);
  checkpoint.set_file(file);
  *checkpoint.mutable_create_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
  return checkpoint;
}

std::vector<v1::Checkpoint> ListCheckpoints(const std::filesystem::path& folder) {
  std::vector<v1::Checkpoint> checkpoints;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    if (!absl::EndsWith(entry.path().filename().string(), ".pth.json")) continue;
    std::filesystem::path file = entry.path();
    file.replace_extension();
    const auto leave_out = [&](absl::string_view reason) {
      base::Log(base::LogSeverity::kWarning, "trainer", "a checkpoint cannot be resumed from",
                {{"file", file.string()}, {"reason", reason}});
    };
    const absl::StatusOr<std::string> text = base::ReadFile(entry.path());
    v1::Checkpoint checkpoint;
    google::protobuf::util::JsonParseOptions options;
    options.ignore_unknown_fields = true;
    if (!text.ok() ||
        !google::protobuf::util::JsonStringToMessage(*text, &checkpoint, options).ok()) {
      leave_out("its description is damaged");
      continue;
    }
    std::error_code error;
    const uintmax_t size = std::filesystem::file_size(file, error);
    if (error) continue;  // one of those no longer kept
    if (static_cast<int64_t>(size) != checkpoint.size_bytes()) {
      leave_out("it has another size than its description says");
      continue;
    }
    if (const absl::Status whole = CheckPth(file); !whole.ok()) {
      leave_out(absl::string_view(whole.message()));
      continue;
    }
    checkpoint.set_file(file.filename().string());
    checkpoints.push_back(std::move(checkpoint));
  }
  std::sort(checkpoints.begin(), checkpoints.end(),
            [](const v1::Checkpoint& a, const v1::Checkpoint& b) {
              return std::make_tuple(a.step(), a.generation(), a.file()) >
                     std::make_tuple(b.step(), b.generation(), b.file());
            });
  return checkpoints;
}

}  // namespace muster::train
