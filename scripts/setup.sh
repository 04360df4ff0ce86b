#!/usr/bin/env bash
# Sets up the checkout: uv in .tools, Python packages in .venv, and the system packages that lack.
# May run at any time: what is there already is left alone.
#
#   scripts/setup.sh            the packages of the product and of its tests, in .venv
#   scripts/setup.sh services   the same, and the services that the demo and the tests start
#   scripts/setup.sh tests      the same as with services, Prometheus, and registries that are built where Go 1.26 or later is
#   scripts/setup.sh image      the same, and what makes a base for the image where Docker Hub is out of reach
#   scripts/setup.sh browser    the same as with services, and the browser that shows Flower's pages
#   scripts/setup.sh docs       the same, and what builds the documentation's site, in .tools/docs-venv
#   scripts/setup.sh lock       the same, and requirements.lock and scripts/docs.lock written anew
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# install PROGRAM=PACKAGE...: the packages whose programs are not on the PATH.
install() {
    local lacking=() pair
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null 2>&1 || [ -x "/usr/sbin/${pair%%=*}" ] || lacking+=("${pair#*=}")
    done
    [ ${#lacking[@]} -gt 0 ] || return 0
    local root=()
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || die "lacking, and no right to install: run  apt-get install ${lacking[*]}"
        root=(sudo -n)
    fi
    command -v apt-get >/dev/null 2>&1 || die "lacking, and no apt-get here: install ${lacking[*]}"
    say "installing ${lacking[*]}"
    # RUNLEVEL=1 keeps the packages from starting services of their own: ours are started where they are needed.
    "${root[@]}" env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive sh -c \
        'apt-get update -qq && apt-get install -o DPkg::Lock::Timeout=300 -y -qq --no-install-recommends "$@" >/dev/null' \
        sh "${lacking[@]}" \
        || die "apt-get failed: run  apt-get install ${lacking[*]}"
}

python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

if ! interpreter=$(python); then
    install no-python3-with-venv=python3 no-python3-with-venv=python3-venv
    interpreter=$(python) || die "Python 3.11 or newer with venv is needed: install python3 and python3-venv"
fi

if [ ! -x .tools/bin/uv ]; then
    say "installing uv into .tools"
    "$interpreter" -m venv .tools
    .tools/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir uv
fi

# A network may sign with a certificate of its own: believe whom the system believes, as pip does.
[ ! -s /etc/ssl/certs/ca-certificates.crt ] || export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}"

export UV_CACHE_DIR="${UV_CACHE_DIR:-$PWD/.tools/cache}" # nothing outside the checkout

# environment FOLDER LOCK: a virtual environment with exactly the packages of a lock file.
environment() {
    local stamp=$1/.installed wanted
    wanted=$(cat "$2" pyproject.toml | sha256sum)
    [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ] || return 0
    say "installing the locked packages into $1"
    [ -x "$1/bin/python" ] || .tools/bin/uv venv --quiet --python "$interpreter" "$1"
    .tools/bin/uv pip sync --quiet --require-hashes --python "$1" "$2"
    [ "$1" != .venv ] || .tools/bin/uv pip install --quiet --no-deps --python .venv --editable .
    printf '%s' "$wanted" > "$stamp"
}

environment .venv requirements.lock

# build_registries: registries for the tests that no package has, each in a folder of .tools. Skipped, and said, without Go.
build_registries() {
    local go=$PWD/.tools/go version
    [ ! -x .tools/distribution/registry ] || [ ! -x .tools/olareg/registry ] || [ ! -x .tools/ggcr/registry ] || return 0
    version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || version=none
    if [ "$version" = none ] || ! printf 'go1.26\n%s\n' "$version" | sort -VC; then
        say "no Go 1.26 or later ($version): the tests on distribution 3, olareg and go-containerregistry will be skipped"
        return 0
    fi
    build_registry olareg github.com/olareg/olareg v0.2.2 /cmd/olareg
    build_registry ggcr github.com/google/go-containerregistry v0.22.1 <<-'GO'
	package main

	import (
		"log"
		"net/http"
		"os"

		"github.com/google/go-containerregistry/pkg/registry"
	)

	func main() {
		log.Fatal(http.ListenAndServe(os.Args[1], registry.New(registry.WithReferrersSupport(true))))
	}
	GO
    # The storage and the logins that the tests use are all it has: the drivers of clouds take most of the time to build.
    build_registry distribution github.com/distribution/distribution/v3 v3.1.2 <<-'GO'
	package main

	import (
		"os"

		"github.com/distribution/distribution/v3/registry"
		_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
		_ "github.com/distribution/distribution/v3/registry/auth/token"
		_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	)

	func main() {
		if registry.RootCmd.Execute() != nil {
			os.Exit(1)
		}
	}
	GO
    rm -rf "$go"
}

# build_registry NAME MODULE VERSION [COMMAND]: one in .tools/NAME/registry: the module's own command, else the main.go on
# standard input.
build_registry() {
    local built=.tools/$1/registry log=$PWD/.tools/$1/build.log source=$go/$1 package=${4:+$2$4}
    [ ! -x "$built" ] || return 0
    say "building $1 $3 for the tests"
    mkdir -p "$source" "${built%/*}"
    [ -n "$package" ] || cat > "$source/main.go"
    (
        cd "$source"
        export GOTOOLCHAIN=local GOFLAGS="-mod=mod -modcacherw" GOPATH=$go/path GOCACHE=$go/cache CGO_ENABLED=0
        go mod init stagefleet/registry &&
            go mod edit -require "$2@$3" &&
            go build -ldflags "-s -w" -o registry "${package:-.}"
    ) >"$log" 2>&1 || { say "$1 was not built, see $log: its tests will be skipped"; return 0; }
    mv "$source/registry" "$built"
}

services=(docker-registry=docker-registry dockerd=docker.io busybox=busybox-static curl=curl jq=jq skopeo=skopeo)
case "${1:-}" in
    services) install "${services[@]}" ;;
    tests)
        install "${services[@]}" prometheus=prometheus sshd=openssh-server
        build_registries
        ;;
    image) install "${services[@]}" mmdebstrap=mmdebstrap ;;
    browser) install "${services[@]}" chromium=chromium chromedriver=chromium-driver pngquant=pngquant ;;
    docs) environment .tools/docs-venv scripts/docs.lock ;;
    lock)
        compile=(.tools/bin/uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url
            --custom-compile-command "make lock")
        "${compile[@]}" --group dev --extra all pyproject.toml -o requirements.lock
        "${compile[@]}" --group docs -o scripts/docs.lock
        ;;
esac
