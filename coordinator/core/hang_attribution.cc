#include "coordinator/core/hang_attribution.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

#include "coordinator/core/timestamps.h"

namespace muster::coordinator {
namespace {

using Rank = HangEvidence::Rank;
using v1::CollectiveRecord;

constexpr size_t kNamedLinks = 3;
// Groups whose collectives a rank's own thread waits for, those first that it spends most time in.
constexpr std::array<const char*, 3> kGroups = {"sync_bn", "control", "gradients"};
// Names of the C library's blocking file functions, without the underscores round them.
constexpr std::array<const char*, 8> kFileCalls = {"read", "pread64", "pread",  "readv",
                                                   "open", "open64",  "openat", "openat64"};

std::string Name(const Rank& rank) { return absl::StrCat("rank ", rank.rank, " on ", rank.node); }

std::string Ranks(const std::vector<const Rank*>& ranks) {
  return absl::StrCat(ranks.size() == 1 ? "rank " : "ranks ",
                      absl::StrJoin(ranks, ", ", [](std::string* out, const Rank* rank) {
                        absl::StrAppend(out, rank->rank);
                      }));
}

std::string Name(const CollectiveRecord& collective) {
  return absl::StrCat(collective.group(), " ", collective.operation(), " ", collective.sequence());
}

// The newest collective of the group that the rank knows of; null: none.
const CollectiveRecord* Newest(const Rank& rank, const std::string& group) {
  const CollectiveRecord* newest = nullptr;
  if (rank.diagnosis == nullptr) return newest;
  for (const CollectiveRecord& collective : rank.diagnosis->collectives()) {
    if (collective.group() != group) continue;
    if (newest == nullptr || collective.sequence() > newest->sequence()) newest = &collective;
  }
  return newest;
}

// The oldest that is not completed, which is what it waits for.
const CollectiveRecord* PendingIn(const Rank& rank, const std::string& group) {
  if (rank.diagnosis == nullptr) return nullptr;
  for (const CollectiveRecord& collective : rank.diagnosis->collectives()) {
    if (collective.group() == group && collective.state() != CollectiveRecord::STATE_COMPLETED) {
      return &collective;
    }
  }
  return nullptr;
}

const CollectiveRecord* Pending(const Rank& rank, const std::string& first_group = "") {
  if (const CollectiveRecord* pending = PendingIn(rank, first_group)) return pending;
  for (const char* group : kGroups) {
    if (const CollectiveRecord* pending = PendingIn(rank, group)) return pending;
  }
  return nullptr;
}

// Its own thread waits for others. Gradients are reduced while it goes on.
bool Waits(const Rank& rank, const std::string& group) {
  return PendingIn(rank, group) != nullptr || PendingIn(rank, kGroups[0]) != nullptr ||
         PendingIn(rank, kGroups[1]) != nullptr;
}

bool HasCollectives(const Rank& rank) {
  return rank.diagnosis != nullptr && !rank.diagnosis->collectives().empty();
}

std::string State(const Rank& rank) {
  return rank.diagnosis == nullptr ? "?" : rank.diagnosis->process_state();
}

// "; ranks 0, 2 wait for it in sync_bn all_gather 4711", or empty.
std::string Waiters(const HangEvidence& evidence, const std::set<int>& culprits,
                    const std::string& group, absl::string_view wait) {
  std::map<std::string, std::vector<const Rank*>> by_collective;
  for (const Rank& rank : evidence.ranks) {
    const CollectiveRecord* pending = Pending(rank, group);
    if (pending == nullptr || culprits.count(rank.rank) > 0) continue;
    by_collective[Name(*pending)].push_back(&rank);
  }
  std::string text;
  for (const auto& [collective, ranks] : by_collective) {
    absl::StrAppend(&text, "; ", Ranks(ranks), ranks.size() == 1 ? " waits" : " wait", wait, " in ",
                    collective);
  }
  return text;
}

// "__GI___libc_read+0x1f" -> "read"
std::string PlainName(absl::string_view frame) {
  absl::string_view name = frame.substr(0, frame.find_first_of("+( "));
  absl::ConsumePrefix(&name, "__GI_");
  while (absl::ConsumePrefix(&name, "_")) {
  }
  absl::ConsumePrefix(&name, "libc_");
  absl::ConsumeSuffix(&name, "_nocancel");
  while (absl::ConsumeSuffix(&name, "_")) {
  }
  return std::string(name);
}

// Without "#3 ".
absl::string_view FrameOf(absl::string_view line) {
  while (absl::ConsumePrefix(&line, " ")) {
  }
  if (!absl::ConsumePrefix(&line, "#")) return "";
  const size_t blank = line.find(' ');
  return blank == absl::string_view::npos ? "" : line.substr(blank + 1);
}

std::string WithoutArguments(absl::string_view frame) {
  return std::string(frame.substr(0, frame.find_first_of("(+ ")));
}

// What the stack says.
struct Doing {
  // "waits for its data (open in muster::data::FolderImageSource::Read)"; empty: not data.
  std::string data;
  // The innermost function of ours that any thread is in, the main one first.
  std::string where;
};

Doing Read(const std::vector<std::string>& stack) {
  Doing doing;
  std::string call;
  bool waits_for_data = false;
  for (const std::string& line : stack) {
    const absl::string_view frame = FrameOf(line);
    if (frame.empty()) {
      // Another thread begins.
      call.clear();
      continue;
    }
    const std::string plain = PlainName(frame);
    if (std::count(kFileCalls.begin(), kFileCalls.end(), plain) > 0) call = plain;
    if (!absl::StartsWith(frame, "muster::")) continue;
    if (doing.where.empty()) doing.where = WithoutArguments(frame);
    if (!absl::StartsWith(frame, "muster::data::")) continue;
    waits_for_data = waits_for_data || absl::StartsWith(frame, "muster::data::DataLoader::Next");
    if (!call.empty() && doing.data.empty()) {
      doing.data = absl::StrCat("waits for its data (", call, " in ", WithoutArguments(frame), ")");
    }
    call.clear();
  }
  if (doing.data.empty() && waits_for_data) doing.data = "waits for its data";
  return doing;
}

std::vector<std::string> StackOf(const Rank& rank) {
  if (rank.diagnosis == nullptr || rank.diagnosis->stack().empty()) return {};
  return absl::StrSplit(absl::StripTrailingAsciiWhitespace(rank.diagnosis->stack()), '\n');
}

HangVerdict Blame(const HangEvidence& evidence, HangCause cause, const Rank& rank,
                  const std::string& reason, const std::string& group = "") {
  HangVerdict verdict;
  verdict.cause = cause;
  verdict.rank = rank.rank;
  verdict.node = rank.node;
  verdict.stack = StackOf(rank);
  verdict.blames_node = cause == HangCause::kProcess || cause == HangCause::kData;
  verdict.message = absl::StrCat(Name(rank), " made no step for ", InWords(evidence.stalled), ": ",
                                 reason, Waiters(evidence, {rank.rank}, group, " for it"));
  return verdict;
}

std::optional<HangVerdict> StoppedProcess(const HangEvidence& evidence) {
  for (const Rank& rank : evidence.ranks) {
    const std::string state = State(rank);
    if (state == "T") {
      return Blame(evidence, HangCause::kProcess, rank, "its process is stopped (state T)");
    }
    if (state == "t") {
      return Blame(evidence, HangCause::kProcess, rank, "a debugger holds its process (state t)");
    }
    if (state.empty() || state == "Z" || state == "X") {
      return Blame(evidence, HangCause::kProcess, rank, "its process is gone");
    }
  }
  return std::nullopt;
}

std::optional<HangVerdict> BrokenLink(const HangEvidence& evidence) {
  // Each link once, whichever end could not dial the other.
  std::map<std::pair<std::string, std::string>, std::string> links;
  std::map<std::string, std::set<std::string>> links_of;
  for (const HangEvidence::Link& link : evidence.unreachable) {
    links.emplace(std::minmax(link.from, link.to), link.reason);
    links_of[link.from].insert(link.to);
    links_of[link.to].insert(link.from);
  }
  if (links.empty()) return std::nullopt;
  HangVerdict verdict;
  verdict.cause = HangCause::kLink;
  std::string what;
  for (const auto& [node, others] : links_of) {
    // It is what all of them have in common.
    if (others.size() < 2 || others.size() != links.size()) continue;
    verdict.node = node;
    verdict.blames_node = true;
    what = absl::StrCat(node, " and its peers (", absl::StrJoin(others, ", "),
                        ") do not reach each other: ", links.begin()->second);
  }
  if (what.empty()) {
    std::vector<std::string> named;
    for (const auto& [ends, reason] : links) {
      if (named.size() == kNamedLinks) {
        named.push_back("...");
        break;
      }
      named.push_back(absl::StrCat("link ", ends.first, " - ", ends.second, ": ", reason));
    }
    what = absl::StrJoin(named, "; ");
  }
  verdict.message = absl::StrCat("no rank made a step for ", InWords(evidence.stalled), ": ", what,
                                 Waiters(evidence, {}, "", ""));
  return verdict;
}

std::optional<HangVerdict> StuckInKernel(const HangEvidence& evidence) {
  for (const Rank& rank : evidence.ranks) {
    if (State(rank) != "D") continue;
    const std::string data = Read(StackOf(rank)).data;
    return Blame(evidence, HangCause::kProcess, rank,
                 absl::StrCat("its process is stuck in the kernel (state D)",
                              data.empty() ? "" : absl::StrCat(" and ", data)));
  }
  return std::nullopt;
}

HangVerdict BlameLate(const HangEvidence& evidence, const Rank& rank, const std::string& group,
                      const std::string& missing) {
  const Doing doing = Read(StackOf(rank));
  if (!doing.data.empty()) {
    return Blame(evidence, HangCause::kData, rank, absl::StrCat("it ", doing.data), group);
  }
  std::string reason = absl::StrCat("it has not come to ", missing);
  if (State(rank) == "R") absl::StrAppend(&reason, ", and computes (state R)");
  if (!doing.where.empty()) absl::StrAppend(&reason, "; it is in ", doing.where);
  return Blame(evidence, HangCause::kBehind, rank, reason, group);
}

// Ranks that have not scheduled what others have.
std::optional<HangVerdict> RanksBehind(const HangEvidence& evidence) {
  for (const char* group : kGroups) {
    const CollectiveRecord* farthest = nullptr;
    for (const Rank& rank : evidence.ranks) {
      const CollectiveRecord* newest = Newest(rank, group);
      if (newest != nullptr && (farthest == nullptr || newest->sequence() > farthest->sequence())) {
        farthest = newest;
      }
    }
    if (farthest == nullptr) continue;
    std::vector<const Rank*> behind;
    for (const Rank& rank : evidence.ranks) {
      if (!HasCollectives(rank) || Waits(rank, group)) continue;
      const CollectiveRecord* newest = Newest(rank, group);
      if (newest == nullptr || newest->sequence() < farthest->sequence()) behind.push_back(&rank);
    }
    if (behind.empty()) continue;
    HangVerdict verdict = BlameLate(evidence, *behind.front(), group, Name(*farthest));
    if (behind.size() == 1) return verdict;
    // Each for itself, or all for a reason that none of them shows.
    std::set<int> late;
    for (const Rank* rank : behind) late.insert(rank->rank);
    verdict.rank = -1;
    verdict.node.clear();
    verdict.blames_node = false;
    verdict.message = absl::StrCat(Ranks(behind), " made no step for ", InWords(evidence.stalled),
                                   ": they have not come to ", Name(*farthest),
                                   Waiters(evidence, late, group, " for them"));
    return verdict;
  }
  return std::nullopt;
}

// By elimination.
std::optional<HangVerdict> OnlySilentRank(const HangEvidence& evidence) {
  const Rank* silent = nullptr;
  for (const Rank& rank : evidence.ranks) {
    if (HasCollectives(rank)) {
      if (Pending(rank) == nullptr) return std::nullopt;
      continue;
    }
    if (silent != nullptr) return std::nullopt;
    silent = &rank;
  }
  if (silent == nullptr) return std::nullopt;
  const Doing doing = Read(StackOf(*silent));
  if (!doing.data.empty()) {
    return Blame(evidence, HangCause::kData, *silent, absl::StrCat("it ", doing.data));
  }
  std::string reason = "nothing was heard of it";
  if (silent->diagnosis == nullptr) {
    absl::StrAppend(&reason, ": ", silent->unknown);
  } else if (!silent->diagnosis->error().empty()) {
    absl::StrAppend(&reason, ": ", silent->diagnosis->error());
  }
  if (!doing.where.empty()) absl::StrAppend(&reason, "; it is in ", doing.where);
  return Blame(evidence, HangCause::kBehind, *silent, reason);
}

}  // namespace

const char* CauseName(HangCause cause) {
  switch (cause) {
    case HangCause::kProcess:
      return "process";
    case HangCause::kLink:
      return "link";
    case HangCause::kData:
      return "data";
    case HangCause::kBehind:
      return "behind";
    case HangCause::kUnknown:
      break;
  }
  return "unknown";
}

HangVerdict AttributeHang(const HangEvidence& evidence) {
  for (auto* rule : {StoppedProcess, BrokenLink, StuckInKernel, RanksBehind, OnlySilentRank}) {
    if (std::optional<HangVerdict> verdict = rule(evidence); verdict.has_value()) {
      return *std::move(verdict);
    }
  }
  HangVerdict verdict;
  verdict.message = absl::StrCat("no rank made a step for ", InWords(evidence.stalled),
                                 Waiters(evidence, {}, "", ""), "; no culprit was found");
  std::map<std::string, std::vector<const Rank*>> unknown;
  for (const Rank& rank : evidence.ranks) {
    if (rank.diagnosis == nullptr) {
      unknown[rank.unknown].push_back(&rank);
    } else if (rank.diagnosis->collectives().empty() && !rank.diagnosis->error().empty()) {
      unknown[rank.diagnosis->error()].push_back(&rank);
    }
  }
  for (const auto& [reason, ranks] : unknown) {
    absl::StrAppend(&verdict.message, "; of ", Ranks(ranks), " nothing is known: ", reason);
  }
  return verdict;
}

}  // namespace muster::coordinator
