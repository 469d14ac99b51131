#include "worker/daemon/checkpoint_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

#include "common/base/files.h"
#include "common/security/digest.h"
#include "common/security/self_signed.h"
#include "tests/support/process.h"
#include "tests/support/shared_data.h"
#include "tests/unit/worker/daemon/checkpoint_files.h"
#include "worker/daemon/https_get.h"
#include "worker/daemon/tcp_socket.h"

namespace muster::worker {
namespace {

using ::testing::HasSubstr;

constexpr char kJob[] = "/checkpoints/a/0123456789abcdef/";

struct Reply {
  absl::Status status;
  HttpsAnswer answer;
  std::string body;
};

class CheckpointServerTest : public ::testing::Test {
 protected:
  CheckpointServerTest() {
    job_.set_job("jobs/a");
    job_.set_job_uid("0123456789abcdef");
    output_ = state_->OutputFolder(job_);
    bytes_ = PthBytes(1'000'000);
    checkpoint_ = WriteCheckpoint(output_, 120, bytes_);
    Serve({});
  }

  void Serve(const CheckpointServer::Options& options) {
    server_.emplace("b", *state_, clock_, options);
    const auto described = server_->Listen("127.0.0.1");
    ASSERT_TRUE(described.ok()) << described.status();
    described_ = *described;
  }

  SocketLimit Limit() const {
    SocketLimit limit;
    limit.clock = &clock_;
    limit.silence = absl::Seconds(20);
    return limit;
  }

  Reply Get(const std::string& path, int64_t from = 0) const {
    Reply reply;
    reply.status = HttpsGet(
        described_, path, from, Limit(),
        [&](const HttpsAnswer& answer) {
          reply.answer = answer;
          return absl::OkStatus();
        },
        [&](absl::string_view data) {
          absl::StrAppend(&reply.body, data);
          return absl::OkStatus();
        });
    return reply;
  }

  int StatusOf(const std::string& path) const {
    const Reply reply = Get(path);
    EXPECT_TRUE(reply.status.ok()) << path << ": " << reply.status;
    return reply.answer.status;
  }

  absl::StatusOr<TlsSocket> Connect() const {
    const auto certificate = security::ParseCertificate(described_.certificate());
    const auto address = SplitAddress(described_.address());
    return TlsSocket::Connect(address->first, address->second, certificate->get(), Limit());
  }

  // The first line of the answer to this text.
  std::string Say(const std::string& text) const {
    absl::StatusOr<TlsSocket> socket = Connect();
    if (!socket.ok()) return socket.status().ToString();
    EXPECT_TRUE(socket->Write(text).ok());
    std::string all;
    char buffer[1024];
    while (true) {
      const absl::StatusOr<size_t> size = socket->Read(buffer, sizeof(buffer));
      if (!size.ok() || *size == 0) break;
      all.append(buffer, *size);
    }
    return all.substr(0, all.find("\r\n"));
  }

  testing::TemporaryFolder folder_;
  base::SystemClock clock_;
  std::optional<StateFolder> state_{*StateFolder::Open(folder_.path() / "state")};
  v1::Allocation job_;
  std::filesystem::path output_;
  std::string bytes_;
  v1::Checkpoint checkpoint_;
  std::optional<CheckpointServer> server_;
  v1::CheckpointServer described_;
};

TEST_F(CheckpointServerTest, HandsOutAFileWithDescriptionAndDigest) {
  const Reply file = Get(absl::StrCat(kJob, "step_120.pth"));
  EXPECT_TRUE(file.status.ok()) << file.status;
  EXPECT_EQ(file.answer.status, 200);
  EXPECT_TRUE(file.body == bytes_);

  const Reply json = Get(absl::StrCat(kJob, "step_120.pth.json"));
  v1::Checkpoint described;
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(json.body, &described).ok());
  EXPECT_EQ(described.SerializeAsString(), checkpoint_.SerializeAsString());

