//! From the words of an error to what usually helps: what a tired person would look up otherwise.

/// Words that stand in an error (lower case, all of them) and the advice for it. The first that fits wins.
const HINTS: &[(&[&str], &str)] = &[
    (
        &["no space left"],
        "The disk is full: `df -h` shows which one. Make room, or lower `keep` of that target, then try again.",
    ),
    (&["disk quota"], "A quota is used up: make room, or have it raised, then try again."),
    (&["too many open files"], "The limit of open files is reached: raise LimitNOFILE of the service."),
    (
        &["read-only file system"],
        "The file system is mounted read-only, often after a disk error: look at `dmesg -T` and `findmnt` before anything else.",
    ),
    (
        &["input/output error"],
        "The disk or the share returned a read or write error: look at `dmesg -T` and the disk's health (`smartctl -a`).",
    ),
    (
        &["structure needs cleaning"],
        "The file system is damaged: look at `dmesg -T`, then check it with fsck while it is not mounted.",
    ),
    (
        &["access denied for user"],
        "The database refused the login: compare user and password in the source's `defaults_file` or `password_file` with the server's.",
    ),
    (&["can't connect", "mysql"], "The database server does not answer: `systemctl status mariadb mysql`."),
    (&["can't connect", "socket"], "The database server does not answer: `systemctl status mariadb mysql`."),
    (
        &["unknown database"],
        "The database named in the configuration does not exist: `databases` of that source.",
    ),
    (
        &["lost connection to", "server"],
        "The database ended the connection in the middle: look at its log, and at `max_allowed_packet` and `net_write_timeout`.",
    ),
    (
        &["lock wait timeout"],
        "The dump waited for a lock: a long transaction or a schema change ran at that time.",
    ),
    (
        &["not mounted"],
        "The target is not mounted: `findmnt`, then mount it. Nothing was written below the bare mount point.",
    ),
    (
        &["stale file handle"],
        "The share went away under the mount: unmount it (`umount -l`) and mount it again.",
    ),
    (
        &["permission denied"],
        "The agent may not read or write that path: check owner and mode, and ProtectHome/ReadWritePaths of the service.",
    ),
    (
        &["operation not permitted"],
        "The kernel refused it: check attributes (`lsattr`), owner, and the service's sandbox.",
    ),
    (
        &["digest"],
        "What was read back is not what was written: suspect disk, memory or controller. Look at `dmesg -T`.",
    ),
    (
        &["shrank"],
        "Much less was found than before. If that is right, accept it with `agent ack JOB`; if not, data is missing at the source.",
    ),
    (
        &["source", "no such file or directory"],
        "A path named in the configuration is gone: was it moved, or is a disk not mounted?",
    ),
    (&["command not found"], "A program is missing: install it, or name it with `program`."),
    (
        &["certificate"],
        "The other side's certificate was not accepted: is it expired, or does it need `ca_file`? Is this machine's clock right?",
    ),
    (&["timed out"], "Something did not answer in time: is the database, disk or share overloaded or gone?"),
    (&["deadline"], "Something did not answer in time: is the database, disk or share overloaded or gone?"),
    (
        &["goes through the proxy"],
        "The connection goes through a proxy that the environment of the service names: is it up, and may it reach the server?",
    ),
    (&["connection refused"], "Nobody listens at that address: is the service running?"),
];

/// The advice for each of these texts, every one once, at most three.
pub fn find(evidence: &[&str]) -> Vec<&'static str> {
    let mut found: Vec<&'static str> = Vec::new();
    for text in evidence {
        let text = text.to_lowercase();
        if let Some((_, hint)) = HINTS.iter().find(|(words, _)| words.iter().all(|w| text.contains(w)))
            && !found.contains(hint)
        {
            found.push(hint);
        }
    }
    found.truncate(3);
    found
}
