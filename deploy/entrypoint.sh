#!/bin/sh
# Start `stagefleet` with the arguments of the container, unless the first one is a program: GitLab and Jenkins start the
# containers of their jobs with a shell or `cat`, and keep the entrypoint.
#
#   docker run stagefleet copy SRC DST      stagefleet copy SRC DST
#   docker run stagefleet sh -c 'date'      sh -c 'date'
#   docker run stagefleet                   stagefleet worker (the image's CMD)
set -eu

# is_program NAME: a file to execute, by its path or on PATH. `command -v` would also name what only a shell knows, which
# `exec` cannot start.
is_program() {
    case "$1" in
        */*) [ -f "$1" ] && [ -x "$1" ]; return ;;
    esac
    rest=$PATH:
    while [ -n "$rest" ]; do
        folder=${rest%%:*}
        rest=${rest#*:}
        if [ -n "$folder" ] && [ -f "$folder/$1" ] && [ -x "$folder/$1" ]; then return 0; fi
    done
    return 1
}

if is_program "${1-}"; then
    exec "$@"
fi
exec stagefleet "$@"