  const Reply digest = Get(absl::StrCat(kJob, "step_120.pth.sha256"));
  EXPECT_EQ(digest.body, absl::BytesToHexString(security::Sha256(bytes_)));
}

TEST_F(CheckpointServerTest, SendsTheRestOfAFile) {
  const std::string path = absl::StrCat(kJob, "step_120.pth");
  const Reply rest = Get(path, 700'000);
  EXPECT_EQ(rest.answer.status, 206);
  EXPECT_TRUE(rest.body == bytes_.substr(700'000));
  EXPECT_EQ(Get(path, static_cast<int64_t>(bytes_.size())).answer.status, 416);
  const std::string bearer = absl::StrCat("\r\nAuthorization: Bearer ", described_.token());
  for (const char* range : {"bytes=x-", "bytes=1-2", "bytes=-5", "lines=1-", "bytes=--1-"}) {
    EXPECT_EQ(
        Say(absl::StrCat("GET ", path, " HTTP/1.1", bearer, "\r\nRange: ", range, "\r\n\r\n")),
        "HTTP/1.1 416 Range Not Satisfiable")
        << range;
  }
}

TEST_F(CheckpointServerTest, OnlyTheTokenOpens) {
  const std::string path = absl::StrCat("GET ", kJob, "step_120.pth HTTP/1.1\r\n");
  EXPECT_EQ(Say(path + "\r\n"), "HTTP/1.1 401 Unauthorized");
  EXPECT_EQ(Say(path + "Authorization: Bearer x\r\n\r\n"), "HTTP/1.1 401 Unauthorized");
  EXPECT_EQ(Say(absl::StrCat(path, "Authorization: ", described_.token(), "\r\n\r\n")),
            "HTTP/1.1 401 Unauthorized");
  // Not even what is there can be found out.
  EXPECT_EQ(Say("GET /nothing HTTP/1.1\r\n\r\n"), "HTTP/1.1 401 Unauthorized");
  EXPECT_GE(described_.token().size(), 64u) << "256 bits";

  const v1::CheckpointServer right = described_;
  described_.set_token("muster-0");
  EXPECT_EQ(StatusOf(absl::StrCat(kJob, "step_120.pth.json")), 401);
  Serve({});
  EXPECT_NE(described_.token(), right.token()) << "a restarted daemon has another";
  EXPECT_NE(described_.certificate(), right.certificate());
}

TEST_F(CheckpointServerTest, NothingElseIsServed) {
  base::WriteFileAtomically(output_ / "config.textproto", "secret").IgnoreError();
  std::filesystem::create_symlink("step_120.pth", output_ / "latest.pth");
  for (const char* path :
       {"step_60.pth", "config.textproto", "latest.pth", "metrics.jsonl", "", ".", "..",
        "../output/step_120.pth", "..%2foutput%2fstep_120.pth", "step_120.pth.json.json",
        "step_120.pth.sha256.json", "step_120.pth/", "step_120.pth?x=1", "/step_120.pth"}) {
    EXPECT_EQ(StatusOf(absl::StrCat(kJob, path)), 404) << path;
  }
  for (const char* path :
       {"/", "/checkpoints/", "/checkpoints/b/0123456789abcdef/step_120.pth",
        "/checkpoints/a/0000000000000000/step_120.pth", "/checkpoints/../../../../etc/passwd",
        "/checkpoints/a/../a-01234567/step_120.pth", "/checkpoints//0123456789abcdef/x.pth",
        "checkpoints/a/0123456789abcdef/step_120.pth", "/node_uid", "/metrics"}) {
    EXPECT_EQ(StatusOf(path), 404) << path;
  }
  const std::string bearer = absl::StrCat("\r\nAuthorization: Bearer ", described_.token());
  EXPECT_EQ(Say(absl::StrCat("POST ", kJob, "step_120.pth HTTP/1.1", bearer, "\r\n\r\n")),
            "HTTP/1.1 405 Method Not Allowed");
  EXPECT_EQ(Say(absl::StrCat("GET /a b HTTP/1.1", bearer, "\r\n\r\n")), "HTTP/1.1 400 Bad Request");
}

TEST_F(CheckpointServerTest, LinksLeadNowhere) {
  // A description that fits a file elsewhere, and a folder elsewhere.
  const std::filesystem::path elsewhere = folder_.path() / "elsewhere";
  WriteCheckpoint(elsewhere, 7, bytes_);
  std::filesystem::copy(elsewhere / "step_7.pth.json", output_ / "step_7.pth.json");
  std::filesystem::create_symlink(elsewhere / "step_7.pth", output_ / "step_7.pth");
  EXPECT_EQ(StatusOf(absl::StrCat(kJob, "step_7.pth")), 404);
  v1::Allocation linked = job_;
  linked.set_job("jobs/linked");
  const std::filesystem::path link = state_->OutputFolder(linked);
  std::filesystem::create_directories(link.parent_path());
  std::filesystem::create_symlink(elsewhere, link);
  EXPECT_EQ(StatusOf("/checkpoints/linked/0123456789abcdef/step_7.pth"), 404);
}

TEST_F(CheckpointServerTest, DamagedCheckpointsAreNotServed) {
  base::WriteFileAtomically(output_ / "step_120.pth", bytes_.substr(0, 1000)).IgnoreError();
  EXPECT_EQ(StatusOf(absl::StrCat(kJob, "step_120.pth")), 404);
}

TEST_F(CheckpointServerTest, AFullHouseLeavesTheRestWaiting) {
  CheckpointServer::Options options;
  options.most_connections = 2;
  options.request_timeout = absl::Seconds(60);
  Serve(options);
  std::optional<TlsSocket> first(*Connect());
  const absl::StatusOr<TlsSocket> second = Connect();
  ASSERT_TRUE(second.ok()) << second.status();
  std::atomic<bool> served = false;
  std::thread third([&] {
    EXPECT_EQ(StatusOf(absl::StrCat(kJob, "step_120.pth.json")), 200);
    served = true;
  });
  EXPECT_FALSE(testing::WaitUntil([&] { return served.load(); }, absl::Milliseconds(200)));
  first.reset();
  third.join();
  EXPECT_TRUE(served);
}

TEST_F(CheckpointServerTest, StrangersAreHungUpOn) {
  CheckpointServer::Options options;
  options.most_connections = 1;
  options.request_timeout = absl::Milliseconds(100);
  Serve(options);
  const auto address = SplitAddress(described_.address());
  // One says nothing, one speaks no TLS, one never ends its request.
  const auto silent = StartConnect("127.0.0.1", address->first, address->second);
  ASSERT_TRUE(silent.ok());
  EXPECT_EQ(StatusOf(absl::StrCat(kJob, "step_120.pth.json")), 200);
  absl::StatusOr<TlsSocket> endless = Connect();
  ASSERT_TRUE(endless.ok()) << endless.status();
  ASSERT_TRUE(endless->Write("GET / HTTP/1.1\r\nX: ").ok());
  EXPECT_EQ(StatusOf(absl::StrCat(kJob, "step_120.pth.json")), 200);
}

TEST_F(CheckpointServerTest, EndsInTheMiddleOfAFile) {
  bytes_ = PthBytes(64'000'000);
  WriteCheckpoint(output_, 200, bytes_);
  int64_t got = 0;
  const absl::Status status = HttpsGet(
      described_, absl::StrCat(kJob, "step_200.pth"), 0, Limit(),
      [](const HttpsAnswer&) { return absl::OkStatus(); },
      [&](absl::string_view data) {
        got += static_cast<int64_t>(data.size());
        server_.reset();
        return absl::OkStatus();
      });
  EXPECT_FALSE(status.ok());
  EXPECT_LT(got, static_cast<int64_t>(bytes_.size()));
}

TEST_F(CheckpointServerTest, FollowsTheNodeToAnotherAddress) {
  const auto same = server_->Listen("127.0.0.1");
  EXPECT_EQ(same->SerializeAsString(), described_.SerializeAsString());
  const auto moved = server_->Listen("127.0.0.2");
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_THAT(moved->address(), HasSubstr("127.0.0.2:"));
  EXPECT_EQ(moved->token(), described_.token());
  described_ = *moved;
  EXPECT_EQ(StatusOf(absl::StrCat(kJob, "step_120.pth.json")), 200);
  EXPECT_FALSE(server_->Listen("192.0.2.1").ok()) << "an address that is not ours";
  EXPECT_EQ(StatusOf(absl::StrCat(kJob, "step_120.pth.json")), 200) << "it listens on";
}

TEST_F(CheckpointServerTest, SeveralAreServedAtOnce) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      const Reply reply = Get(absl::StrCat(kJob, "step_120.pth"));
      EXPECT_TRUE(reply.status.ok()) << reply.status;
      EXPECT_TRUE(reply.body == bytes_);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace muster::worker
