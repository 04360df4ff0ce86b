#!/bin/sh
# Make what the fleet's own services need to trust one another: passwords for Redis and Flower, certificates for Redis
# from an authority of their own, and the settings files that tell workers, commands and Flower of them.
#
#   deploy/secrets.sh [FOLDER [HOST...]]
#
# FOLDER: deploy/secrets if none is named, where compose.yaml looks; deploy/kubernetes/secrets for Kubernetes.
# HOST: further names under which clients reach this Redis; `redis` and `localhost` are always among them.
#
# Settings of your own, projects for instance, stand in deploy/stagefleet.toml if there is one: they become part of the
# settings files. Run this again after a change.
#
# What is there stays as it is: to renew something, remove its file and run this again. Nothing is printed, and nothing
# stands in a process's arguments or environment.
set -eu
umask 077

case "${1-}" in
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    -*) echo "secrets.sh: unknown option $1: see secrets.sh --help" >&2; exit 2 ;;
esac
command -v openssl >/dev/null 2>&1 || { echo "secrets.sh: openssl is needed: install it" >&2; exit 2; }

own_settings=$(cd "$(dirname "$0")" && pwd)/stagefleet.toml
folder=${1:-$(dirname "$0")/secrets}
[ $# -eq 0 ] || shift
days=3650 # the authority's; a server's certificate lives for one

mkdir -p "$folder"
chmod 700 "$folder" # the files are for the users of the containers: this keeps the host's other users out
cd "$folder"

# password FILE: random, and safe in a URL and a configuration file.
password() {
    [ -s "$1" ] || openssl rand -hex 24 >"$1"
}

password redis-password
password flower-password

if [ ! -s redis-ca.pem ] || [ ! -s redis-ca.key ]; then
    rm -f redis.pem
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days $days \
        -subj "/CN=stagefleet redis authority" -keyout redis-ca.key -out redis-ca.pem 2>/dev/null
fi
if [ ! -s redis.pem ] || [ ! -s redis.key ] || ! openssl x509 -in redis.pem -noout -checkend 2592000 >/dev/null; then
    names="DNS:redis,DNS:localhost,IP:127.0.0.1"
    for host in "$@"; do
        names="$names,DNS:$host"
    done
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=redis" \
        -keyout redis.key -out redis.csr 2>/dev/null
    printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth\n' "$names" >redis.ext
    openssl x509 -req -in redis.csr -CA redis-ca.pem -CAkey redis-ca.key -CAcreateserial -days 365 \
        -extfile redis.ext -out redis.pem 2>/dev/null
    rm -f redis.csr redis.ext redis-ca.srl
fi

# No plain port; the ledger lives here, so it must survive a restart and never evict.
{
    echo "# written by deploy/secrets.sh"
    echo "port 0"
    echo "tls-port 6379"
    echo "tls-cert-file /run/secrets/redis.pem"
    echo "tls-key-file /run/secrets/redis.key"
    echo "tls-ca-cert-file /run/secrets/redis-ca.pem"
    echo "tls-auth-clients no"
    echo "requirepass $(cat redis-password)"
    echo "appendonly yes"
    echo "maxmemory-policy noeviction"
    echo "dir /data"
} >redis.conf.new
mv -f redis.conf.new redis.conf

# settings FILE [LINE...]: the settings of workers and commands, or of Flower with its login.
settings() {
    file=$1
    shift
    {
        echo "# written by deploy/secrets.sh"
        echo "redis_url = \"rediss://:$(cat redis-password)@redis:6379/0?ssl_ca_certs=/run/secrets/redis-ca.pem\""
        for line in "$@"; do echo "$line"; done
        if [ -f "$own_settings" ]; then cat "$own_settings"; fi
    } >"$file.new"
    mv -f "$file.new" "$file"
}

settings stagefleet.toml
settings flower.toml 'flower.user = "flower"' "flower.password = \"$(cat flower-password)\""

chmod 444 redis.conf redis.pem redis.key redis-ca.pem redis-password stagefleet.toml flower.toml
chmod 400 redis-ca.key flower-password
