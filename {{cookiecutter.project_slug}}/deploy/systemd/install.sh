#!/bin/sh
# Installs the service into /opt/<name>, with its own user, systemd unit and log rotation. Run it again to update the
# code. It does not start the service. <name> is the argument; default: the project's name.
set -eu
LC_ALL=C
export LC_ALL
cd "$(dirname "$0")/../.."
name=${1:-$(sed -n 's/^name = "\(.*\)"$/\1/p' pyproject.toml | head -n 1)}
home=/opt/$name
fail() {
    echo "$1" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "Only root can install the service: run sudo env \"PATH=\$PATH\" sh $0"
uv=$(command -v uv) || fail "There is no uv on root's PATH: install it, and keep PATH with sudo env \"PATH=\$PATH\"."
command -v systemctl >/dev/null || fail "There is no systemctl: this script needs a host with systemd."
case $name in
    [!a-z]* | *[!a-z0-9-]* | ????????????????????????????????*)
        fail "The name $name is invalid: choose a name of 1 to 31 lower-case letters, digits and hyphens that begins \
with a letter." ;;
esac

# Without the marker file of an earlier run, everything that already has this name belongs to something else.
if [ ! -e "$home/.installed" ]; then
    taken="The name $name is taken: choose another one. There is already"
    for path in "$home" "/etc/logrotate.d/$name" "/var/log/$name" "/var/lib/$name" "/etc/systemd/system/$name.service" \
        "/lib/systemd/system/$name.service" "/usr/lib/systemd/system/$name.service"; do
        [ ! -e "$path" ] || fail "$taken $path."
    done
    ! systemctl cat "$name.service" >/dev/null 2>&1 || fail "$taken a unit of that name."
    ! getent passwd "$name" >/dev/null || fail "$taken a user of that name."
    ! getent group "$name" >/dev/null || fail "$taken a group of that name."
fi

# All files belong to root; the service can only read them.
umask 022
mkdir -p "$home/releases"
exec 9>"$home/.installed"
flock -n 9 || fail "Another install.sh is running for $name: wait until it has finished."
id -u "$name" >/dev/null 2>&1 || useradd --system --user-group --no-create-home --shell /usr/sbin/nologin "$name"

# Each release has its own folder. The current release is not changed before the new one is complete.
release=$home/releases/$(date -u +%Y%m%d-%H%M%S)-$$
mkdir "$release"
trap 'rm -rf "$release"' EXIT
trap 'exit 1' HUP INT TERM
cp -R app gun.py log_config.json pyproject.toml uv.lock "$release/"
# The system's Python, not one in a home directory. If it is missing or too old, uv installs one into .python.
(cd "$release" && PATH=/usr/local/bin:/usr/bin:/bin UV_PYTHON_PREFERENCE=system UV_PYTHON_INSTALL_DIR="$home/.python" \
    UV_PROJECT_ENVIRONMENT="$release/.venv" UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy \
    "$uv" sync --quiet --locked --no-dev)
python=$(readlink -f "$release/.venv/bin/python")
case $python in
    /home/* | /root/* | /run/user/* | /tmp/* | /var/tmp/*)
        fail "The service would have no access to its Python, $python: install one for the whole host, or remove the \
link to it from /usr/local/bin, and unset UV_PYTHON." ;;
esac
"$release/.venv/bin/python" -m compileall -q "$release/app" "$release/gun.py"
chmod -R u=rwX,go=rX "$release"
[ ! -d "$home/.python" ] || chmod -R u=rwX,go=rX "$home/.python"

# The links are replaced atomically, so each start finds either the old release or the new one. The old release is kept
# for a rollback.
old=$(readlink "$home/current") || old=
replace_link() {
    rm -f "$home/$1.new"
    ln -s "$2" "$home/$1.new"
    mv -T "$home/$1.new" "$home/$1"
}
[ -z "$old" ] || replace_link previous "$old"
trap - EXIT
replace_link current "$release"

[ -e "/etc/$name.env" ] || install -m 600 /dev/null "/etc/$name.env"
install -m 644 deploy/systemd/service.service "/etc/systemd/system/$name.service"
sed "s/service/$name/g" deploy/systemd/service.logrotate >"/etc/logrotate.d/$name"
systemctl daemon-reload
systemctl enable --quiet "$name"
# The failed starts of an earlier release must not count towards the start limit of this one.
systemctl reset-failed "$name" 2>/dev/null || true

# The running process may use a release that is older than both; it is kept too.
running=$(readlink "/proc/$(systemctl show --property=MainPID --value "$name")/cwd") || running=
for one in "$home/releases"/*; do
    case $one in
        "$release" | "$old" | "$running") ;;
        *) rm -rf "$one" ;;
    esac
done
echo "Settings are in /etc/$name.env. Next: systemctl restart $name"
