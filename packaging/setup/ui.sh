# shellcheck shell=bash disable=SC2034 # its variables are for the other parts too
# How setup.sh speaks: steps with progress, failures that name the step, the cause and the cure. Sourced by setup.sh,
# which sets LOGS (a folder). Colours and the moving line only on a terminal; NO_COLOR is respected.

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
  BOLD=$'\e[1m' DIM=$'\e[2m' GREEN=$'\e[32m' YELLOW=$'\e[33m' RED=$'\e[31m' PLAIN=$'\e[0m'
else
  BOLD='' DIM='' GREEN='' YELLOW='' RED='' PLAIN=''
fi
MOVING='' # the process that redraws the line of the running step
STEP=''   # the title of the running step

say() { printf '%s\n' "$*"; }
note() { printf '%s  note%s  %s\n' "$YELLOW" "$PLAIN" "$*"; }
done_line() { printf '%s    ok%s  %s\n' "$GREEN" "$PLAIN" "$*"; }

# fail TITLE WHY WHAT-TO-DO
fail() {
  printf '%sFAILED%s  %s\n' "$RED" "$PLAIN" "$1" >&2
  printf '        why: %s\n' "$2" >&2
  printf '        what to do: %s\n' "$3" >&2
  exit 1
}

# wrong usage of the command line
usage_error() {
  printf 'setup.sh: %s\n' "$1" >&2
  printf "Try './setup.sh --help'.\n" >&2
  exit 2
}

# Redraw the step's line with its time and the last thing its log says; off a terminal say so every 20 s. Ends with setup.sh.
show_progress() {
  local title=$1 log=$2 start=$SECONDS columns last
  columns=$(tput cols 2>/dev/null || echo 80)
  while kill -0 "$$" 2>/dev/null; do
    if [ -t 1 ]; then
      last=$(tail -n 1 "$log" 2>/dev/null | sed 's/\x1b\[[0-9;]*m//g' | tr -d '\000-\037' | cut -c 1-200) || last=''
      last="$title ($((SECONDS - start)) s) $last"
      printf '\r%s   ...  %s%s\e[K' "$DIM" "${last:0:columns-9}" "$PLAIN"
      sleep 0.3
    else
      sleep 20
      printf '   ...  %s (%s s)\n' "$title" "$((SECONDS - start))"
    fi
  done
}

stop_progress() {
  [ -n "$MOVING" ] || return 0
  kill "$MOVING" 2>/dev/null || true
  wait "$MOVING" 2>/dev/null || true
  MOVING=''
  [ ! -t 1 ] || printf '\r\e[K'
}

# step TITLE LOG-NAME WHAT-TO-DO COMMAND...: runs the command with errexit and no input, its words in a log
step() {
  local title=$1 log=$LOGS/$2.log cure=$3 start=$SECONDS status
  shift 3
  mkdir -p "$LOGS"
  : >"$log"
  STEP=$title
  [ -t 1 ] || printf '   ...  %s\n' "$title"
  show_progress "$title" "$log" &
  MOVING=$!
  set +e # in the foreground: Ctrl-C reaches the command itself, which ends before we do
  (set -e; "$@") >"$log" 2>&1 </dev/null
  status=$?
  set -e
  stop_progress
  if [ "$status" -ge 128 ]; then exit "$status"; fi # ended by a signal: on_exit says so
  if [ "$status" -ne 0 ]; then
    printf '%s----- the end of %s%s\n' "$DIM" "$log" "$PLAIN" >&2
    tail -n 15 "$log" | sed 's/^/  | /' >&2
    fail "$title" "the command ended with status $status after $((SECONDS - start)) s, see above" "$cure"
  fi
  STEP=''
  done_line "$title ($((SECONDS - start)) s)"
}
