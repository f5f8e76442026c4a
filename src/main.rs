//! The `baton` command: parses its arguments, runs one command, and turns failures into messages and exit codes.

use std::process::ExitCode;

use clap::Parser;

mod cli;

fn main() -> ExitCode {
    cli::Arguments::parse().run()
}
