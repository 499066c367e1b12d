//! The directory in which queues and files lie: whether it can be written, has room, and how long a sync takes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Finding, Verdict, finding};
use crate::clock::Clock;
use crate::settings::{Durability, Settings};

/// Syncs that are measured; the one in the middle counts.
const SYNCS: usize = 15;
/// With a slower sync, one client that waits for each acknowledgement has fewer than fifty a second.
const SLOW: Duration = Duration::from_millis(20);
/// Less room than this is gone within hours: logs grow while they are compacted.
const LITTLE: u64 = 1 << 30;

pub(super) fn examine(settings: &Settings) -> Vec<Finding> {
    let dir = &settings.data.dir;
    let what = "data.dir";
    let mut findings = Vec::new();
    let Some(there) = nearest(dir) else {
        findings.push(finding(
            Verdict::Bad,
            what,
            format!("{}: it is not there, and neither is any folder above it", dir.display()),
        ));
        return findings;
    };
    // The nearest above a file is the folder that it is in.
    if dir.exists() && !dir.is_dir() {
        findings.push(finding(Verdict::Bad, what, format!("{} is not a folder", dir.display())));
        return findings;
    }
    let made = if there == *dir || dir.is_dir() { "" } else { " (it will be made there)" };
    match syncs(&there) {
        Ok(time) => {
            let slow = time > SLOW && settings.queue.durability == Durability::Fsync;
            let millis = time.as_secs_f64() * 1e3;
            let advice = if slow {
                "; each acknowledgement of a job takes one: put it on a faster disk, or weigh queue.durability = \"write\""
            } else {
                ""
            };
            findings.push(finding(
                if slow { Verdict::Poor } else { Verdict::Good },
                what,
                format!("{}{made} can be written; a sync takes {millis:.2} ms{advice}", there.display()),
            ));
        }
        Err(error) => {
            let found = format!("{}: cannot be written: {error}", there.display());
            findings.push(finding(Verdict::Bad, what, found));
        }
    }
    match rustix::fs::statvfs(&there) {
        Ok(disk) => {
            let left = disk.f_bavail.saturating_mul(disk.f_frsize);
            let verdict = if left < LITTLE { Verdict::Poor } else { Verdict::Good };
            let gib = left as f64 / f64::from(1 << 30);
            findings.push(finding(verdict, "data.dir space", format!("{gib:.1} GiB are left")));
        }
        Err(error) => findings.push(finding(
            Verdict::Poor,
            "data.dir space",
            format!("how much is left cannot be known: {error}"),
        )),
    }
    let logs = crate::work::on_disk(&dir.join("queue")).len();
    if logs > 0 {
        let detail = format!("{logs} log(s) lie here; `warmline status` says whether each is open and well");
        findings.push(finding(Verdict::Good, "durable queues", detail));
    }
    findings
}

/// The folder itself, or the nearest above it that is there.
fn nearest(dir: &Path) -> Option<PathBuf> {
    let dir = std::path::absolute(dir).ok()?;
    dir.ancestors().find(|path| path.is_dir()).map(Path::to_owned)
}

/// The time that writing a little and syncing it takes, in the middle of some.
fn syncs(dir: &Path) -> std::io::Result<Duration> {
    let path = dir.join(format!(".warmline-doctor-{}", std::process::id()));
    let measured = measure(&path);
    let removed = std::fs::remove_file(&path);
    let time = measured?;
    removed?;
    Ok(time)
}

fn measure(path: &Path) -> std::io::Result<Duration> {
    let mut file = std::fs::File::create_new(path)?;
    let clock = Clock::start();
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let since = clock.now();
        file.write_all(&[0; 4_096])?;
        file.sync_data()?;
        times.push(clock.now().saturating_sub(since));
    }
    times.sort_unstable();
    Ok(times[SYNCS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(dir: &Path) -> Vec<(Verdict, String)> {
        let mut settings = Settings::default();
        settings.data.dir = dir.to_owned();
        examine(&settings).into_iter().map(|finding| (finding.verdict, finding.detail)).collect()
    }

    #[test]
    fn a_folder_that_can_be_written_is_measured_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        for dir in [folder.path().to_owned(), folder.path().join("not/yet/there")] {
            let found = verdicts(&dir);
            assert!(found[0].0 != Verdict::Bad && found[0].1.contains("a sync takes"), "{found:?}");
            assert!(found[1].1.contains("GiB are left"), "{found:?}");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_file_where_the_folder_should_be_is_found_before_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let found = verdicts(&file);
        assert_eq!(found[0].0, Verdict::Bad, "{found:?}");
    }
}
