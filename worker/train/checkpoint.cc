#include "worker/train/checkpoint.h"

#include <openssl/evp.h>

#include <array>
#include <map>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/util/time_util.h"

#include "common/base/status_macros.h"
#include "worker/checkpoint/pth_reader.h"

namespace muster::train {
namespace {

using checkpoint::Value;

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
  muster.Set("images_per_rank", Value::Integer(position.images_per_rank));
  muster.Set("images", Value::Integer(position.images));
  muster.Set("first_images_per_step", Value::Integer(position.first_images_per_step));
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
  for (const auto& [name, tensor] : snapshot.model)
    state_dict.Set(name, Value::OfTensor(FromTorch(tensor)));

  Value states = Value::Dict();
  std::vector<Value> indices;
  for (size_t i = 0; i < snapshot.momentum.size(); ++i) {
    indices.push_back(Value::Integer(static_cast<int64_t>(i)));
    if (!snapshot.momentum[i].defined()) continue;
    Value state = Value::Dict();
    state.Set("momentum_buffer", Value::OfTensor(FromTorch(snapshot.momentum[i])));
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
                       .images_per_rank = muster->Find("images_per_rank") == nullptr
                                              ? 0
                                              : integer("images_per_rank"),
                       .images = integer("images"),
                       .first_images_per_step = integer("first_images_per_step"),
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
  MUSTER_ASSIGN_OR_RETURN(const checkpoint::NamedTensors tensors,
                          checkpoint::TensorsOf(*state_dict, name));
  snapshot.model = ToTorch(tensors);

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
    snapshot.momentum[static_cast<size_t>(index)] = ToTorch(*buffer->tensor());
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

}  // namespace muster::train
