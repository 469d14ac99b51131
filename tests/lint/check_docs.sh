#!/usr/bin/env bash
# What the documents list is what the code has: exit codes, metrics, and files that a document links to.
set -euo pipefail
cd "$1"
status=0
compare() { # WHAT DOCUMENTED EXPOSED
  if ! difference=$(diff <(printf '%s\n' "$2") <(printf '%s\n' "$3")); then
    printf '%s (< documented, > in the code):\n%s\n' "$1" "$difference"
    status=1
  fi
}

compare 'docs/operations/exit_codes.md and common/base/exit_codes.h differ' \
  "$(sed -nE 's/^\| ([0-9]+) \| (kExit[A-Za-z]+) \|.*/\2 \1/p' docs/operations/exit_codes.md | sort)" \
  "$(sed -nE 's/^ *(kExit[A-Za-z]+) = ([0-9]+),.*/\1 \2/p' common/base/exit_codes.h | sort)"
compare 'docs/operations/metrics.md and the metrics in the code differ' \
  "$(sed -nE 's/^\| `(muster_[a-z0-9_]+)`.*/\1/p' docs/operations/metrics.md | sort -u)" \
  "$(find common coordinator worker -name '*.cc' -exec cat {} + | tr -d '\n' |
    grep -oE 'Add(Counter|Gauge|Histogram)\( *"muster_[a-z0-9_]+"' | sed -E 's/.*"(.*)"/\1/' | sort -u)"

while IFS=: read -r file link; do
  target=$(dirname "$file")/${link%%#*}
  [ -e "$target" ] || { echo "$file links to $link, which is not there"; status=1; }
done < <(git ls-files --cached --others --exclude-standard -- '*.md' |
  xargs grep -oE '\]\([^)#:]+[^):]*\)' | sed -E 's/\]\(([^)]*)\)/\1/')
exit "$status"
