#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "absl/time/time.h"

#include "cli/coordinator_client.h"
#include "cli/job_view.h"
#include "common/base/clock.h"

// The commands of `muster`. Each returns the program's exit code (common/base/exit_codes.h) and
// prints errors as one "muster: ..." line on `err`.
namespace muster::cli {

struct Context {
  CoordinatorClient& client;
  const base::Clock& clock;
  std::ostream& out;
  std::ostream& err;
  // `out` is a terminal: the live view is drawn over itself, and colours are on.
  bool terminal = false;
  int width = 80;

  ViewOptions view() const { return {terminal, width}; }
};

struct SubmitOptions {
  std::string config;
  // "field.path=value"
  std::vector<std::string> overrides;
  // Empty: made by the coordinator from the config's name.
  std::string job_id;
  std::vector<std::string> labels;  // "name=value"
  int nodes = 0;                    // 0: as the config says
  bool follow = false;
  bool dry_run = false;
  bool json = false;
  // How long a coordinator that is away is waited for.
  absl::Duration patience = absl::Seconds(15);
};
int Submit(const SubmitOptions& options, const Context& context);

struct ListOptions {
  std::vector<std::string> states;  // "RUNNING", ...
  int limit = 50;
  bool json = false;
};
int List(const ListOptions& options, const Context& context);

int Describe(const std::string& job, bool json, const Context& context);

// Until the job has ended; survives a restart of the coordinator. Ctrl-C stops watching, not the
// job.
int Watch(const std::string& job, bool json, const Context& context);

struct LogsOptions {
  std::string job;
  int rank = 0;
  bool follow = false;
  bool standard_output = false;
  int tail_lines = 0;
  int64_t generation = 0;
  bool json = false;
};
int Logs(const LogsOptions& options, const Context& context);

int Cancel(const std::string& job, const std::string& reason, bool json, const Context& context);

struct EventsOptions {
  // At most one of them; neither: all events.
  std::string job;
  std::string node;
  bool json = false;
};
// What happened, oldest first.
int Events(const EventsOptions& options, const Context& context);

// The effective config: bases and overrides merged, defaults filled, checked.
int RenderConfig(const std::string& config, const std::vector<std::string>& overrides, bool json,
                 const Context& context);

}  // namespace muster::cli
