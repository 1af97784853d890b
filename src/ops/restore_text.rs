//! `RESTORE.txt`: how to get everything back on a machine where this program was never installed.

use crate::manifest::{Age, Codec, Component, Content, Encryption, Kind, Manifest};

/// The text for one backup, with its own file names in the commands.
pub fn restore_text(manifest: &Manifest) -> String {
    let tool = if manifest.codec == Codec::Zstd { "zstd" } else { "gzip" };
    let tools = match &manifest.encryption {
        Encryption::None => format!("sha256sum, tar and {tool}"),
        Encryption::Age(_) => format!("sha256sum, age, tar and {tool}"),
    };
    let mut text = format!(
        "This folder is a backup of job {job} on host {host}, made {started} (run {run}).\n\
         It needs no special program to be restored: {tools} are enough, and for databases\n\
         their own clients.\n\
         Run the commands below inside this folder.\n\
         \n\
         1. Check that nothing is missing or damaged\n\
         \n\
         \u{20}   sha256sum -c SHA256SUMS\n\
         \n",
        job = manifest.job,
        host = manifest.host,
        started = manifest.started.format("%Y-%m-%d %H:%M:%S UTC"),
        run = manifest.run_id,
    );
    match &manifest.encryption {
        Encryption::None => text.push_str("2. Restore\n"),
        Encryption::Age(age) => {
            text.push_str(&key_text(age));
            text.push_str("3. Restore\n");
        }
    }
    for component in &manifest.components {
        text.push('\n');
        text.push_str(&section(component, manifest));
    }
    text.push_str(
        "\nmanifest.json says how many bytes, entries and frames each component has. A component that was cut off\n\
         at a frame's end passes every check of tar and zstd: only its digest in SHA256SUMS reveals it.\n",
    );
    text
}

/// How to get at the key: what the commands behind it name `key.txt`.
fn key_text(age: &Age) -> String {
    if age.passphrase {
        return "2. Have the passphrase ready: each file is encrypted with it (the program age, https://age-encryption.org,\n\
                \u{20}  package `age`), and age asks for it each time\n\
                \n"
            .to_owned();
    }
    let mut text = "2. Put the private key into place: the files are encrypted with the program age (https://age-encryption.org,\n\
                    \u{20}  package `age`). The commands below call it key.txt: a file of age, or an SSH private key. Any one of\n\
                    \u{20}  the keys that belong to these public keys opens every file:\n\
                    \n"
        .to_owned();
    for recipient in &age.recipients {
        text.push_str(&format!("   - {}\n", shown(recipient)));
    }
    text.push('\n');
    text
}

