"""How a machine starts its part of a deployment: by hand, with systemd, or in a container."""

from __future__ import annotations

from textwrap import dedent

HOME = "/opt/fedmac"
"""Where the systemd units expect the environment (``venv/``) and the machine's folder."""


def start_script(words: str) -> str:
    """A shell script that runs ``fedmac deploy`` with `words` in its own folder."""
    return dedent(
        f"""\
        #!/bin/sh
        # Options go after the name: ./start.sh --help
        cd "$(dirname "$0")" || exit
        exec fedmac deploy {words} . "$@"
        """
    )


def systemd_unit(part: str, words: str) -> str:
    """A unit that keeps a part of the deployment running; `words` follow ``fedmac deploy``.

    The service sees its own folder and little else. It ends with SIGTERM, which is no failure.
    """
    return dedent(
        f"""\
        [Unit]
        Description=FedMAC {part}
        After=network-online.target
        Wants=network-online.target

        [Service]
        User=fedmac
        WorkingDirectory={HOME}
        ExecStart={HOME}/venv/bin/fedmac deploy {words} {HOME}/{part}
        Restart=always
        RestartSec=10
        KillSignal=SIGTERM
        TimeoutStopSec=30
        SuccessExitStatus=143
        NoNewPrivileges=yes
        PrivateTmp=yes
        ProtectHome=yes
        ProtectSystem=strict
        ReadWritePaths={HOME}
        RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX

        [Install]
        WantedBy=multi-user.target
        """
    )


def compose_file(part: str, words: str, port: int | None = None) -> str:
    """A docker compose file for a machine's folder; `port` is published if given."""
    published = f'    ports: ["{port}:{port}"]\n' if port is not None else ""
    return (
        "# docker compose up -d; the image is made from FedMAC's repository, see docs/deployment.md\n"
        "services:\n"
        f"  {part}:\n"
        "    image: ${FEDMAC_IMAGE:-fedmac}\n"
        f'    command: ["deploy", "{words}", "/deployment"]\n'
        '    user: "${FEDMAC_UID:-1000}:${FEDMAC_GID:-1000}"\n'
        "    init: true\n"
        "    restart: unless-stopped\n"
        "    stop_grace_period: 30s\n"
        "    read_only: true\n"
        "    cap_drop: [ALL]\n"
        '    security_opt: ["no-new-privileges:true"]\n'
        "    tmpfs: [/tmp]\n"
        "    environment: { HOME: /deployment/state }\n"
        f"{published}"
        "    volumes: [.:/deployment]\n"
    )


def read_me(hosts: tuple[str, ...], port: int, devices: int) -> str:
    """What goes to which machine."""
    last = f"device-{devices - 1}/"
    count = "1 device" if devices == 1 else f"{devices} devices"
    several = f"`device-0/` to `{last}`" if devices > 1 else "`device-0/`"
    return dedent(
        f"""\
        # A federation of {count} and a server

        | folder | goes to | holds secrets |
        |---|---|---|
        | `authority/` | nowhere: keep it off line | `ca.key`: whoever has it can pose as the server |
        | `server/` | the server ({", ".join(hosts)}) | `server.key` |
        | {several} | one folder to each device, nothing else | `device.key`: whoever has it is that device |

        Copy the folders over a safe way (`scp -rp server operator@server:/opt/fedmac/`), then delete the
        devices' folders and `server/server.key` here. On each machine FedMAC must be installed, the same version.

        1. Server: `fedmac deploy server server` (or `server/start.sh`). Its firewall lets TCP port {port} in; no other.
        2. Each device k: `fedmac deploy device device-k` (or `device-k/start.sh`). No port need be open.
        3. On the server's machine: `fedmac run SCENARIO --engine deployment --superlink server`, where the scenario has
           `data.devices = {devices}`.

        Instead of `start.sh`: `*.service` is a systemd unit (FedMAC must be in `{HOME}/venv`, the machine's folder in
        `{HOME}`), `compose.yaml` for docker compose.

        * The server's certificate expires: `fedmac deploy renew .` makes the next one; copy `server/server.pem` and
          `server/server.key` to the server and start it again.
        * A device is lost: delete `devices/device-k.pub` from the server's folder and start the server again.
        * A device gets a new key: `fedmac deploy key device.key.new` on the device; the `.pub` becomes
          `devices/device-k.pub` in the server's folder, the other file `device.key`; start both again.

        More: docs/deployment.md in FedMAC's repository.
        """
    )
