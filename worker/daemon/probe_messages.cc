#include "worker/daemon/probe_messages.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace muster::worker {
namespace {

// The first word of each line; changes with its form.
constexpr char kRequestWord[] = "muster-probe-1";
constexpr char kAnswerWord[] = "muster-probe-1-ok";
constexpr char kErrorWord[] = "muster-probe-1-error";
// Stands for an interface that is not asked for.
constexpr char kAny[] = "*";
constexpr size_t kNonceDigits = 32;
constexpr size_t kMostPorts = 16;

bool IsWord(absl::string_view text, size_t longest) {
  return !text.empty() && text.size() <= longest &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return absl::ascii_isgraph(static_cast<unsigned char>(c)); });
}

bool IsNonce(absl::string_view text) {
  return text.size() == kNonceDigits && std::all_of(text.begin(), text.end(), [](char c) {
           return absl::ascii_isxdigit(static_cast<unsigned char>(c));
         });
}

bool ReadBinding(const std::vector<std::string>& words, size_t first, std::string* job,
                 int64_t* generation, std::string* nonce) {
  *job = words[first];
  *nonce = words[first + 2];
  return IsWord(*job, 128) && absl::SimpleAtoi(words[first + 1], generation) && *generation > 0 &&
         IsNonce(*nonce);
}

absl::Status NoProbe() { return absl::InvalidArgumentError("answers in another protocol"); }

}  // namespace

std::string ToLine(const ProbeRequest& request) {
  return absl::StrCat(kRequestWord, " ", request.job, " ", request.generation, " ", request.nonce,
                      " ", request.interface.empty() ? kAny : request.interface, "\n");
}

std::string ToLine(const ProbeAnswer& answer) {
  const std::string binding =
      absl::StrCat(answer.node, " ", answer.job, " ", answer.generation, " ", answer.nonce, " ");
  std::string line = answer.error.empty() ? absl::StrCat(kAnswerWord, " ", binding, answer.ip, " ",
                                                         absl::StrJoin(answer.ports, " "))
                                          : absl::StrCat(kErrorWord, " ", binding, answer.error);
  std::replace(line.begin(), line.end(), '\n', ' ');
  line.resize(std::min(line.size(), kMostProbeBytes - 1));
  return line + "\n";
}

absl::StatusOr<ProbeRequest> ParseProbeRequest(const std::string& line) {
  const std::vector<std::string> words = absl::StrSplit(line, ' ');
  ProbeRequest request;
  if (words.size() != 5 || words[0] != kRequestWord ||
      !ReadBinding(words, 1, &request.job, &request.generation, &request.nonce) ||
      !IsWord(words[4], 15)) {
    return NoProbe();
  }
  if (words[4] != kAny) request.interface = words[4];
  return request;
}

absl::StatusOr<ProbeAnswer> ParseProbeAnswer(const std::string& line) {
  const std::vector<std::string> words = absl::StrSplit(line, ' ');
  ProbeAnswer answer;
  if (words.size() < 6 || (words[0] != kAnswerWord && words[0] != kErrorWord) ||
      !IsWord(words[1], 63) ||
      !ReadBinding(words, 2, &answer.job, &answer.generation, &answer.nonce)) {
    return NoProbe();
  }
  answer.node = words[1];
  if (words[0] == kErrorWord) {
    answer.error = absl::StrJoin(words.begin() + 5, words.end(), " ");
    const bool plain = std::all_of(answer.error.begin(), answer.error.end(), [](char c) {
      return absl::ascii_isprint(static_cast<unsigned char>(c));
    });
    if (answer.error.empty() || !plain) return NoProbe();
    return answer;
  }
  answer.ip = words[5];
  if (!IsWord(answer.ip, 45) || words.size() > 6 + kMostPorts) return NoProbe();
  for (size_t i = 6; i < words.size(); ++i) {
    int port = 0;
    if (!absl::SimpleAtoi(words[i], &port) || port < 1 || port > 65535) return NoProbe();
    answer.ports.push_back(port);
  }
  return answer;
}

}  // namespace muster::worker
