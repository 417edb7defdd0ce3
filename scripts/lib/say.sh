# shellcheck shell=bash
# Sourced: announces the phases of a run, each with its duration.

# phase TITLE COMMAND [ARGUMENT...]: runs a command under a heading. A failure ends the script, naming the phase.
# The command is not in a condition here, or `set -e` would not hold in functions.
phase() {
  phase=$1
  phase_began=$SECONDS
  shift
  printf '\n==> %s\n' "$phase"
  "$@"
  printf '==> %s: %d s\n' "$phase" "$((SECONDS - phase_began))"
  phase=
}

phase=
trap 'test -z "$phase" || printf "==> %s: FAILED after %d s\n" "$phase" "$((SECONDS - phase_began))" >&2' EXIT
