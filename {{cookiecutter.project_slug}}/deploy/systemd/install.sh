#!/bin/sh
# Puts the service into /opt/<name> with a user, a unit and a rotation of its own; run again, it brings new code.
# It starts nothing. <name> is the argument, else the project's name.
set -eu
LC_ALL=C
export LC_ALL
cd "$(dirname "$0")/../.."
name=${1:-$(sed -n 's/^name = "\(.*\)"$/\1/p' pyproject.toml | head -n 1)}
home=/opt/$name
stop() {
    echo "$1" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || stop "Only root may install the service: sudo env \"PATH=\$PATH\" sh $0"
uv=$(command -v uv) || stop "There is no uv on root's PATH: install it, and pass PATH on with sudo env \"PATH=\$PATH\"."
command -v systemctl >/dev/null || stop "There is no systemctl: this is for a host with systemd."
case $name in
    [!a-z]* | *[!a-z0-9-]* | ????????????????????????????????*)
        stop "The name $name cannot be that of a user and a unit: give another one as the argument, of 1 to 31 \
lower-case letters, digits and hyphens, with a letter first." ;;
esac

# Nothing is taken over: what has the name already must be from an earlier run, which has left its mark.
if [ ! -e "$home/.installed" ]; then
    other="The name $name is taken: give another one as the argument. There is"
    for path in "$home" "/etc/logrotate.d/$name" "/var/log/$name" "/var/lib/$name" "/etc/systemd/system/$name.service" \
        "/lib/systemd/system/$name.service" "/usr/lib/systemd/system/$name.service"; do
        [ ! -e "$path" ] || stop "$other already $path."
    done
    ! systemctl cat "$name.service" >/dev/null 2>&1 || stop "$other already a unit of that name."
    ! getent passwd "$name" >/dev/null || stop "$other already a user of that name."
    ! getent group "$name" >/dev/null || stop "$other already a group of that name."
fi

# Everything belongs to root; the service can read it, and change nothing.
umask 022
mkdir -p "$home/releases"
exec 9>"$home/.installed"
flock -n 9 || stop "Another install.sh is at work for $name: wait for its end."
id -u "$name" >/dev/null 2>&1 || useradd --system --user-group --no-create-home --shell /usr/sbin/nologin "$name"

# A release is a folder of its own: until it is complete, the one in use stays as it is.
release=$home/releases/$(date -u +%Y%m%d-%H%M%S)-$$
mkdir "$release"
trap 'rm -rf "$release"' EXIT
trap 'exit 1' HUP INT TERM
cp -R app gun.py log_config.json pyproject.toml uv.lock "$release/"
# The system's Python, not that of somebody's home; where it is none or too old, uv fetches one into .python.
(cd "$release" && PATH=/usr/local/bin:/usr/bin:/bin UV_PYTHON_PREFERENCE=system UV_PYTHON_INSTALL_DIR="$home/.python" \
    UV_PROJECT_ENVIRONMENT="$release/.venv" UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy \
    "$uv" sync --quiet --locked --no-dev)
python=$(readlink -f "$release/.venv/bin/python")
case $python in
    /home/* | /root/* | /run/user/* | /tmp/* | /var/tmp/*)
        stop "The service could not see its Python, $python: install one for the whole host, or remove the link to it \
from /usr/local/bin, and unset UV_PYTHON." ;;
esac
"$release/.venv/bin/python" -m compileall -q "$release/app" "$release/gun.py"
chmod -R u=rwX,go=rX "$release"
[ ! -d "$home/.python" ] || chmod -R u=rwX,go=rX "$home/.python"

# At one moment: whoever starts has the old release or the new one. The old one stays, for a way back.
old=$(readlink "$home/current") || old=
point() {
    rm -f "$home/$1.new"
    ln -s "$2" "$home/$1.new"
    mv -T "$home/$1.new" "$home/$1"
}
[ -z "$old" ] || point previous "$old"
trap - EXIT
point current "$release"

[ -e "/etc/$name.env" ] || install -m 600 /dev/null "/etc/$name.env"
install -m 644 deploy/systemd/service.service "/etc/systemd/system/$name.service"
sed "s/service/$name/g" deploy/systemd/service.logrotate >"/etc/logrotate.d/$name"
systemctl daemon-reload
systemctl enable --quiet "$name"
# A release that could not start shall not use up the attempts of this one.
systemctl reset-failed "$name" 2>/dev/null || true

# What runs may be older than both.
running=$(readlink "/proc/$(systemctl show --property=MainPID --value "$name")/cwd") || running=
for one in "$home/releases"/*; do
    case $one in
        "$release" | "$old" | "$running") ;;
        *) rm -rf "$one" ;;
    esac
done
echo "Settings are in /etc/$name.env. Next: systemctl restart $name"
