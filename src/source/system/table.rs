//! What the `system` source takes: the one list of it. `docs/system-state.md` describes the same list; a
//! test compares the two.

/// Files and folders taken unless the configuration names others; missing ones are passed over.
pub(super) const PATHS: &[&str] = &[
    "/etc",
    "/root/.acme.sh",
    "/root/.my.cnf",
    "/root/.ssh",
    "/usr/local/bin",
    "/usr/local/etc",
    "/usr/local/sbin",
    "/usr/local/share/ca-certificates",
    "/var/lib/apt/extended_states",
    "/var/lib/dpkg/diversions",
    "/var/lib/dpkg/statoverride",
    "/var/lib/systemd/linger",
    "/var/spool/cron",
];

/// Where an answer comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ask {
    /// What a program prints; its first word is the program.
    Run(&'static [&'static str]),
    /// What a file holds that is no ordinary file on disk, or that may be a link to elsewhere.
    Read(&'static str),
}

/// One question about the system, answered in a file of its own below [`FOLDER`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    pub(super) file: &'static str,
    pub(super) ask: Ask,
    pub(super) purpose: &'static str,
}

/// The folder of the answers inside the archive.
pub(super) const FOLDER: &str = "system-state";
/// Lists the answers and what each is good for.
pub(super) const README: &str = "README.txt";
/// Says which questions got no answer, and why.
pub(super) const NOTES: &str = "NOTES.txt";

const fn run(file: &'static str, command: &'static [&'static str], purpose: &'static str) -> Probe {
    Probe { file, ask: Ask::Run(command), purpose }
}

const fn read(file: &'static str, path: &'static str, purpose: &'static str) -> Probe {
    Probe { file, ask: Ask::Read(path), purpose }
}

/// All questions. None of them changes anything, asks the network, or looks at a mounted network share.
pub(super) const PROBES: &[Probe] = &[
    // Packages.
    run("dpkg-selections.txt", &["dpkg", "--get-selections"], "for dpkg --set-selections"),
    run(
        "dpkg-packages.txt",
        &["dpkg-query", "--show", "--showformat=${binary:Package}\t${Version}\t${db:Status-Status}\n"],
        "which version of each package was installed",
    ),
    run(
        "apt-manual.txt",
        &["apt-mark", "showmanual"],
        "packages somebody asked for, without what they pulled in",
    ),
    run("rpm-packages.txt", &["rpm", "--query", "--all"], "packages of a system with RPM"),
    // Services.
    run(
        "systemd-enabled.txt",
        &["systemctl", "list-unit-files", "--state=enabled", "--no-pager", "--no-legend"],
        "units that start by themselves",
    ),
    run(
        "systemd-running.txt",
        &[
            "systemctl",
            "list-units",
            "--type=service,timer",
            "--state=active",
            "--no-pager",
            "--no-legend",
            "--plain",
        ],
        "services and timers that were active",
    ),
    // Users.
    run("passwd.txt", &["getent", "passwd"], "users, those from a directory service included"),
    run("group.txt", &["getent", "group"], "groups, those from a directory service included"),
    // Network.
    read("hostname.txt", "/proc/sys/kernel/hostname", "the host's name"),
    read("resolv.conf.txt", "/etc/resolv.conf", "name servers; often a link into /run"),
    run("ip-address.txt", &["ip", "address"], "interfaces and addresses"),
    run("ip-route.txt", &["ip", "route"], "IPv4 routes"),
    run("ip-route-6.txt", &["ip", "-6", "route"], "IPv6 routes"),
    run(
        "listening.txt",
        &["ss", "--listening", "--tcp", "--udp", "--numeric", "--processes"],
        "who listens where",
    ),
    run("nft-ruleset.txt", &["nft", "list", "ruleset"], "firewall rules in force, for nft -f"),
    run("iptables.txt", &["iptables-save"], "firewall rules in force, for iptables-restore"),
    run("ip6tables.txt", &["ip6tables-save"], "firewall rules in force, for ip6tables-restore"),
    // Storage.
    run("lsblk.txt", &["lsblk", "-f"], "disks, file systems, UUIDs"),
    run("mount.txt", &["mount"], "what was mounted, with options"),
    run("df.txt", &["df", "-PT", "--local"], "sizes of the local file systems"),
    read("swaps.txt", "/proc/swaps", "swap space"),
    run("mdadm.txt", &["mdadm", "--detail", "--scan"], "software RAID"),
    run("lvm-physical.txt", &["pvs"], "LVM: physical volumes"),
    run("lvm-logical.txt", &["lvs"], "LVM: logical volumes"),
    // Kernel and system.
    run("uname.txt", &["uname", "-a"], "kernel"),
    read("cmdline.txt", "/proc/cmdline", "kernel command line"),
    read("os-release.txt", "/etc/os-release", "distribution and version"),
    run(
        "time.txt",
        &["timedatectl", "show", "--property=Timezone", "--property=LocalRTC", "--property=NTP"],
        "time zone and synchronisation",
    ),
    // Web server, PHP, databases.
    run("nginx.txt", &["nginx", "-V"], "version and modules"),
    run("apache.txt", &["apache2", "-V"], "version and build"),
    run("php-version.txt", &["php", "-v"], "version"),
    run("php-modules.txt", &["php", "-m"], "modules of the command line's PHP"),
    run("php-ini.txt", &["php", "--ini"], "configuration files in use"),
    run("mariadb.txt", &["mariadb", "--version"], "version of the client"),
    run("mysql.txt", &["mysql", "--version"], "version of the client"),
    run("postgresql.txt", &["psql", "--version"], "version of the client"),
    run("redis.txt", &["redis-server", "--version"], "version"),
    run("node.txt", &["node", "--version"], "version"),
];
