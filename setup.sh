#!/usr/bin/env bash
# Sets up a checkout of YADTQ and runs it on this machine; `./setup.sh --help` says how. The parts are in packaging/setup/.
set -euo pipefail

HOME=${HOME:-$(cd ~ && pwd)}
export HOME
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$ROOT"
STATE=$ROOT/.yadtq
LOGS=$STATE/logs
PYTHON=python3
CLIENT_ONLY=''

# shellcheck source=packaging/setup/ui.sh
. packaging/setup/ui.sh
# shellcheck source=packaging/setup/install.sh
. packaging/setup/install.sh
# shellcheck source=packaging/setup/check.sh
. packaging/setup/check.sh

help() {
  cat <<'HELP'
Sets up this checkout of YADTQ and runs it on this machine.

usage: ./setup.sh [COMMAND] [OPTIONS]

commands
  install   (the default) install what is missing, leave what is there:
            Redis, Java, Maven and Python's venv by apt (with sudo, asked for
            only if something is missing), the Kafka broker by Maven, the
            Python packages into .venv
              --client-only  only the client library into .venv, no servers
                             (on macOS always)
  demo      install, start Kafka, Redis and yadtqd, run the main job on real
            input, end them again
              --keep         leave them running
  test ...  install, run every check and every test; what follows is passed
            on to pytest: ./setup.sh test -k offset
  test-deploy ...  deploy to three real hosts with systemd on this machine and
            check them: as root, some minutes, not part of 'test'
              --short        one host, and less of it
              --report FILE  write figures and transcripts there
  up        install, start the Kafka, Redis and yadtqd of this checkout;
            returns when a task can be run. Ports: 9092 and 6379, or the next
            free ones; 'source .yadtq/env' tells a shell where they are.
              --config FILE  a yadtq.toml of yours to build on
              --no-daemon    only Kafka and Redis
            Servers that FILE or the environment names are used instead of
            own ones: kafka_servers, kafka_host, redis_host, or
            YADTQ_KAFKA_SERVERS, YADTQ_KAFKA_HOST, YADTQ_REDIS_HOST.
  down      end what 'up' started and nothing else; the data stays
  status    what of it is running
  doctor    find what is missing, wrong or unreachable; tell how to mend it
  clean     'down', then remove the data and logs in .yadtq
              --all          .venv too
              --yes          without asking
  package   build Debian packages, wheels, bills of materials and checksums
            into dist/; see packaging/README.md and packaging/build.sh --help
  lock      (maintainers) resolve requirements/*.txt anew

YADTQ_SETUP_PYTHON names the Python that .venv is made from, in place of the
first of python3, python3.13 ... that is 3.11 or newer; so a version is tested:
  YADTQ_SETUP_PYTHON=python3.13 ./setup.sh test

All that runs or is stored is in .yadtq of this checkout, logs too. The Kafka
broker is in ~/.cache/yadtq, for all checkouts.
Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
HELP
}

on_exit() {
  local status=$?
  trap '' INT TERM HUP # what follows is short
  stop_progress
  if [ "$status" -ge 128 ]; then
    printf '%s   ...  interrupted%s%s\n' "$YELLOW" "${STEP:+ during: $STEP}" "$PLAIN" >&2
  fi
  undo_half_made
  if [ -n "${DOWN_AT_EXIT:-}" ]; then stack down || true; fi
  if [ "$status" -ge 128 ]; then exit 130; fi
}

stack() {
  local python=.venv/bin/python
  [ -x "$python" ] || python=python3
  "$python" -W ignore packaging/setup/local_stack.py "$@"
}

command_install() {
  while [ $# -gt 0 ]; do
    case $1 in
      --client-only) CLIENT_ONLY=client ;;
      *) usage_error "install does not know '$1'" ;;
    esac
    shift
  done
  install_all
  if [ -n "$CLIENT_ONLY" ]; then
    say "The client library is in .venv: .venv/bin/python -c 'import yadtq'"
  else
    say "Installed. ${BOLD}./setup.sh demo${PLAIN} shows it at work, ${BOLD}./setup.sh up${PLAIN} starts it, ./setup.sh --help tells the rest."
  fi
}

command_up() {
  case " $* " in *' --help '*) help; return ;; esac
  local option take=''
  for option in "$@"; do
    if [ -n "$take" ]; then
      [ -f "$option" ] || usage_error "up --config: there is no file '$option'"
      take=''
      continue
    fi
    case $option in
      --no-daemon) ;;
      --config) take=yes ;;
      --config=*) [ -f "${option#--config=}" ] || usage_error "up --config: there is no file '${option#--config=}'" ;;
      *) usage_error "up does not know '$option'" ;;
    esac
  done
  [ -z "$take" ] || usage_error 'up --config wants a file'
  install_all
  stack up "$@"
  say "Ready. Tell a shell where it is with  ${BOLD}source .yadtq/env${PLAIN}  and end it with  ${BOLD}./setup.sh down${PLAIN}"
}

command_demo() {
  local keep=''
  case "$*" in
    '') ;;
    --keep) keep=yes ;;
    *) usage_error "demo does not know '$*'" ;;
  esac
  install_all
  stack status >/dev/null || { [ -n "$keep" ] || DOWN_AT_EXIT=yes; }
  stack up
  # shellcheck disable=SC1091
  (. .yadtq/env && .venv/bin/python -m yadtqd.demo) || fail 'The demo' "something did not go as it should, see above" \
    "look at .yadtq/yadtqd/yadtqd.out, and run './setup.sh doctor'"
  if [ -n "${DOWN_AT_EXIT:-}" ]; then
    say 'Ending what the demo started (./setup.sh demo --keep leaves it running):'
    DOWN_AT_EXIT=''
    stack down
  else
    say "It is still running: ${BOLD}source .yadtq/env${PLAIN}, and ./setup.sh down when you are done."
  fi
}

command_clean() {
  local all='' yes='' answer
  while [ $# -gt 0 ]; do
    case $1 in
      --all) all=yes ;;
      --yes | -y) yes=yes ;;
      *) usage_error "clean does not know '$1'" ;;
    esac
    shift
  done
  if [ -z "$yes" ]; then
    printf 'Remove the data and logs of the local Kafka and Redis (.yadtq)%s? [y/N] ' "${all:+ and .venv}"
    read -r answer || answer=''
    case $answer in [yY] | [yY]es) ;; *) say 'Nothing was removed.'; return 1 ;; esac
  fi
  if [ -d "$STATE" ]; then stack down; fi
  rm -rf -- "$STATE"
  if [ -n "$all" ]; then rm -rf -- .venv; fi
  done_line 'Removed'
}

command_lock() {
  [ $# -eq 0 ] || usage_error "lock does not know '$1'"
  install_all
  local uv=(.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url
    --no-header --upgrade)
  local cure="see uv's message above"
  step 'Locking requirements/build.txt' lock "$cure" "${uv[@]}" requirements/build.in -o requirements/build.txt
  step 'Locking requirements/runtime.txt' lock "$cure" "${uv[@]}" --no-emit-package yadtq pyproject.toml \
    client/pyproject.toml --extra librdkafka --extra numpy -c requirements/build.txt -o requirements/runtime.txt
  step 'Locking requirements/dev.txt' lock "$cure" "${uv[@]}" --group dev -c requirements/runtime.txt \
    -c requirements/build.txt -o requirements/dev.txt
  local peers # other task queues, for benchmarks.peers alone, which makes environments of their own
  for peers in peers peers-arq; do
    step "Locking requirements/$peers.txt" lock "$cure" "${uv[@]}" "requirements/$peers.in" -o "requirements/$peers.txt"
  done
  step 'Locking requirements/deploy.txt' lock "$cure" "${uv[@]}" requirements/deploy.in -c requirements/dev.txt \
    -c requirements/build.txt -o requirements/deploy.txt
}

main() {
  local command=${1:-install}
  case $command in
    -h | --help | help) help; return ;;
    --client-only) command=install ;;
    -*) usage_error "unknown option '$command'" ;;
    *) if [ $# -gt 0 ]; then shift; fi ;;
  esac
  case " ${1:-} " in ' -h ' | ' --help ') case $command in test* | package) ;; *) help; return ;; esac ;; esac
  trap on_exit EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  case $command in
    install | up | demo | clean | lock) "command_$command" "$@" ;;
    test) command_test "$@" ;;
    test-deploy) command_test_deploy "$@" ;;
    package) exec packaging/build.sh "$@" ;;
    down | status)
      [ $# -eq 0 ] || usage_error "$command takes no arguments"
      stack "$command"
      ;;
    doctor)
      [ $# -eq 0 ] || usage_error "doctor takes no arguments"
      python3 packaging/setup/doctor.py
      ;;
    *) usage_error "unknown command '$command'" ;;
  esac
}

main "$@"
