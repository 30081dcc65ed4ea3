# shellcheck shell=bash
# What `./setup.sh test` and `test-deploy` run: every check of the code, then pytest; real hosts. Sourced by setup.sh.

# shell_scripts: every tracked or new shell file
shell_scripts() {
  find . -path ./.venv -prune -o -path ./.yadtq -prune -o -path ./.git -prune -o -name '*.sh' -print
  echo .ci/run
  echo systemd/kafka-await-ready
}

run_shellcheck() {
  local files=() name
  while read -r name; do files+=("$name"); done < <(shell_scripts)
  .venv/bin/shellcheck -x "${files[@]}"
}

# check TITLE COMMAND...: unlike a step it does not end the run: one look shows all that is wrong
check() {
  local title=$1 start=$SECONDS log
  shift
  log=$LOGS/check.log
  if "$@" >"$log" 2>&1 </dev/null; then
    done_line "$title ($((SECONDS - start)) s)"
  else
    printf '%sFAILED%s  %s\n' "$RED" "$PLAIN" "$title"
    sed 's/^/  | /' "$log"
    CHECKS_FAILED="${CHECKS_FAILED:+$CHECKS_FAILED, }$title"
  fi
}

command_test() {
  install_all
  CHECKS_FAILED=''
  mkdir -p "$LOGS"
  check ruff .venv/bin/ruff check .
  check 'mypy --strict' .venv/bin/mypy
  check shellcheck run_shellcheck
  local status=0
  if [ -n "${CI:-}" ] || [ ! -t 1 ]; then export PY_COLORS=0; fi
  # Most tests wait for a server or a process most of the time; a file's tests stay together, and share its servers.
  .venv/bin/python -m pytest -n 2 --dist loadfile "$@" || status=$?
  if [ -n "$CHECKS_FAILED" ]; then
    printf '%sFAILED%s  %s (see above)\n' "$RED" "$PLAIN" "$CHECKS_FAILED" >&2
    status=1
  fi
  return "$status"
}

command_test_deploy() {
  install_all
  step 'Ansible into .venv' ansible "check that pip reaches its package index" \
    pip_install --require-hashes -r requirements/deploy.txt
  # as root, who must not leave files in the checkout that its owner can't remove
  as_root env PYTHONDONTWRITEBYTECODE=1 .venv/bin/python -m tests.deploy "$@"
}
