#!/usr/bin/env bash
# Installs the Debian packages that the tests need, as root with apt-get; elsewhere names what is missing.
# ENGINES, a list of engine names, limits them to what those engines need.
set -euo pipefail

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
engines=" ${ENGINES:-podman podman-rootless docker bwrap} "

# command or file, Debian package, the engines that need it (none: every test run does)
readonly REQUIREMENTS='
sshd             openssh-server
ssh              openssh-client
sshpass          sshpass
ps               procps
podman           podman                     podman podman-rootless
runc             runc                       podman podman-rootless
/usr/lib/cni     containernetworking-plugins podman
newuidmap        uidmap                     podman-rootless
slirp4netns      slirp4netns                podman-rootless
fuse-overlayfs   fuse-overlayfs             podman-rootless
dockerd          docker.io                  docker
docker           docker.io                  docker
iptables         iptables                   podman docker
mmdebstrap       mmdebstrap                 podman podman-rootless docker
docker-registry  docker-registry            podman podman-rootless docker
bwrap            bubblewrap                 bwrap
'

wanted() {
    local engine
    (($#)) || return 0
    for engine in "$@"; do
        [[ $engines != *" $engine "* ]] || return 0
    done
    return 1
}

present() {
    case $1 in
        /*) [[ -e $1 ]] ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

missing_packages() {
    local probe package users
    while read -r probe package users; do
        # shellcheck disable=SC2086
        if [[ -n $probe ]] && wanted $users && ! present "$probe"; then
            echo "$package"
        fi
    done <<<"$REQUIREMENTS" | sort -u
    # A kernel with AppArmor makes docker load a profile.
    if [[ $(cat /sys/module/apparmor/parameters/enabled 2>/dev/null) == Y ]] && wanted docker && ! present apparmor_parser; then
        echo apparmor
    fi
}

# Installing a server must not start it: the tests start what they need, on loopback.
hold_services() {
    local policy=/usr/sbin/policy-rc.d
    [[ ! -e $policy ]] || return 0
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    trap "rm -f $policy" EXIT
}

mapfile -t missing < <(missing_packages)
((${#missing[@]})) || exit 0

command="apt-get install --no-install-recommends ${missing[*]}"
if ((EUID)) || ! command -v apt-get >/dev/null; then
    printf 'The tests need packages that are missing here: %s\n' "${missing[*]}" >&2
    printf 'Install them as root (Debian): %s\n' "$command" >&2
    printf 'Or leave engines out, for example: make engines ENGINES="bwrap local"\n' >&2
    exit 1
fi

printf 'Installing packages: %s\n' "${missing[*]}"
hold_services
export DEBIAN_FRONTEND=noninteractive
apt-get -q -o DPkg::Lock::Timeout=300 update </dev/null
apt-get -q -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "${missing[@]}" </dev/null
