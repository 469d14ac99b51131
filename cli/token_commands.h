#pragma once

#include <string>

#include "absl/time/time.h"

#include "cli/commands.h"
#include "muster/v1/access_service.pb.h"

// `muster token ...` and `muster node-token create`; see commands.h.
namespace muster::cli {

struct CreateTokenOptions {
  // "view", "submit", "admin" or "join".
  std::string role;
  // The user; of a join token the node, or empty.
  std::string subject;
  std::string description;
  // "720h"; empty: never, and for a join token an hour.
  std::string expires_in;
  bool json = false;
};
// Prints the secret, and nothing else, on `out`: it is shown this once.
int CreateToken(const CreateTokenOptions& options, const Context& context);

int ListTokens(bool json, const Context& context);

// "tokens/1a2b3c4d5e6f" or "1a2b3c4d5e6f".
int RevokeToken(const std::string& token, bool json, const Context& context);

}  // namespace muster::cli
