//! A process that holds a room over a log on disk, for tests that kill it and for a look at what grows.
//!
//! `queue-drill FOLDER FACTS` works until it is killed; `queue-drill FOLDER FACTS drain` runs what is left, looks at itself
//! and ends. Both append to FACTS, a line each and at once, what was acknowledged and what was started (`crash.rs`).
//! `queue-drill --minutes N [FOLDER]` works steadily for so long, says every ten seconds how much it occupies, and in the end
//! whether that is flat (`soak.rs`).

mod crash;
mod ground;
mod soak;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["--minutes", minutes, ref folder @ ..] => match (minutes.parse(), folder) {
            (Ok(minutes), []) => soak::run(minutes, None),
            (Ok(minutes), [folder]) => soak::run(minutes, Some(folder)),
            _ => Err(format!("MINUTES: found {minutes:?}; allowed is a number, and then at most a folder")),
        },
        [folder, facts] => crash::work(folder, facts),
        [folder, facts, "drain"] => crash::drain(folder, facts),
        _ => Err("usage: queue-drill FOLDER FACTS [drain] | queue-drill --minutes N [FOLDER]".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}
