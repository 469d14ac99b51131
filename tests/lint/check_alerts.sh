#!/usr/bin/env bash
# The alert rules are valid, fire on the series that rules_test.yml makes up, and name metrics that exist.
set -euo pipefail
cd "$1"
rules=deploy/prometheus/rules.yml
status=0
while read -r metric; do
  grep -q "^| \`$metric\`" docs/operations/metrics.md || {
    echo "$rules names $metric, which docs/operations/metrics.md does not list"
    status=1
  }
done < <(grep -E '^ *expr:' "$rules" | grep -oE 'muster_[a-z0-9_]+' | sort -u)
if ! command -v promtool >/dev/null; then
  echo "promtool is not installed; scripts/setup installs it (package prometheus)"
  [ "$status" = 0 ] && [ -z "${MUSTER_FORBID_SKIPS:-}" ] && exit 77
  exit 1
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
sed "s#RULES#$PWD/$rules#" tests/lint/rules_test.yml >"$folder/test.yml"
promtool check rules "$rules" >/dev/null || status=1
promtool test rules "$folder/test.yml" || status=1
exit "$status"
