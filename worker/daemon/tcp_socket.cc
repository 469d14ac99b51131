#include "worker/daemon/tcp_socket.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include "common/base/status_macros.h"

namespace muster::worker {
namespace {

using AddressList = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

absl::StatusOr<AddressList> Look(const std::string& host, int port, int type, int flags) {
  addrinfo hints{};
  hints.ai_socktype = type;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), absl::StrCat(port).c_str(), &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(absl::StrCat("cannot resolve ", host, ": ", gai_strerror(error)));
  }
  return AddressList(found, freeaddrinfo);
}

absl::StatusOr<std::pair<std::string, int>> NameOf(int fd) {
  sockaddr_storage storage{};
  socklen_t size = sizeof(storage);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&storage), &size) != 0) {
    return base::ErrnoStatus(errno, "getsockname", "");
  }
  char text[INET6_ADDRSTRLEN] = {};
  if (storage.ss_family == AF_INET6) {
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&storage);
    inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof(text));
    return std::make_pair(std::string(text), static_cast<int>(ntohs(v6->sin6_port)));
  }
  const auto* v4 = reinterpret_cast<const sockaddr_in*>(&storage);
  inet_ntop(AF_INET, &v4->sin_addr, text, sizeof(text));
  return std::make_pair(std::string(text), static_cast<int>(ntohs(v4->sin_port)));
}

}  // namespace

absl::StatusOr<ListeningSocket> ListenOn(const std::string& ip, int port) {
  MUSTER_ASSIGN_OR_RETURN(const AddressList address,
                          Look(ip, port, SOCK_STREAM, AI_NUMERICHOST | AI_PASSIVE));
  ListeningSocket socket;
  socket.fd = UniqueFd(::socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int one = 1;
  if (!socket.fd.valid() ||
      setsockopt(socket.fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
      bind(socket.fd.get(), address->ai_addr, address->ai_addrlen) != 0 ||
      listen(socket.fd.get(), SOMAXCONN) != 0) {
    return base::ErrnoStatus(errno, "listen on", JoinAddress(ip, port));
  }
  MUSTER_ASSIGN_OR_RETURN(const auto name, NameOf(socket.fd.get()));
  socket.address = JoinAddress(name.first, name.second);
  return socket;
}

absl::StatusOr<UniqueFd> StartConnect(const std::string& source_ip, const std::string& ip,
                                      int port) {
  MUSTER_ASSIGN_OR_RETURN(const AddressList source,
                          Look(source_ip, 0, SOCK_STREAM, AI_NUMERICHOST));
  MUSTER_ASSIGN_OR_RETURN(const AddressList target, Look(ip, port, SOCK_STREAM, AI_NUMERICHOST));
  UniqueFd fd(socket(target->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid() || bind(fd.get(), source->ai_addr, source->ai_addrlen) != 0) {
    return base::ErrnoStatus(errno, "use the address", source_ip);
  }
  if (connect(fd.get(), target->ai_addr, target->ai_addrlen) != 0 && errno != EINPROGRESS) {
    return base::ErrnoStatus(errno, "connect to", JoinAddress(ip, port));
  }
  return fd;
}

absl::StatusOr<std::pair<std::string, int>> SplitAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("not a HOST:PORT: '", address, "'"));
  }
  std::string host = address.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  return std::make_pair(host, port);
}

std::string JoinAddress(const std::string& ip, int port) {
  return ip.find(':') == std::string::npos ? absl::StrCat(ip, ":", port)
                                           : absl::StrCat("[", ip, "]:", port);
}

absl::StatusOr<std::string> LocalAddressTowards(const std::string& address) {
  MUSTER_ASSIGN_OR_RETURN(const auto host_and_port, SplitAddress(address));
  MUSTER_ASSIGN_OR_RETURN(const AddressList found,
                          Look(host_and_port.first, host_and_port.second, SOCK_DGRAM, 0));
  // Connecting a datagram socket sends nothing: it only picks the route and so the local address.
  UniqueFd fd(socket(found->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid() || connect(fd.get(), found->ai_addr, found->ai_addrlen) != 0) {
    return base::ErrnoStatus(errno, "find a route to", address);
  }
  MUSTER_ASSIGN_OR_RETURN(auto name, NameOf(fd.get()));
  return std::move(name.first);
}

}  // namespace muster::worker
