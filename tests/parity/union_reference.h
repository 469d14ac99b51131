#pragma once

#include <torch/torch.h>

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "worker/model/faster_rcnn.h"

namespace muster::testing {

using Tensors = std::vector<at::Tensor>;  // one a rank

// The backbone and neck over all ranks' tensors in one process, of nothing but convolutions,
// autograd and statistics of the union of elements. Parameters are shared with `model`; running
// statistics are kept apart.
class UnionReference {
 public:
  explicit UnionReference(model::FasterRCNN model) : model_(std::move(model)) {
    for (const auto& item : model_->named_parameters()) parameters_[item.key()] = item.value();
    for (const auto& item : model_->named_buffers()) running_[item.key()] = item.value().clone();
  }

  const at::Tensor& running(const std::string& name) const { return running_.at(name); }

  // The five levels of each rank.
  std::vector<Tensors> Levels(const Tensors& images) {
    const std::string b = "backbone.";
    Tensors x = Relu(Norm(Conv(images, b + "conv1", 2), b + "bn1"));
    x = Relu(Norm(Conv(x, b + "conv2", 2), b + "bn2"));
    for (int block = 0; Has(b + "layer1." + std::to_string(block) + ".conv1.weight"); ++block) {
      x = Bottleneck(x, b + "layer1." + std::to_string(block) + ".");
    }
    std::vector<Tensors> branches = {x};
    for (int stage = 2; stage <= 4; ++stage) {
      branches = Transition(branches, b + "transition" + std::to_string(stage - 1) + ".");
      for (int m = 0;; ++m) {
        const std::string prefix =
            b + "stage" + std::to_string(stage) + "." + std::to_string(m) + ".";
        if (!Has(prefix + "branches.0.0.conv1.weight")) break;
        branches = Module(branches, prefix);
      }
    }
    std::vector<Tensors> levels(images.size());
    for (size_t rank = 0; rank < images.size(); ++rank) {
      Tensors all = {branches[0][rank]};
      for (size_t i = 1; i < branches.size(); ++i) {
        all.push_back(torch::nn::functional::interpolate(
            branches[i][rank], torch::nn::functional::InterpolateFuncOptions()
                                   .scale_factor(std::vector<double>(2, std::pow(2.0, i)))
                                   .mode(torch::kBilinear)
                                   .align_corners(false)));
      }
      const at::Tensor reduced = Conv({at::cat(all, 1)}, "neck.reduction_conv.conv", 1)[0];
      for (int level = 0; level < 5; ++level) {
        const at::Tensor pooled =
            level == 0 ? reduced : at::avg_pool2d(reduced, 1 << level, 1 << level);
        levels[rank].push_back(
            Conv({pooled}, "neck.fpn_convs." + std::to_string(level) + ".conv", 1)[0]);
      }
    }
    return levels;
  }

 private:
  bool Has(const std::string& name) const { return parameters_.count(name) != 0; }

  Tensors Conv(const Tensors& x, const std::string& name, int64_t stride) const {
    const at::Tensor& weight = parameters_.at(name + ".weight");
    const at::Tensor bias = Has(name + ".bias") ? parameters_.at(name + ".bias") : at::Tensor();
    Tensors out;
    for (const at::Tensor& t : x)
      out.push_back(at::conv2d(t, weight, bias, stride, weight.size(2) / 2));
    return out;
  }

  Tensors Norm(const Tensors& x, const std::string& name) {
    Tensors flat;
    for (const at::Tensor& t : x) flat.push_back(t.transpose(0, 1).flatten(1));
    const at::Tensor all = at::cat(flat, 1);
    const at::Tensor mean = all.mean(1);
    const at::Tensor variance = all.var(1, /*unbiased=*/false);
    const double count = static_cast<double>(all.size(1));
    Update(name + ".running_mean", mean);
    Update(name + ".running_var", variance * (count / (count - 1)));
    const auto shaped = [](const at::Tensor& t) { return t.view({1, -1, 1, 1}); };
    Tensors out;
    for (const at::Tensor& t : x) {
      out.push_back((t - shaped(mean)) / (shaped(variance) + 1e-5).sqrt() *
                        shaped(parameters_.at(name + ".weight")) +
                    shaped(parameters_.at(name + ".bias")));
    }
    return out;
  }

