#!/usr/bin/env bash
# Rules that a compiler cannot see. Prints every violation; fails when there is one.
set -euo pipefail
cd "$1"
status=0
report() {
  if [ -n "$2" ]; then
    printf '%s\n%s\n' "$1" "$2"
    status=1
  fi
}
sources() { git ls-files --cached --others --exclude-standard -- '*.h' '*.cc' '*.cu' "$@"; }

report 'Time comes from base::Clock (absl::Now, sleeps and std::chrono clocks are for common/base and gRPC deadlines only):' \
  "$(sources | grep -E '^(common|coordinator|worker|cli)/' | grep -vE '^common/(base|rpc)/' |
    xargs grep -nE 'absl::Now\(|absl::SleepFor|sleep_for|sleep_until|usleep\(|[^a-z_]sleep\(|system_clock::now' || true)"
report 'TODO, FIXME and XXX belong into an issue:' \
  "$(git ls-files --cached --others --exclude-standard | grep -v '^tests/lint/' | xargs grep -nE '\b(TODO|FIXME|XXX)\b' || true)"
report 'No paths of one machine:' \
  "$(git ls-files --cached --others --exclude-standard | grep -v '^tests/lint/' | xargs grep -nE '/(root|home/[a-z]+|work)/' || true)"
report 'A source file of more than 800 lines (tests: 1000) wants to be two:' \
  "$(sources | while read -r file; do
    limit=800
    case "$file" in tests/*) limit=1000 ;; esac
    lines=$(wc -l <"$file")
    [ "$lines" -le "$limit" ] || echo "$file: $lines lines"
  done)"
report 'The torch wall: only worker/{ops,dist,model,train} and their tests include LibTorch:' \
  "$(sources | grep -vE '^(worker/(ops|dist|model|train)|tests|cmake)/' | xargs grep -nE '#include [<"](torch|ATen|c10)/' || true)"
report 'Trailing blanks:' \
  "$(git ls-files --cached --others --exclude-standard | xargs grep -nIE ' +$' || true)"
exit "$status"
