#include "common/base/endpoint.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace muster::base {
namespace {

absl::Status CannotListen(const Endpoint& endpoint, absl::string_view reason) {
  return absl::UnavailableError(absl::StrCat("cannot listen on ", endpoint.ToString(), ": ", reason,
                                             "; choose another address or stop what uses it"));
}

}  // namespace

std::string Endpoint::ToString() const {
  if (absl::StrContains(host, ":")) return absl::StrCat("[", host, "]:", port);
  return absl::StrCat(host, ":", port);
}

bool Endpoint::IsLoopback() const {
  return host == "localhost" || host == "::1" || absl::StartsWith(host, "127.");
}

absl::StatusOr<Endpoint> ParseEndpoint(absl::string_view text) {
  const size_t colon = text.rfind(':');
  int port = 0;
  if (colon == absl::string_view::npos || !absl::SimpleAtoi(text.substr(colon + 1), &port) ||
      port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("bad address '", text, "': write host:port, for example 127.0.0.1:7070"));
  }
  absl::string_view host = text.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) {
    if (!absl::ConsumeSuffix(&host, "]")) {
      return absl::InvalidArgumentError(absl::StrCat("bad address '", text, "': no closing ]"));
    }
  } else if (absl::StrContains(host, ":")) {
    return absl::InvalidArgumentError(
        absl::StrCat("bad address '", text, "': write an IPv6 address in brackets, [::1]:7070"));
  }
  return Endpoint{host.empty() ? "0.0.0.0" : std::string(host), port};
}

std::string FirstBeyondLoopback(absl::string_view addresses) {
  for (const absl::string_view address : absl::StrSplit(addresses, ',')) {
    const absl::StatusOr<Endpoint> endpoint = ParseEndpoint(address);
    const bool here =
        absl::StartsWith(address, "unix:") || (endpoint.ok() && endpoint->IsLoopback());
    if (!here) return std::string(address);
  }
  return "";
}

absl::Status TryListen(const Endpoint& endpoint) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int code =
      getaddrinfo(endpoint.host.c_str(), std::to_string(endpoint.port).c_str(), &hints, &found);
  if (code != 0) return CannotListen(endpoint, gai_strerror(code));
  absl::Status status;
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int yes = 1;
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 1) != 0) {
    status = CannotListen(endpoint, std::strerror(errno));
  }
  if (fd >= 0) close(fd);
  freeaddrinfo(found);
  return status;
}

absl::Status ListenError(const Endpoint& endpoint) {
  const absl::Status status = TryListen(endpoint);
  return status.ok() ? CannotListen(endpoint, "it was taken a moment ago") : status;
}

}  // namespace muster::base
