#include "coordinator/service/status_page.h"

#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace muster::coordinator {
namespace {

constexpr char kHead[] = R"html(<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="2">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Muster</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1b1f24; background: #fff; }
table { border-collapse: collapse; width: 100%; margin-bottom: 2rem; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid #d8dee4; vertical-align: top; }
th { font-weight: 600; color: #59636e; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
progress { width: 8rem; }
.succeeded, .ready, .running { color: #1a7f37; } .failed, .lost { color: #cf222e; } .unreachable, .restarting, .cordoned, .draining, .drained { color: #9a6700; }
small { color: #59636e; }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3; } th, td { border-color: #30363d; } th, small { color: #9198a1; } a { color: #4493f8; } }
</style></head><body><h1>Muster</h1>
)html";

std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
}

std::string Word(const std::string& enum_name) {
  std::string word(absl::StripPrefix(enum_name, "STATE_"));
  absl::AsciiStrToLower(&word);
  return word;
}

std::string StateCell(const std::string& enum_name) {
  const std::string word = Word(enum_name);
  return absl::StrCat("<td class=\"", word, "\">", word);
}

std::string JobRow(const v1::Job& job) {
  const v1::TrainProgress& progress = job.progress();
  std::string row = absl::StrCat("<tr><td><a href=\"/v1/", Escape(job.name()), "\">",
                                 Escape(std::string(absl::StripPrefix(job.name(), "jobs/"))),
                                 "</a><br><small>", Escape(job.display_name()), "</small></td>",
                                 StateCell(v1::Job::State_Name(job.state())));
  if (!job.state_reason().empty()) {
    absl::StrAppend(&row, "<br><small>", Escape(job.state_reason()), "</small>");
  }
  absl::StrAppend(&row, "</td><td>");
  if (progress.total_steps() > 0) {
    absl::StrAppendFormat(&row, "<progress max=\"%d\" value=\"%d\"></progress><br><small>",
                          progress.total_steps(), progress.step());
    absl::StrAppendFormat(&row, "step %d of %d, epoch %d of %d</small>", progress.step(),
                          progress.total_steps(), progress.epoch(), progress.total_epochs());
  }
  absl::StrAppend(&row, "</td><td class=\"n\">");
  if (auto loss = progress.losses().find("loss"); loss != progress.losses().end()) {
    absl::StrAppendFormat(&row, "%.4f", loss->second);
  }
  absl::StrAppend(&row, "</td><td class=\"n\">");
  if (progress.images_per_second() > 0) {
    absl::StrAppendFormat(&row, "%.1f", progress.images_per_second());
  }
  absl::StrAppend(&row, "</td>");
  if (job.evaluations().empty()) {
    absl::StrAppend(&row, "<td></td><td></td>");
  } else {
    const v1::EvalResult& last = job.evaluations(job.evaluations_size() - 1);
    absl::StrAppendFormat(&row, "<td class=\"n\">%.3f<br><small>epoch %d</small></td>", last.ap(),
                          last.epoch());
    absl::StrAppendFormat(&row, "<td class=\"n\">%.3f</td>", last.ap50());
  }
  return absl::StrCat(row, "<td class=\"n\">", job.restarts(), "</td></tr>\n");
}

std::string Small(const std::string& text) {
  return text.empty() ? "" : absl::StrCat("<br><small>", Escape(text), "</small>");
}

std::string NodeState(const v1::Node& node) {
  if (node.state() != v1::Node::STATE_READY) return v1::Node::State_Name(node.state());
  if (node.draining()) return node.jobs().empty() ? "drained" : "draining";
  return node.cordoned() ? "cordoned" : "ready";
}

// "Preempt Scheduled, Freeze Started"
std::string Maintenance(const v1::Node& node) {
  return absl::StrJoin(node.maintenance(), ", ",
                       [](std::string* out, const v1::MaintenanceEvent& event) {
                         absl::StrAppend(out, event.type(), " ", event.status());
                       });
}

std::string NodeRow(const v1::Node& node) {
  const auto& labels = node.inventory().labels();
  return absl::StrCat(
      "<tr><td>", Escape(std::string(absl::StripPrefix(node.name(), "nodes/"))),
      Small(absl::StrJoin(std::map<std::string, std::string>(labels.begin(), labels.end()), ", ",
                          absl::PairFormatter("="))),
      "</td>", StateCell(NodeState(node)), Small(node.cordon_reason()), Small(Maintenance(node)),
      "</td><td class=\"n\">", node.slots_used(), " of ", node.inventory().slots(), "</td><td>",
      Escape(node.inventory().address()), "</td><td>", Escape(absl::StrJoin(node.jobs(), ", ")),
      "</td></tr>\n");
}

}  // namespace

std::string RenderStatusPage(const std::vector<v1::Job>& jobs, const std::vector<v1::Node>& nodes) {
  std::string page = kHead;
  absl::StrAppend(
      &page,
      "<h2>Jobs</h2>\n<table><tr><th>job</th><th>state</th><th>progress</th>"
      "<th>loss</th><th>images/s</th><th>mAP</th><th>AP50</th><th>restarts</th></tr>\n");
  for (const v1::Job& job : jobs) page += JobRow(job);
  if (jobs.empty()) page += "<tr><td colspan=\"8\">No job has been submitted yet.</td></tr>\n";
  absl::StrAppend(&page,
                  "</table>\n<h2>Nodes</h2>\n<table><tr><th>node</th><th>state</th><th>slots "
                  "used</th><th>address</th><th>jobs</th></tr>\n");
  for (const v1::Node& node : nodes) page += NodeRow(node);
  if (nodes.empty()) page += "<tr><td colspan=\"5\">No worker has joined yet.</td></tr>\n";
  return page + "</table></body></html>\n";
}

}  // namespace muster::coordinator