  void Update(const std::string& name, const at::Tensor& value) {
    running_.at(name) = running_.at(name) * 0.9 + value.detach() * 0.1;
  }

  static Tensors Relu(const Tensors& x) {
    Tensors out;
    for (const at::Tensor& t : x) out.push_back(t.relu());
    return out;
  }

  static Tensors Add(const Tensors& x, const Tensors& y) {
    Tensors out;
    for (size_t i = 0; i < x.size(); ++i) out.push_back(x[i] + y[i]);
    return out;
  }

  Tensors Bottleneck(const Tensors& x, const std::string& p) {
    Tensors y = Relu(Norm(Conv(x, p + "conv1", 1), p + "bn1"));
    y = Relu(Norm(Conv(y, p + "conv2", 1), p + "bn2"));
    y = Norm(Conv(y, p + "conv3", 1), p + "bn3");
    const bool projected = Has(p + "downsample.0.weight");
    return Relu(Add(y, projected ? Norm(Conv(x, p + "downsample.0", 1), p + "downsample.1") : x));
  }

  Tensors BasicBlock(const Tensors& x, const std::string& p) {
    const Tensors y = Relu(Norm(Conv(x, p + "conv1", 1), p + "bn1"));
    return Relu(Add(Norm(Conv(y, p + "conv2", 1), p + "bn2"), x));
  }

  std::vector<Tensors> Transition(const std::vector<Tensors>& from, const std::string& p) {
    std::vector<Tensors> to;
    for (size_t i = 0; i <= from.size(); ++i) {
      const std::string branch = p + std::to_string(i) + ".";
      if (Has(branch + "0.weight")) {
        to.push_back(Relu(Norm(Conv(from[i], branch + "0", 1), branch + "1")));
      } else if (Has(branch + "0.0.weight")) {
        to.push_back(Relu(Norm(Conv(from.back(), branch + "0.0", 2), branch + "0.1")));
      } else if (i < from.size()) {
        to.push_back(from[i]);
      }
    }
    return to;
  }

  std::vector<Tensors> Module(std::vector<Tensors> branches, const std::string& p) {
    for (size_t b = 0; b < branches.size(); ++b) {
      for (int block = 0;; ++block) {
        const std::string prefix =
            p + "branches." + std::to_string(b) + "." + std::to_string(block) + ".";
        if (!Has(prefix + "conv1.weight")) break;
        branches[b] = BasicBlock(branches[b], prefix);
      }
    }
    std::vector<Tensors> fused;
    for (size_t i = 0; i < branches.size(); ++i) {
      Tensors sum;
      for (size_t j = 0; j < branches.size(); ++j) {
        const std::string prefix =
            p + "fuse_layers." + std::to_string(i) + "." + std::to_string(j) + ".";
        Tensors term = branches[j];
        if (j > i) {
          term = Norm(Conv(term, prefix + "0", 1), prefix + "1");
          for (at::Tensor& t : term) {
            const int64_t factor = int64_t{1} << (j - i);
            t = t.repeat_interleave(factor, 2).repeat_interleave(factor, 3);
          }
        }
        for (size_t n = 0; n < i - std::min(i, j); ++n) {
          const std::string step = prefix + std::to_string(n) + ".";
          term = Norm(Conv(term, step + "0", 2), step + "1");
          if (n + 1 < i - j) term = Relu(term);
        }
        sum = j == 0 ? term : Add(sum, term);
      }
      fused.push_back(Relu(sum));
    }
    return fused;
  }

  model::FasterRCNN model_;
  std::map<std::string, at::Tensor> parameters_;
  std::map<std::string, at::Tensor> running_;
};

}  // namespace muster::testing
