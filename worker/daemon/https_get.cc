#include "worker/daemon/https_get.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "common/base/status_macros.h"
#include "common/security/self_signed.h"
#include "worker/daemon/tcp_socket.h"

namespace muster::worker {
namespace {

constexpr size_t kMostHeadBytes = 8 << 10;
constexpr size_t kPiece = 256 << 10;

absl::StatusOr<HttpsAnswer> ParseHead(absl::string_view head) {
  const std::vector<absl::string_view> lines = absl::StrSplit(head, "\r\n");
  const std::vector<absl::string_view> words = absl::StrSplit(lines[0], ' ');
  HttpsAnswer answer;
  if (words.size() < 2 || !absl::StartsWith(words[0], "HTTP/1.") ||
      !absl::SimpleAtoi(words[1], &answer.status)) {
    return absl::InvalidArgumentError("it answers in another protocol");
  }
  answer.length = -1;
  for (const absl::string_view line : lines) {
    const std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (!absl::EqualsIgnoreCase(field.first, "Content-Length")) continue;
    if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(field.second), &answer.length)) {
      answer.length = -1;
    }
  }
  if (answer.length < 0)
    return absl::InvalidArgumentError("it does not say how long its answer is");
  return answer;
}

}  // namespace

absl::Status HttpsGet(const v1::CheckpointServer& server, const std::string& path, int64_t from,
                      const SocketLimit& limit,
                      absl::FunctionRef<absl::Status(const HttpsAnswer&)> on_head,
                      absl::FunctionRef<absl::Status(absl::string_view)> on_data) {
  MUSTER_ASSIGN_OR_RETURN(const auto address, SplitAddress(server.address()));
  MUSTER_ASSIGN_OR_RETURN(const auto certificate, security::ParseCertificate(server.certificate()));
  MUSTER_ASSIGN_OR_RETURN(TlsSocket socket, TlsSocket::Connect(address.first, address.second,
                                                               certificate.get(), limit));
  MUSTER_RETURN_IF_ERROR(socket.Write(absl::StrCat(
      "GET ", path, " HTTP/1.1\r\nHost: ", server.address(), "\r\nAuthorization: Bearer ",
      server.token(), from > 0 ? absl::StrCat("\r\nRange: bytes=", from, "-") : "",
      "\r\nConnection: close\r\n\r\n")));
  std::vector<char> piece(kPiece);
  std::string head;
  size_t end = std::string::npos;
  while (end == std::string::npos) {
    if (head.size() > kMostHeadBytes) {
      return absl::InvalidArgumentError("it answers in another protocol");
    }
    MUSTER_ASSIGN_OR_RETURN(const size_t size, socket.Read(piece.data(), kMostHeadBytes));
    if (size == 0) return absl::UnavailableError("it hung up");
    head.append(piece.data(), size);
    end = head.find("\r\n\r\n");
  }
  MUSTER_ASSIGN_OR_RETURN(const HttpsAnswer answer, ParseHead(head.substr(0, end)));
  MUSTER_RETURN_IF_ERROR(on_head(answer));
  const std::string first = head.substr(end + 4, static_cast<size_t>(answer.length));
  int64_t left = answer.length - static_cast<int64_t>(first.size());
  if (!first.empty()) MUSTER_RETURN_IF_ERROR(on_data(first));
  while (left > 0) {
    MUSTER_ASSIGN_OR_RETURN(const size_t size,
                            socket.Read(piece.data(), std::min(kPiece, static_cast<size_t>(left))));
    if (size == 0) return absl::UnavailableError("it hung up in the middle");
    MUSTER_RETURN_IF_ERROR(on_data({piece.data(), size}));
    left -= static_cast<int64_t>(size);
  }
  return absl::OkStatus();
}

}  // namespace muster::worker
