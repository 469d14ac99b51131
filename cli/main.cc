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
#include "cli/credentials.h"
#include "cli/node_commands.h"
#include "cli/token_commands.h"
#include "common/base/clock.h"
#include "common/base/exit_codes.h"
#include <CLI/CLI.hpp>

namespace muster::cli {
namespace {

constexpr char kDefaultCoordinator[] = "127.0.0.1:7070";

// clang-format off
constexpr char kBashCompletion[] = R"bash(_muster() {
  local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]}
  if [ "$COMP_CWORD" = 1 ]; then
    COMPREPLY=($(compgen -W "submit list describe watch logs cancel nodes cordon uncordon drain events token node-token config completion --help --coordinator" -- "$word"))
    return
  fi
  case "$command" in
    describe | watch | logs | cancel)
      COMPREPLY=($(compgen -W "$(muster list 2>/dev/null | awk 'NR > 1 {print $1}')" -- "$word"))
      ;;
    cordon | uncordon | drain)
      COMPREPLY=($(compgen -W "$(muster nodes 2>/dev/null | awk 'NR > 1 {print $1}')" -- "$word"))
      ;;
    *)
      COMPREPLY=($(compgen -f -- "$word"))
      ;;
  esac
}
complete -o filenames -F _muster muster
complete -o filenames -f submit-job
)bash";
// clang-format on

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
  app.add_option("--coordinator", coordinator,
                 "Address of the coordinator, IP:PORT; several with commas: the first that answers")
      ->envname("MUSTER_COORDINATOR")
      ->capture_default_str();
  CredentialOptions credential_options;
  credential_options.token_file = DefaultTokenFile();
  app.add_option("--token", credential_options.token,
                 "Token for a coordinator that asks for one; better in MUSTER_TOKEN, or in " +
                     credential_options.token_file.string() + " (mode 0600)")
      ->envname("MUSTER_TOKEN");
  app.add_option("--tls-ca", credential_options.tls.ca,
                 "CA (PEM) of the coordinator's certificate: TLS")
      ->envname("MUSTER_TLS_CA");
  app.add_option("--tls-cert", credential_options.tls.certificate,
                 "Certificate (PEM) for a coordinator that asks for one")
      ->envname("MUSTER_TLS_CERT");
  app.add_option("--tls-key", credential_options.tls.key, "Its private key (PEM)")
      ->envname("MUSTER_TLS_KEY");
  std::function<int(const Context&)> run;
  bool calls_coordinator = true;

  SubmitOptions submit;
  ListOptions list;
  LogsOptions logs;
  EventsOptions events;
  std::string job;
  std::string node;
  std::string reason;
  std::string config;
  std::vector<std::string> overrides;
  CreateTokenOptions create_token;
  std::string token;
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

    sub = add("cordon", "Place nothing new on a node; what runs there stays",
              "muster cordon gpu-7 --reason 'fan 3 fails'",
              [&](const Context& context) { return Cordon(node, reason, json, context); });
    sub->add_option("node", node, "Node name")->required();
    sub->add_option("--reason", reason, "Shown by muster nodes");
    sub->add_flag("--json", json, "Print the node as JSON");

    sub = add("uncordon", "Let jobs onto a node again; ends a drain and a setting aside too",
              "muster uncordon gpu-7",
              [&](const Context& context) { return Uncordon(node, json, context); });
    sub->add_option("node", node, "Node name")->required();
    sub->add_flag("--json", json, "Print the node as JSON");

    sub = add("drain", "Cordon a node and move its jobs away: each writes a checkpoint first",
              "muster drain gpu-7 --reason 'new driver'",
              [&](const Context& context) { return Drain(node, reason, json, context); });
    sub->add_option("node", node, "Node name")->required();
    sub->add_option("--reason", reason, "Shown by muster nodes");
    sub->add_flag("--json", json, "One JSON object a change");

    sub = add("events", "What happened, oldest first: who did what to jobs and nodes",
              "muster events --job bccd-1a2b3c",
              [&](const Context& context) { return Events(events, context); });
    CLI::Option* of_job = sub->add_option("--job", events.job, "Only of this job");
    sub->add_option("--node", events.node, "Only of this node")->excludes(of_job);
    sub->add_flag("--json", events.json, "One JSON object a line");

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
      calls_coordinator = false;
      run = [&](const Context& context) { return RenderConfig(config, overrides, json, context); };
    });

    CLI::App* token_app = app.add_subcommand("token", "Tokens that people call with (admin)");
    token_app->require_subcommand(1);
    const auto add_to = [&](CLI::App* parent, const std::string& name, const std::string& what,
                            const std::string& example,
                            std::function<int(const Context&)> command) {
      CLI::App* added = parent->add_subcommand(name, what);
      added->footer("Example:\n  " + example);
      added->callback([&run, command = std::move(command)] { run = command; });
      added->add_flag("--json", json, "As JSON");
      return added;
    };
    const auto add_creation_options = [&](CLI::App* to) {
      to->add_option("--expires-in", create_token.expires_in, "Life, for example 30m or 720h");
      to->add_option("--description", create_token.description, "Kept with it");
    };
    sub = add_to(token_app, "create", "Make a token and print it, this once",
                 "muster token create --user alice --role submit --expires-in 720h",
                 [&](const Context& context) {
                   create_token.json = json;
                   return CreateToken(create_token, context);
                 });
    sub->add_option("--user", create_token.subject, "Whom it is for")->required();
    sub->add_option("--role", create_token.role, "view, submit (and view) or admin (everything)")
        ->required()
        ->check(CLI::IsMember({"view", "submit", "admin"}));
    add_creation_options(sub);
    add_to(token_app, "list", "List tokens, nodes' credentials among them", "muster token list",
           [&](const Context& context) { return ListTokens(json, context); });
    sub = add_to(token_app, "revoke", "End a token at once", "muster token revoke 1a2b3c4d5e6f",
                 [&](const Context& context) { return RevokeToken(token, json, context); });
    sub->add_option("token", token, "Its name, from muster token list")->required();

    CLI::App* node_token_app =
        app.add_subcommand("node-token", "One-time tokens that let nodes join (admin)");
    node_token_app->require_subcommand(1);
    sub = add_to(node_token_app, "create",
                 "Make a token with which one worker can join within an hour, and print it",
                 "muster node-token create --node w1 > join && chmod 600 join",
                 [&](const Context& context) {
                   create_token.json = json;
                   create_token.role = "join";
                   return CreateToken(create_token, context);
                 });
    sub->add_option("--node", create_token.subject, "Only for the worker with this --name");
    add_creation_options(sub);

    sub = app.add_subcommand("completion", "Print a completion script for bash");
    sub->footer("Example:\n  source <(muster completion)");
    sub->callback([&] {
      calls_coordinator = false;
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
  absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> credentials = nullptr;
  if (calls_coordinator) credentials = LoadCredentials(coordinator, credential_options);
  if (!credentials.ok()) {
    std::cerr << "muster: " << credentials.status().message() << "\n";
    return base::kExitUsage;
  }
  CoordinatorClient client(coordinator, *std::move(credentials));
  const base::SystemClock clock;
  const bool terminal = isatty(STDOUT_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr;
  winsize window{};
  const bool sized = ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0;
  return run({client, clock, std::cout, std::cerr, terminal, sized ? window.ws_col : 80});
}

}  // namespace
}  // namespace muster::cli

int main(int argc, char** argv) { return muster::cli::Main(argc, argv); }
