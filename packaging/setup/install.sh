# shellcheck shell=bash
# What `./setup.sh install` does: system packages, Kafka's jars, the virtual environment. Sourced by setup.sh.
# Everything is looked at first: when nothing is missing, nothing is run, no sudo asked for and nothing changed.

OLD_VENV=$STATE/venv.before # the environment that a new one replaces, until the new one is complete
VENV_WORK=''                # set while .venv is incomplete

python_is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local name names=(python3 python3.13 python3.12 python3.11)
  [ -z "${YADTQ_SETUP_PYTHON:-}" ] || names=("$YADTQ_SETUP_PYTHON") # that one or none
  for name in "${names[@]}"; do
    if python_is_new_enough "$name"; then
      PYTHON=$("$name" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))') # not a venv's: it may go
      return 0
    fi
  done
  return 1
}

# Java of at least 17, Redis of at least 7: asked of the module that starts them, so that both always agree
server_ready() { "$PYTHON" packaging/setup/local_servers.py "$1" >/dev/null 2>&1; }

java_package() {
  local name
  for name in openjdk-21-jre-headless openjdk-17-jre-headless openjdk-25-jre-headless; do
    if apt-cache show "$name" >/dev/null 2>&1; then
      echo "$name"
      return
    fi
  done
  echo default-jre-headless
}

missing_packages() {
  if ! "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
    "$PYTHON" -c 'import sys; print("python3-venv" if sys.executable == "/usr/bin/python3" else "python3.%d-venv" % sys.version_info[1])'
  fi
  if [ -n "$CLIENT_ONLY" ]; then return; fi
  server_ready redis || echo redis-server
  server_ready java || java_package
  if [ ! -d "$(packaging/kafka/fetch.sh path)" ]; then
    command -v mvn >/dev/null || echo maven
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
  fi
}

as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n -- "$@"; fi; }

install_system_packages() {
  local packages=() name
  while read -r name; do packages+=("$name"); done < <(missing_packages)
  if [ "${#packages[@]}" -eq 0 ]; then
    done_line 'System packages: nothing is missing'
    return
  fi
  local title="Installing system packages: ${packages[*]}"
  local by_hand="apt-get update && apt-get install --no-install-recommends ${packages[*]}"
  command -v apt-get >/dev/null || fail "$title" "this system has no apt-get" \
    "install what these Debian packages hold with the package manager of this system (Java 17 or newer, Redis 7 or newer, Maven, Python's venv), then run this again"
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "$title" "you are not root, and there is no sudo" \
      "have an administrator run: $by_hand"
    if ! sudo -n true 2>/dev/null; then
      say "${BOLD}sudo is needed to install system packages (${packages[*]}), and for nothing else.${PLAIN}"
      { [ -t 0 ] && sudo -v; } || fail "$title" "sudo refused, or wants a password and there is no terminal to ask for it" \
        "run this in a terminal, or have an administrator run: $by_hand"
    fi
  fi
  step "$title" packages "look at apt's message above; '$by_hand' as root does the same by hand" \
    as_root bash "$ROOT/packaging/setup/apt_install.sh" "${packages[@]}"
  case " ${packages[*]} " in *' redis-server '*)
    note "redis-server's system service was left off: a checkout runs its own. 'systemctl enable --now redis-server' turns it on." ;;
  esac
  server_ready redis || fail "$title" "Redis 7 or newer is needed, and this system's packages have an older one" \
    "use Debian 12 or Ubuntu 24.04 or newer, or put a newer redis-server on the PATH"
}

install_kafka() {
  if packaging/kafka/fetch.sh verify 2>/dev/null; then
    done_line "Kafka: its jars are there and have their checksums"
    return
  fi
  local folder
  folder=$(packaging/kafka/fetch.sh path)
  if [ -d "$folder" ]; then
    note "a jar in $folder is not what was installed: fetching all of them again"
    rm -rf -- "$folder"
  fi
  step "Fetching Kafka with Maven and verifying its checksums" kafka \
    "check that Maven reaches its repository (a mirror or proxy belongs into ~/.m2/settings.xml), then run this again" \
    packaging/kafka/fetch.sh
}

