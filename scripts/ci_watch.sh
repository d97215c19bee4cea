#!/usr/bin/env bash
# Waits until every build job of this workflow run has ended, or waits for a runner longer than QUEUE_MINUTES:
# timeout-minutes does not count the time in the queue, where GitHub leaves a job for a day or two. Then it returns, so
# that the verdict can say "not built". Needs gh with GH_TOKEN (actions: read), GITHUB_REPOSITORY, GITHUB_RUN_ID.
set -euo pipefail

queue_minutes=${QUEUE_MINUTES:-30}
poll_seconds=${POLL_SECONDS:-60}
prefix=${JOB_PREFIX:-build }
jobs_of_run=repos/$GITHUB_REPOSITORY/actions/runs/$GITHUB_RUN_ID/jobs
patience=${PATIENCE:-10}
empty=0
here=$(cd -P "$(dirname "$0")" && pwd)

while :; do
  found=$(gh api --paginate "$jobs_of_run?per_page=100" | "${PYTHON:-python3}" "$here/ci_jobs.py" "$prefix") || found=''
  if [ -z "$found" ]; then # GitHub did not answer, or has not made the jobs yet
    empty=$((empty + 1))
    [ "$empty" -lt "$patience" ] || { echo "watch: $empty times no job named '$prefix...'" >&2; exit 1; }
    sleep "$poll_seconds"
    continue
  fi
  empty=0
  running=0 waiting=0 stuck=0
  while IFS=$'\t' read -r name status age; do
    case $status in
      completed) ;;
      in_progress) running=$((running + 1)) ;;
      *) if [ "$age" -ge $((queue_minutes * 60)) ]; then
           stuck=$((stuck + 1))
           echo "watch: no runner took '$name' in $((age / 60)) minutes"
         else
           waiting=$((waiting + 1))
         fi ;;
    esac
  done <<<"$found"
  echo "watch: $running running, $waiting waiting for a runner, $stuck given up"
  if [ $((running + waiting)) -eq 0 ]; then break; fi
  sleep "$poll_seconds"
done
if [ -n "${GITHUB_OUTPUT:-}" ]; then echo "stuck=$stuck" >>"$GITHUB_OUTPUT"; fi
