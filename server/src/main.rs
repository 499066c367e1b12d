//! `warmline`: one binary for every role.

use std::process::ExitCode;

fn main() -> ExitCode {
    server::cli::main()
}
