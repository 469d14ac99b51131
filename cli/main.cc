#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/coordinator_client.h"
#include "common/base/clock.h"
#include "common/base/exit_codes.h"
#include <CLI/CLI.hpp>

namespace muster::cli {
namespace {

constexpr char kDefaultCoordinator[] = "127.0.0.1:7070";

constexpr char kBashCompletion[] = R"bash(_muster() {
  local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]}
  if [ "$COMP_CWORD" = 1 ]; then
    COMPREPLY=($(compgen -W "submit list describe watch logs cancel nodes config completion --help --coordinator" -- "$word"))
    return
  fi
  case "$command" in
    describe | watch | logs | cancel)
      COMPREPLY=($(compgen -W "$(muster list 2>/dev/null | awk 'NR > 1 {print $1}')" -- "$word")) ;
;
    *) COMPREPLY=($(compgen -f -- "$word")) ;
    ;
    esac
    }
complete -o filenames -F _muster muster
complete -o filenames -f submit-job
)bash";

void AddSubmitOptions(CLI::App* app, SubmitOptions* options) {
  app->add_option("config", options->config, "Config file (.textproto or .json)")->required();
  app->add_option("--set", options->overrides,
                  "FIELD.PATH=VALUE, on top of the config; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  app->add_option("--name", options->job_id,
                  "Job id: lower-case letters, digits, '-'; default: made from the config's name");
  app->add_option("--label", options->labels, "NAME=VALUE; may be repeated")
      ->take_all()
      ->allow_extra_args(false);
  app->add_option("--nodes", options->nodes, "Nodes, in place of resources.nodes")
      ->check(CLI::PositiveNumber);
  app->add_flag("--follow,-f", options->follow,
                "Watch the job; ends non-zero when it fails or is cancelled");
  app->add_flag("--dry-run", options->dry_run,
                "Only check: config, and whether the nodes could run it");
  app->add_flag("--json", options->json, "Print the job as JSON");
}

