//! `threeways`: see `threeways --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    threeways::cli::main()
}
