// Dials and answers over real sockets on loopback.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"

#include "tests/support/process.h"
#include "worker/daemon/peer_dialler.h"
#include "worker/daemon/probe_messages.h"
#include "worker/daemon/probe_server.h"
#include "worker/daemon/tcp_socket.h"

namespace muster::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr char kNonce[] = "0123456789abcdef0123456789abcdef";

// What comes back over a connection until a line is there or the other side has ended it.
std::string Exchange(const UniqueFd& fd, const std::string& text) {
  pollfd polled = {fd.get(), POLLOUT, 0};
  poll(&polled, 1, 20'000);
  EXPECT_EQ(send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(text.size()));
  std::string answer;
  while (answer.find('\n') == std::string::npos) {
    polled.events = POLLIN;
    if (poll(&polled, 1, 20'000) <= 0) return answer + "(silence)";
    char buffer[4096];
    const ssize_t size = recv(fd.get(), buffer, sizeof(buffer), 0);
    if (size <= 0) return answer + "(end)";
    answer.append(buffer, static_cast<size_t>(size));
  }
  return answer;
}

UniqueFd Connect(const std::string& address) {
  const auto host_and_port = SplitAddress(address);
  absl::StatusOr<UniqueFd> fd =
      StartConnect("127.0.0.1", host_and_port->first, host_and_port->second);
  EXPECT_TRUE(fd.ok()) << fd.status();
  return *std::move(fd);
}

class NetworkProbeTest : public ::testing::Test {
 protected:
  static PeerDialler::Options Quick() {
    PeerDialler::Options options;
    options.deadline = absl::Milliseconds(400);
    options.pause = absl::Milliseconds(20);
    return options;
  }
  PeerDialler::Request RequestFor(const std::vector<std::pair<std::string, std::string>>& peers) {
    PeerDialler::Request request;
    request.job = "jobs/a";
    request.generation = 3;
    request.from = {"lo", "127.0.0.1", true};
    for (const auto& [node, address] : peers) {
      v1::Peer& peer = request.peers.emplace_back();
      peer.set_node(node);
      peer.set_probe_address(address);
    }
    return request;
  }
  absl::Status Dial(PeerDialler::Request request,
                    PeerDialler::Options options = PeerDialler::Options()) {
    PeerDialler dialler("a", clock_, options);
    absl::Status result;
    absl::Notification done;
    dialler.Dial(std::move(request), [&](const absl::Status& dialled) {
      result = dialled;
      done.Notify();
    });
    done.WaitForNotification();
    return result;
  }
  std::string AskLine(const std::string& interface = "") {
    return ToLine(ProbeRequest{"jobs/a", 3, kNonce, interface});
  }

  base::SystemClock clock_;
  ProbeServer server_{"b", clock_};
};

TEST_F(NetworkProbeTest, ReachesManyNodesAtOnce) {
  std::vector<std::unique_ptr<ProbeServer>> servers;
  std::vector<std::pair<std::string, std::string>> peers;
  for (int i = 0; i < 24; ++i) {
    servers.push_back(std::make_unique<ProbeServer>(absl::StrCat("n", i), clock_));
    const absl::StatusOr<std::string> address = servers.back()->Listen("127.0.0.1");
    ASSERT_TRUE(address.ok()) << address.status();
    peers.emplace_back(absl::StrCat("n", i), *address);
  }
  EXPECT_TRUE(Dial(RequestFor(peers)).ok());
  PeerDialler::Request named = RequestFor(peers);
  named.interface = "lo";
  EXPECT_TRUE(Dial(named).ok());
}

TEST_F(NetworkProbeTest, SaysWhoCannotReachWhomAndWhatToDo) {
  // Nobody listens there any more.
  const std::string gone = ListenOn("127.0.0.1")->address;
  const absl::Status refused = Dial(RequestFor({{"b", gone}}), Quick());
  EXPECT_TRUE(absl::IsUnavailable(refused));
  EXPECT_EQ(refused.message(),
            absl::StrCat("nodes/a (lo 127.0.0.1) cannot reach nodes/b at ", gone,
                         ": connection refused; open TCP between the nodes or pass "
                         "--advertise-address / distributed.interface"));
  // As behind a firewall that drops: a connection, and nothing on it.
  const ListeningSocket silent = *ListenOn("127.0.0.1");
  EXPECT_THAT(Dial(RequestFor({{"b", silent.address}}), Quick()).message(),
              HasSubstr(silent.address + ": connection timed out; open TCP"));
}

TEST_F(NetworkProbeTest, ANodeThatComesWithinTheDeadlineIsReached) {
  ListeningSocket early = *ListenOn("127.0.0.1");
  const std::string address = early.address;
  early.fd.Reset();
  PeerDialler dialler("a", clock_);
  dialler.Dial(RequestFor({{"b", address}}), [](const absl::Status&) {});
  // Whether the dial has been refused by now or not: it is heard in the end.
  const ListeningSocket late = *ListenOn("127.0.0.1", SplitAddress(address)->second);
  pollfd polled = {late.fd.get(), POLLIN, 0};
  EXPECT_EQ(poll(&polled, 1, 4'000), 1);
}

TEST_F(NetworkProbeTest, AnotherNodeAtTheAddressIsNamed) {
  const std::string address = *server_.Listen("127.0.0.1");
  EXPECT_THAT(Dial(RequestFor({{"c", address}})).message(),
              HasSubstr("cannot reach nodes/c at " + address + ": nodes/b answers there"));
}

TEST_F(NetworkProbeTest, AnInterfaceThatThePeerLacksIsNamed) {
  PeerDialler::Request request = RequestFor({{"b", *server_.Listen("127.0.0.1")}});
  request.interface = "eth77";
  EXPECT_THAT(Dial(request).message(), HasSubstr("node b has no interface 'eth77'"));
}

TEST_F(NetworkProbeTest, AnAddressThatIsNotOursIsNamed) {
  PeerDialler::Request request = RequestFor({{"b", *server_.Listen("127.0.0.1")}});
  request.from = {"eth9", "192.0.2.1", false};
  EXPECT_THAT(std::string(Dial(request, Quick()).message()),
              StartsWith("nodes/a (eth9 192.0.2.1) cannot reach nodes/b"));
}

TEST_F(NetworkProbeTest, OpensPortsAllOverTheEphemeralRangeWhileTheDiallerIsThere) {
  UniqueFd dialler = Connect(*server_.Listen("127.0.0.1"));
  const std::string line = Exchange(dialler, AskLine());
  const absl::StatusOr<ProbeAnswer> answer = ParseProbeAnswer(line.substr(0, line.size() - 1));
  ASSERT_TRUE(answer.ok()) << line;
  EXPECT_EQ(answer->node, "b");
  EXPECT_EQ(answer->job, "jobs/a");
  EXPECT_EQ(answer->generation, 3);
  EXPECT_EQ(answer->nonce, kNonce);
  ASSERT_THAT(answer->ports, SizeIs(4));
  const PortRange range = EphemeralPorts();
  for (size_t i = 0; i < 4; ++i) {
    const int part = (range.last - range.first + 1) / 4;
    EXPECT_NEAR(answer->ports[i], range.first + part * static_cast<int>(i) + part / 2,
                part / 2 + 4);
  }
  const std::string sampled = absl::StrCat("127.0.0.1:", answer->ports[2]);
  EXPECT_EQ(Exchange(Connect(sampled), std::string(kNonce) + "\n"), std::string(kNonce) + "\n");
  EXPECT_EQ(Exchange(Connect(sampled), "not a nonce\n"), "(end)");
  dialler.Reset();
  EXPECT_TRUE(testing::WaitUntil([&] { return ListenOn("127.0.0.1", answer->ports[2]).ok(); },
                                 absl::Seconds(20)));
}

TEST_F(NetworkProbeTest, ServesNothingElse) {
  const std::string address = *server_.Listen("127.0.0.1");
  for (const std::string& text :
       {std::string("GET / HTTP/1.1\r\n\r\n"), std::string("muster-probe-1 jobs/a 3 short *\n"),
        std::string("muster-probe-1 jobs/a 0 ") + kNonce + " *\n",
        std::string("muster-probe-1 jobs/a 3 ") + kNonce + "\n", std::string(2000, 'x'),
        std::string("\n")}) {
    EXPECT_THAT(Exchange(Connect(address), text), ::testing::EndsWith("(end)")) << text;
  }
  // One line it is, and once it is answered the dialler may only hang up.
  EXPECT_EQ(Exchange(Connect(address), AskLine() + AskLine()), "(end)");
  const UniqueFd answered = Connect(address);
  EXPECT_THAT(Exchange(answered, AskLine()), HasSubstr("muster-probe-1-ok b jobs/a 3 "));
  EXPECT_EQ(Exchange(answered, AskLine()), "(end)");
  EXPECT_TRUE(Dial(RequestFor({{"b", address}})).ok());
}

TEST_F(NetworkProbeTest, ThoseThatStayHoldNobodyUpForLong) {
  const std::string address = *server_.Listen("127.0.0.1");
  std::vector<UniqueFd> idle;
  for (int i = 0; i < 70; ++i) idle.push_back(Connect(address));
  EXPECT_THAT(Dial(RequestFor({{"b", address}}), Quick()).message(), HasSubstr("timed out"));
  idle.erase(idle.begin(), idle.begin() + 20);
  EXPECT_TRUE(Dial(RequestFor({{"b", address}})).ok());
}

TEST_F(NetworkProbeTest, ListensWhereItIsToldTo) {
  const std::string first = *server_.Listen("127.0.0.1");
  EXPECT_EQ(*server_.Listen("127.0.0.1"), first);
  const std::string second = *server_.Listen("127.0.0.2");
  EXPECT_THAT(second, StartsWith("127.0.0.2:"));
  EXPECT_TRUE(Dial(RequestFor({{"b", second}})).ok());
  EXPECT_FALSE(server_.Listen("192.0.2.1").ok());
}

TEST_F(NetworkProbeTest, ADiallerThatEndsGivesUp) {
  const ListeningSocket silent = *ListenOn("127.0.0.1");
  absl::Status result;
  {
    PeerDialler dialler("a", clock_);
    dialler.Dial(RequestFor({{"b", silent.address}}),
                 [&](const absl::Status& dialled) { result = dialled; });
  }
  EXPECT_TRUE(absl::IsCancelled(result)) << result;
}

TEST(ProbeMessagesTest, RoundTrip) {
  const std::string request = ToLine(ProbeRequest{"jobs/a", 3, kNonce, "eth0"});
  const auto read = ParseProbeRequest(request.substr(0, request.size() - 1));
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->interface, "eth0");
  ProbeAnswer answer{"b", "jobs/a", 3, kNonce, "fd00::4", {}, "no interface 'x',\nat all"};
  std::string line = ToLine(answer);
  EXPECT_EQ(ParseProbeAnswer(line.substr(0, line.size() - 1))->error, "no interface 'x', at all");
  answer.error = std::string(2000, 'e');
  line = ToLine(answer);
  EXPECT_EQ(line.size(), kMostProbeBytes);
  EXPECT_TRUE(ParseProbeAnswer(line.substr(0, line.size() - 1)).ok());
  EXPECT_FALSE(
      ParseProbeAnswer("muster-probe-1-ok b jobs/a 3 " + std::string(kNonce) + " 10.0.0.4 99999")
          .ok());
  EXPECT_FALSE(
      ParseProbeAnswer("muster-probe-1-error b jobs/a 3 " + std::string(kNonce) + " \x1b[31m")
          .ok());
}

}  // namespace
}  // namespace muster::worker
