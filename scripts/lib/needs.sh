# shellcheck shell=bash
# Sourced: gets what the tests need onto a Debian machine. Each function does nothing if all is there, and fails if it
# cannot be had. What is not a Debian package goes below $target/e2e, but for cargo-deny, which goes where cargo installs.
# The script that sources this sets $scripts (this folder's parent) and $target (cargo's).
# shellcheck disable=SC2154

deny_version=0.20.2

as_root() {
  if ((EUID == 0)); then "$@"; else sudo --preserve-env=PATH,CI,LARDER_BIN,LARDER_HUB_BIN,LARDER_TRIXIE "$@"; fi
}

# with_root_tests CARGO...: cargo as who we are, and the tests that it builds as root.
with_root_tests() {
  local triple
  triple=$(rustc --version --verbose | sed --quiet 's/^host: //p')
  if ((EUID == 0)); then "$@"; else env "CARGO_TARGET_$(tr a-z- A-Z_ <<<"$triple")_RUNNER=sudo --preserve-env" "$@"; fi
}

# need_packages PACKAGE...: Debian packages. Their services are neither started now nor at the next boot: the tests
# start what they need themselves, and docker-registry would take a port.
need_packages() {
  local package missing=()
  for package; do
    is_installed "$package" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  echo "installing ${missing[*]}"
  as_root apt-get --quiet=2 update
  as_root bash "$scripts/lib/install-quietly.sh" "${missing[@]}"
}

is_installed() {
  [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# need_cargo_deny: compiled from its crate.
need_cargo_deny() {
  cargo deny --version >/dev/null 2>&1 || cargo install --quiet --locked --version "$deny_version" cargo-deny
}

# need_python: the packages of tests/e2e/requirements.txt in $target/e2e/venv, made anew when that file has changed.
need_python() {
  local wanted=tests/e2e/requirements.txt venv=$target/e2e/venv
  cmp --silent "$wanted" "$venv/installed.txt" && return 0
  need_packages python3 python3-venv
  # Debian's own Python, whatever else PATH may offer: the versions in the file are for it.
  /usr/bin/python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --requirement "$wanted"
  cp "$wanted" "$venv/installed.txt"
}

# need_trixie PACKAGE...: packages of trixie, Debian's stable release, unpacked below $target/e2e/trixie/root and not
# installed. They must depend on no more than the running system has.
need_trixie() {
  local apt=$target/e2e/trixie codename archive package
  local root=$apt/root
  [[ $(cat "$apt/unpacked" 2>/dev/null) == "$*" ]] && return 0
  # The archive that this machine uses already, with another suite.
  as_root apt-get --quiet=2 update
  codename=$(source /etc/os-release && echo "$VERSION_CODENAME")
  # shellcheck disable=SC2016 # apt fills these in
  archive=$(apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' 'Origin: Debian' "Codename: $codename" 'Component: main')
  rm --recursive --force "$apt"
  mkdir --parents "$apt"/{lists/partial,cache/archives/partial,debs} "$root"
  : >"$apt/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive trixie main" >"$apt/sources.list"
  cat >"$apt/apt.conf" <<CONF
Dir::State "$apt";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "-";
Acquire::Languages "none";
APT::Sandbox::User "root";
CONF
  APT_CONFIG=$apt/apt.conf apt-get --quiet=2 update
  (cd "$apt/debs" && APT_CONFIG=$apt/apt.conf apt-get --quiet=2 download "$@")
  for package in "$apt"/debs/*.deb; do
    dpkg-deb --extract "$package" "$root"
  done
  echo "$*" >"$apt/unpacked"
}
