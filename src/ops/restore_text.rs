//! `RESTORE.txt`: how to get everything back on a machine where this program was never installed.

use crate::manifest::{Codec, Component, Content, Kind, Manifest};

/// The text for one backup, with its own file names in the commands.
pub fn restore_text(manifest: &Manifest) -> String {
    let tool = if manifest.codec == Codec::Zstd { "zstd" } else { "gzip" };
    let mut text = format!(
        "This folder is a backup of job {job} on host {host}, made {started} (run {run}).\n\
         It needs no special program to be restored: sha256sum, tar and {tool} are enough, and for databases\n\
         their own clients.\n\
         Run the commands below inside this folder.\n\
         \n\
         1. Check that nothing is missing or damaged\n\
         \n\
         \u{20}   sha256sum -c SHA256SUMS\n\
         \n\
         2. Restore\n",
        job = manifest.job,
        host = manifest.host,
        started = manifest.started.format("%Y-%m-%d %H:%M:%S UTC"),
        run = manifest.run_id,
    );
    for component in &manifest.components {
        text.push('\n');
        text.push_str(&section(component, manifest.codec));
    }
    text.push_str(
        "\nmanifest.json says how many bytes, entries and frames each component has. A component that was cut off\n\
         at a frame's end passes every check of tar and zstd: only its digest in SHA256SUMS reveals it.\n",
    );
    text
}

/// What a component is, and the commands that bring it back. Each is one line, so that it can be copied.
fn section(component: &Component, codec: Codec) -> String {
    let (name, file) = (&component.name, &component.file);
    let (read, tar) = match codec {
        Codec::Zstd => ("zstd -dc", "--zstd"),
        Codec::Gzip => ("gzip -dc", "--gzip"),
    };
    let plain = file.strip_suffix(&format!(".{}", codec.extension())).unwrap_or(file);
    let databases = match component.databases.as_slice() {
        [] => String::new(),
        names => format!(" ({})", names.iter().map(|name| shown(name)).collect::<Vec<_>>().join(", ")),
    };
    let lines: (String, Vec<String>) = match content(component) {
        Content::Files | Content::System => (
            "files and folders, with owners, modes, ACLs and attributes".to_owned(),
            vec![
                format!("mkdir -p /restore/{name}"),
                format!("tar --acls --xattrs --xattrs-include='*' {tar} -xpf {file} -C /restore/{name}"),
                String::new(),
                format!("# One file or folder only (list the names with: tar {tar} -tf {file}):"),
                format!("tar {tar} -xpf {file} -C /restore/{name} PATH/AS/LISTED"),
            ],
        ),
        Content::Mysql => (
            format!("a MySQL or MariaDB dump{databases}. It replaces the tables it names; look at its head first"),
            vec![format!("{read} {file} | head -n 40"), format!("{read} {file} | mysql")],
        ),
        Content::MysqlUsers => (
            "MySQL or MariaDB accounts and grants, to be restored after the databases. Accounts that exist keep \
             their password"
                .to_owned(),
            vec![format!("{read} {file} | mysql")],
        ),
        Content::PostgresGlobals => (
            "PostgreSQL roles, memberships and tablespaces, to be restored before the databases. Errors about \
             roles that exist already do no harm"
                .to_owned(),
            vec![format!("{read} {file} | psql -X -d postgres")],
        ),
        Content::Postgres => {
            let database = component.databases.first().map_or("DATABASE", String::as_str);
            // A name with an equals sign would be taken for a connection string.
            let other =
                if database.contains('=') { "restored".to_owned() } else { format!("{database}_restored") };
            let other = quoted(&other);
            (
                format!("a PostgreSQL database{databases}, in the archive format of pg_restore"),
                vec![
                    "# Under its own name, which must not exist:".to_owned(),
                    format!("{read} {file} | pg_restore --create --exit-on-error -d postgres"),
                    "# Or under another name:".to_owned(),
                    format!("createdb -T template0 {other}"),
                    format!("{read} {file} | pg_restore --no-owner --exit-on-error -d {other}"),
                ],
            )
        }
        Content::Redis => (
            "an RDB file of Redis or Valkey. The server must be stopped, and reads it when it starts; with \
             `appendonly yes` it would not, so start it once with `--appendonly no`, then `CONFIG SET appendonly yes`"
                .to_owned(),
            vec![
                "systemctl stop redis-server".to_owned(),
                format!("{read} {file} > /var/lib/redis/dump.rdb"),
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
                format!("{read} {file} > /restore/{plain}"),
                format!("sqlite3 /restore/{plain} 'PRAGMA integrity_check'"),
            ],
        ),
        Content::Command | Content::Other => (
            "the output of a program, as one stream of bytes".to_owned(),
            vec!["mkdir -p /restore".to_owned(), format!("{read} {file} > /restore/{plain}")],
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