/// What a component is, and the commands that bring it back. Each is one line, so that it can be copied.
fn section(component: &Component, manifest: &Manifest) -> String {
    let (name, file) = (&component.name, &component.file);
    let codec = manifest.codec;
    let (tool, flag) = match codec {
        Codec::Zstd => ("zstd", "--zstd"),
        Codec::Gzip => ("gzip", "--gzip"),
    };
    let open = match &manifest.encryption {
        Encryption::None => None,
        Encryption::Age(age) if age.passphrase => Some("age -d"),
        Encryption::Age(_) => Some("age -d -i key.txt"),
    };
    // What writes the decompressed stream; and what stands before tar, and what tar reads.
    let (read, front, from) = match open {
        None => (format!("{tool} -dc {file}"), String::new(), file.as_str()),
        Some(open) => (format!("{open} {file} | {tool} -dc"), format!("{open} {file} | "), "-"),
    };
    let plain = manifest.plain_name(component);
    let databases = match component.databases.as_slice() {
        [] => String::new(),
        names => format!(" ({})", names.iter().map(|name| shown(name)).collect::<Vec<_>>().join(", ")),
    };
    let lines: (String, Vec<String>) = match content(component) {
        Content::Files | Content::System => (
            "files and folders, with owners, modes, ACLs and attributes".to_owned(),
            vec![
                format!("mkdir -p /restore/{name}"),
                format!("{front}tar --acls --xattrs --xattrs-include='*' {flag} -xpf {from} -C /restore/{name}"),
                String::new(),
                format!("# One file or folder only (list the names with: {front}tar {flag} -tf {from}):"),
                format!("{front}tar {flag} -xpf {from} -C /restore/{name} PATH/AS/LISTED"),
            ],
        ),
        Content::Mysql => (
            format!("a MySQL or MariaDB dump{databases}. It replaces the tables it names; look at its head first"),
            vec![format!("{read} | head -n 40"), format!("{read} | mysql")],
        ),
        Content::MysqlUsers => (
            "MySQL or MariaDB accounts and grants, to be restored after the databases. Accounts that exist keep \
             their password"
                .to_owned(),
            vec![format!("{read} | mysql")],
        ),
        Content::PostgresGlobals => (
            "PostgreSQL roles, memberships and tablespaces, to be restored before the databases. Errors about \
             roles that exist already do no harm"
                .to_owned(),
            vec![format!("{read} | psql -X -d postgres")],
        ),
        Content::Postgres => {
            let database = component.databases.first().map_or("DATABASE", String::as_str);
            // A name with an equals sign would be taken for a connection string.
            let other =
                if database.contains('=') { "restored".to_owned() } else { format!("{database}_restored") };
            let other = quoted(&other);
            let own = match database {
                // Every server has them, and what `pg_restore --create` makes must not exist.
                "postgres" | "template1" => vec![
                    "# Under its own name, which every server has; it replaces what is in the dump:".to_owned(),
                    format!("{read} | pg_restore --clean --if-exists --exit-on-error -d {database}"),
                ],
                _ => vec![
                    "# Under its own name, which must not exist:".to_owned(),
                    format!("{read} | pg_restore --create --exit-on-error -d postgres"),
                ],
            };
            (
                format!("a PostgreSQL database{databases}, in the archive format of pg_restore"),
                [own, vec![
                    "# Or under another name:".to_owned(),
                    format!("createdb -T template0 {other}"),
                    format!("{read} | pg_restore --no-owner --exit-on-error -d {other}"),
                ]]
                .concat(),
            )
        }
        Content::Redis => (
            "an RDB file of Redis or Valkey. The server must be stopped, and reads it when it starts; with \
             `appendonly yes` it would not, so start it once with `--appendonly no`, then `CONFIG SET appendonly yes`"
                .to_owned(),
            vec![
                "systemctl stop redis-server".to_owned(),
                format!("{read} > /var/lib/redis/dump.rdb"),
                "chown redis:redis /var/lib/redis/dump.rdb".to_owned(),
                "systemctl start redis-server".to_owned(),
            ],
        ),
        Content::Sqlite => (
            "an SQLite database file. Stop what uses it before it is put into its place, and remove the files \
             -wal and -shm beside the old one"
                .to_owned(),
            vec![
                "mkdir -p /restore".to_owned(),
                format!("{read} > /restore/{plain}"),
                format!("sqlite3 /restore/{plain} 'PRAGMA integrity_check'"),
            ],
        ),
        Content::Command | Content::Other => (
            "the output of a program, as one stream of bytes".to_owned(),
            vec!["mkdir -p /restore".to_owned(), format!("{read} > /restore/{plain}")],
        ),
    };
    let (what, commands) = lines;
    let commands: String = commands
        .iter()
        .map(|line| if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") })
        .collect();
    format!("  {name}: {what}\n\n{commands}")
}

/// Backups from before the manifest said it are told by their kind and file name.
fn content(component: &Component) -> Content {
    match (component.content, component.kind) {
        (Content::Other, Kind::Tar) => Content::Files,
        (Content::Other, Kind::Stream) if component.file.contains(".sql.") => Content::Mysql,
        (content, _) => content,
    }
}

/// A name without anything that could end a line or forge one.
fn shown(name: &str) -> String {
    name.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if !word.is_empty() && word.chars().all(plain) && !word.starts_with('-') {
        return word.to_owned();
    }
    format!("'{}'", shown(word).replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_databases_are_words_of_the_shell() {
        assert_eq!(quoted("shop_2"), "shop_2");
        assert_eq!(quoted("it's $x"), "'it'\\''s $x'");
        assert_eq!(quoted("a\nb"), "'a\\nb'");
        assert_eq!(quoted("-x"), "'-x'");
    }
}
