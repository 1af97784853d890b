//! `RESTORE.txt`: how to get everything back on a machine where this program was never installed.

use crate::manifest::{Codec, Kind, Manifest};

/// The text for one backup, with its own file names in the commands.
pub fn restore_text(manifest: &Manifest) -> String {
    let (decompress, tar_option) = match manifest.codec {
        Codec::Zstd => ("zstd -dc", "--zstd"),
        Codec::Gzip => ("gzip -dc", "--gzip"),
    };
    let mut text = format!(
        "This folder is a backup of job {job} on host {host}, made {started} (run {run}).\n\
         It needs no special program to be restored: sha256sum, tar and {tool} are enough.\n\
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
        tool = if manifest.codec == Codec::Zstd { "zstd" } else { "gzip" },
    );
    for component in &manifest.components {
        let file = &component.file;
        text.push('\n');
        if component.kind == Kind::Tar {
            text.push_str(&format!(
                "  {name}: files and folders, with owners, modes, ACLs and attributes\n\
                 \n\
                 \u{20}   mkdir -p /restore/{name}\n\
                 \u{20}   tar --acls --xattrs --xattrs-include='*' {tar_option} -xpf {file} -C /restore/{name}\n\
                 \n\
                 \u{20}   One file or folder only (list the names with: tar {tar_option} -tf {file}):\n\
                 \u{20}   tar {tar_option} -xpf {file} -C /restore/{name} PATH/AS/LISTED\n",
                name = component.name,
            ));
        } else if file.contains(".sql.") {
            text.push_str(&format!(
                "  {name}: a database dump as SQL. It recreates the databases it names; look at its head first\n\
                 \n\
                 \u{20}   {decompress} {file} | head -n 40\n\
                 \u{20}   {decompress} {file} | mysql\n",
                name = component.name,
            ));
        } else {
            let plain = file.strip_suffix(&format!(".{}", manifest.codec.extension())).unwrap_or(file);
            text.push_str(&format!(
                "  {name}: one stream of bytes\n\
                 \n\
                 \u{20}   mkdir -p /restore\n\
                 \u{20}   {decompress} {file} > /restore/{plain}\n",
                name = component.name,
            ));
        }
    }
    text.push_str(
        "\nmanifest.json says how many bytes, entries and frames each component has. A component that was cut off\n\
         at a frame's end passes every check of tar and zstd: only its digest in SHA256SUMS reveals it.\n",
    );
    text
}