int Main(int argc, char** argv) {
  const bool submit_job = std::filesystem::path(argv[0]).filename() == "submit-job";
  CLI::App app("Submits training jobs to a Muster coordinator and looks after them.",
               submit_job ? "submit-job" : "muster");
  app.set_version_flag("--version", "muster 0.1.0");
  std::string coordinator = kDefaultCoordinator;
  app.add_option("--coordinator", coordinator, "Address of the coordinator, IP:PORT")
      ->envname("MUSTER_COORDINATOR")
      ->capture_default_str();
  std::function<int(const Context&)> run;

  SubmitOptions submit;
  ListOptions list;
  LogsOptions logs;
  std::string job;
  std::string reason;
  std::string config;
  std::vector<std::string> overrides;
  bool json = false;

  if (submit_job) {
    app.description("Submits a training job (muster submit).");
    app.footer(
        "Example:\n  submit-job configs/quick/bccd.textproto --set schedule.epochs=5 --follow");
    AddSubmitOptions(&app, &submit);
    run = [&](const Context& context) { return Submit(submit, context); };
  } else {
    app.require_subcommand(1);
    app.fallthrough();
    app.footer(
        "Examples:\n"
        "  muster submit configs/quick/bccd.textproto --follow\n"
        "  muster list --state RUNNING\n"
        "  muster logs jobs/bccd-1a2b3c --rank 1 -f\n"
        "Exit codes: 0 done, 2 usage, 3 bad config, 4 the job failed, 5 no coordinator.");
    const auto add = [&](const std::string& name, const std::string& what,
                         const std::string& example, std::function<int(const Context&)> command) {
      CLI::App* sub = app.add_subcommand(name, what);
      sub->footer("Example:\n  " + example);
      sub->callback([&run, command = std::move(command)] { run = command; });
      return sub;
    };
    AddSubmitOptions(
        add("submit", "Submit a job and print its name",
            "muster submit configs/quick/bccd.textproto --set schedule.epochs=5 --follow",
            [&](const Context& context) { return Submit(submit, context); }),
        &submit);
    CLI::App* sub =
        add("list", "List jobs, newest first", "muster list --state RUNNING --state QUEUED",
            [&](const Context& context) { return List(list, context); });
    sub->add_option("--state", list.states, "Only jobs in this state; may be repeated")
        ->take_all()
        ->allow_extra_args(false);
    sub->add_option("--limit", list.limit, "At most so many")->capture_default_str();
    sub->add_flag("--json", list.json, "One JSON object a line");

    sub = add("describe", "All about one job: ranks, results, first failure, events",
              "muster describe bccd-1a2b3c",
              [&](const Context& context) { return Describe(job, json, context); });
    sub->add_option("job", job, "Job name")->required();
    sub->add_flag("--json", json, "Print the job as JSON");

    sub = add("watch", "Live progress until the job has ended", "muster watch bccd-1a2b3c",
              [&](const Context& context) { return Watch(job, json, context); });
    sub->add_option("job", job, "Job name")->required();
    sub->add_flag("--json", json, "One JSON object a change");

    sub = add("logs", "A rank's log", "muster logs bccd-1a2b3c --rank 1 --tail 100 -f",
              [&](const Context& context) { return Logs(logs, context); });
    sub->add_option("job", logs.job, "Job name")->required();
    sub->add_option("--rank", logs.rank, "Rank")->capture_default_str();
    sub->add_flag("-f,--follow", logs.follow, "Go on as the log grows");
    sub->add_option("--tail", logs.tail_lines, "Only the last so many lines");
    sub->add_option("--generation", logs.generation, "An earlier generation; default: the newest");
    sub->add_flag("--stdout", logs.standard_output, "Standard output in place of standard error");
    sub->add_flag("--json", logs.json, "One JSON object a chunk");

    sub = add("cancel", "End a job and all of its processes",
              "muster cancel bccd-1a2b3c --reason 'wrong data'",
              [&](const Context& context) { return Cancel(job, reason, json, context); });
    sub->add_option("job", job, "Job name")->required();
    sub->add_option("--reason", reason, "Kept with the job");
    sub->add_flag("--json", json, "Print the job as JSON");

    sub = add("nodes", "List nodes", "muster nodes",
              [&](const Context& context) { return Nodes(json, context); });
    sub->add_flag("--json", json, "One JSON object a line");

    CLI::App* config_app = app.add_subcommand("config", "Work on configs");
    config_app->require_subcommand(1);
    sub = config_app->add_subcommand(
        "render", "Print the effective config: bases merged, defaults filled, checked");
    sub->footer(
        "Example:\n  muster config render configs/quick/bccd.textproto --set schedule.epochs=5");
    sub->add_option("config", config, "Config file")->required();
    sub->add_option("--set", overrides, "FIELD.PATH=VALUE; may be repeated")
        ->take_all()
        ->allow_extra_args(false);
    sub->add_flag("--json", json, "As JSON");
    sub->callback([&] {
      run = [&](const Context& context) { return RenderConfig(config, overrides, json, context); };
    });

    sub = app.add_subcommand("completion", "Print a completion script for bash");
    sub->footer("Example:\n  source <(muster completion)");
    sub->callback([&] {
      run = [](const Context& context) {
        context.out << kBashCompletion;
        return static_cast<int>(base::kExitCompleted);
      };
    });
  }

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? base::kExitCompleted : base::kExitUsage;
  }
  CoordinatorClient client(coordinator);
  const base::SystemClock clock;
  const bool terminal = isatty(STDOUT_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr;
  winsize window{};
  const bool sized = ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0;
  return run({client, clock, std::cout, std::cerr, terminal, sized ? window.ws_col : 80});
}

}  // namespace
}  // namespace muster::cli

int main(int argc, char** argv) { return muster::cli::Main(argc, argv); }
