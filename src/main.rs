//! The program `agent`: everything it does begins in [`backup_agent::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    backup_agent::cli::main()
}
