#include "common/security/sha256_stream.h"

#include <openssl/sha.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/strings/escaping.h"

#include "common/base/files.h"

namespace muster::security {
namespace {

constexpr size_t kPiece = size_t{4} << 20;

}  // namespace

Sha256Stream::Sha256Stream() : context_(EVP_MD_CTX_new()) {
  EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
}

void Sha256Stream::Update(absl::string_view data) {
  EVP_DigestUpdate(context_.get(), data.data(), data.size());
}

std::string Sha256Stream::Finish() {
  unsigned char digest[SHA256_DIGEST_LENGTH] = {};
  EVP_DigestFinal_ex(context_.get(), digest, nullptr);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest), sizeof(digest)));
}

absl::StatusOr<std::string> Sha256OfFile(int fd, const std::function<bool()>& give_up) {
  Sha256Stream stream;
  std::vector<char> piece(kPiece);
  for (off_t offset = 0;;) {
    if (give_up()) return absl::CancelledError("given up");
    const ssize_t size = pread(fd, piece.data(), piece.size(), offset);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return base::ErrnoStatus(errno, "read", "a file");
    if (size == 0) return stream.Finish();
    stream.Update({piece.data(), static_cast<size_t>(size)});
    offset += size;
  }
}

}  // namespace muster::security
