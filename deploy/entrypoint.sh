#!/bin/sh
# Starts `stagefleet` with the arguments of the container, but for a program that is named in full: GitLab, GitHub and
# Jenkins start the containers of their jobs with a shell, `tail` or `cat`, whatever the entrypoint is.
#
#   docker run stagefleet copy SRC DST      stagefleet copy SRC DST
#   docker run stagefleet sh -c 'date'      sh -c 'date'
#   docker run stagefleet                   stagefleet worker (the image's CMD)
set -eu

case "${1-}" in
    "" | -*) exec stagefleet "$@" ;;
esac
if command -v -- "$1" >/dev/null 2>&1; then
    exec "$@"
fi
exec stagefleet "$@"