digest() { "$PYTHON" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'; }

# what the environment was made from: a change of the first line makes it anew, of the second only installs the checkout anew
venv_inputs() {
  {
    echo "$ROOT ${CLIENT_ONLY:-all}"
    "$PYTHON" -c 'import sys; print(sys.base_prefix, sys.version)' # not its path: it has several names
    cat requirements/build.txt requirements/runtime.txt requirements/dev.txt
  } | digest
  cat pyproject.toml client/pyproject.toml | digest
}

pip_install() {
  .venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off "$@"
}

make_venv() {
  "$PYTHON" -m venv .venv
  pip_install --require-hashes -r requirements/build.txt
  if [ -n "$CLIENT_ONLY" ]; then
    pip_install --require-hashes --no-build-isolation -r requirements/runtime.txt
  else
    pip_install --require-hashes --no-build-isolation -r requirements/runtime.txt -r requirements/dev.txt
  fi
}

install_checkout() {
  if [ -n "$CLIENT_ONLY" ]; then
    pip_install --no-deps --no-build-isolation -e ./client
  else
    pip_install --no-deps --no-build-isolation -e ./client -e .
  fi
}

install_venv() {
  local stamp=.venv/.made-by-setup wanted cure
  cure="check that pip reaches its package index ('python3 -m pip config list' shows what it is set to), then run this again"
  wanted=$(venv_inputs)
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && .venv/bin/python -c 'import yadtq' 2>/dev/null; then
    done_line 'Python environment: .venv is up to date'
    return
  fi
  if [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "${wanted%%$'\n'*}" ] && .venv/bin/python -c '' 2>/dev/null; then
    step 'Installing this checkout into .venv' python "$cure" install_checkout
  else
    case "$("$PYTHON" packaging/setup/local_stack.py status 2>/dev/null || true)" in *'yadtqd  running'*)
      fail 'Making the Python environment (.venv) anew, since the locked requirements have changed' \
        'the yadtqd of this checkout is running from it' "end it with './setup.sh down', then run this again" ;;
    esac
    mkdir -p "$STATE"
    rm -rf -- "$OLD_VENV"
    [ ! -e .venv ] || mv -- .venv "$OLD_VENV"
    VENV_WORK=yes
    step 'Making the Python environment (.venv) from the locked requirements' python "$cure" make_venv
    step 'Installing this checkout into .venv' python-checkout "$cure" install_checkout
  fi
  printf '%s\n' "$wanted" >"$stamp"
  VENV_WORK=''
  rm -rf -- "$OLD_VENV"
}

# the end of setup.sh, however it came: no environment that is half made
undo_half_made() {
  [ -n "$VENV_WORK" ] || [ ! -e .venv ] || return 0
  rm -rf -- .venv
  [ ! -e "$OLD_VENV" ] || mv -- "$OLD_VENV" .venv
}

install_all() {
  local python=${YADTQ_SETUP_PYTHON:-python3}
  find_python || fail 'Looking for Python' "Python 3.11 or newer is needed; $python here is: $(
    command -v "$python" >/dev/null && "$python" --version 2>&1 || echo missing)" \
    "${YADTQ_SETUP_PYTHON:+name another one in YADTQ_SETUP_PYTHON, or unset it; }use Debian 12 or Ubuntu 24.04 or newer, or put a newer python3 on the PATH (macOS: brew install python@3.12)"
  if [ "$(uname -s)" = Darwin ] && [ -z "$CLIENT_ONLY" ]; then
    note 'macOS: only the client library is installed here (as with --client-only); Kafka, Redis and yadtqd run on Linux.'
    CLIENT_ONLY=client
  fi
  install_system_packages
  [ -n "$CLIENT_ONLY" ] || install_kafka
  install_venv
}
