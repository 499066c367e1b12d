//! Real engines in C, C++ and Python: compiled against the library that was just built, run, and followed to the block.

#[path = "../../events/tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::io::{BufRead, BufReader, Write};
use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use blocks::{Tier, View};
use common::Followed;
use tempfile::TempDir;
use warmline_engine::{ABI, Run, Settings, Trouble};

/// Nothing here takes seconds; whoever takes this long hangs.
const PATIENCE: Duration = Duration::from_mins(1);
const ANYWHERE: &str = "tcp://127.0.0.1:0";
const C99: &[&str] = &["-std=c99", "-pedantic"];

// === What is built ===

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A file of the library, made by the same call of the compiler as the Rust library in this test: all its forms lie beside
/// the test's own binary, under a name without a hash, because one of them is a shared library. So neither the
/// profile nor the target folder nor the test runner matters, and the library is never an old one.
fn library(name: &str) -> PathBuf {
    let beside = std::env::current_exe().unwrap().with_file_name(name);
    assert!(beside.exists(), "{} was not built with this test", beside.display());
    beside
}

fn shared() -> PathBuf {
    library(&format!("{}warmline_engine{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX))
}

fn archive() -> PathBuf {
    library("libwarmline_engine.a")
}

/// Compiles a program as strictly as compilers can, and links it to one form of the library.
fn compile(compiler: &str, options: &[&str], source: &str, library: &Path) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("engine");
    let mut command = Command::new(compiler);
    command.args(["-Wall", "-Wextra", "-Werror"]).args(options).arg("-I").arg(here("include"));
    command.arg(here(source)).arg(library).arg("-o").arg(&program);
    command.arg(format!("-Wl,-rpath,{}", library.parent().unwrap().display()));
    command.args(["-lpthread", "-ldl", "-lm"]);
    let ran = command.output().unwrap_or_else(|error| panic!("no {compiler}: {error}; run tests/setup.sh"));
    assert!(ran.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&ran.stderr));
    (folder, program)
}

// === What runs ===

/// An engine that is running, and is ended with this.
struct Engine {
    child: Child,
    lines: mpsc::Receiver<String>,
    endpoint: String,
    replay: String,
    /// The program lies here.
    _folder: Option<TempDir>,
}

impl Engine {
    fn start(mut command: Command, folder: Option<TempDir>) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (told, lines) = mpsc::channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| told.send(line)).ok();
        });
        let mut engine =
            Self { child, lines, endpoint: String::new(), replay: String::new(), _folder: folder };
        engine.endpoint = engine.line("endpoint ");
        engine.replay = engine.line("replay ");
        engine
    }

    fn busy(endpoint: &str, replay: &str, library: &Path) -> Self {
        let (folder, program) = compile("cc", C99, "tests/busy.c", library);
        let mut command = Command::new(program);
        command.args([endpoint, replay]);
        let engine = Self::start(command, Some(folder));
        let epoch: u64 = engine.line("epoch ").parse().unwrap();
        assert_eq!(epoch >> 63, 1, "lives are known by their highest bit");
        engine
    }

    /// The next line, which begins like this.
    fn line(&self, begin: &str) -> String {
        let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line with `{begin}`"));
        line.strip_prefix(begin).unwrap_or_else(|| panic!("{begin}…, not {line}")).to_owned()
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{word}").unwrap();
    }

    fn work(&mut self, word: &str) {
        self.tell(word);
        self.line("done");
    }

    fn held(&mut self) -> BTreeSet<u64> {
        self.tell("held");
        self.line("held").split_whitespace().map(|name| name.parse().unwrap()).collect()
    }

    fn follow(&self) -> Followed {
        Followed::start(&self.endpoint, Some(&self.replay), false, "")
    }

    /// Ends it by ending its input, and waits for it to leave in peace.
    fn stop(mut self) {
        drop(self.child.stdin.take());
        assert_eq!(ended(&mut self.child), Some(0), "an engine that is told to stop stops");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // It may already have left.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exit code of a process that is about to leave; one that does not is killed.
fn ended(child: &mut Child) -> Option<i32> {
    for _ in 0..PATIENCE.as_millis() / 10 {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        pause();
    }
    child.kill().unwrap();
    panic!("the program did not end within a minute")
}

#[expect(clippy::disallowed_methods, reason = "another process is waited for, of which nothing tells")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

// === The claims ===

async fn is_followed_to_the_block(library: PathBuf) {
    let mut engine = Engine::busy(ANYWHERE, ANYWHERE, &library);
    engine.work("work 2000");
    let early = engine.follow();
    let held = engine.held();
    assert!(held.len() > 100, "{held:?}");
    let status = early.until(View::Exact, held).await;
    assert!(status.counters.snapshots >= 1, "its ring is too small for whoever comes late: {status:?}");
    engine.work("work 3000");
    let late = engine.follow();
    let held = engine.held();
    early.until(View::Exact, held.iter().copied()).await;
    let status = late.until(View::Exact, held).await;
    assert_eq!((status.counters.refused, status.counters.undecodable), (0, 0), "{status:?}");
    engine.work("clear");
    early.until(View::Exact, []).await;
    engine.work("work 50");
    let held = engine.held();
    assert!(!held.is_empty());
    late.until(View::Exact, held).await;
    engine.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_in_c_with_the_archive_is_followed_to_the_block() {
    is_followed_to_the_block(archive()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_in_c_with_the_shared_library_is_followed_to_the_block() {
    is_followed_to_the_block(shared()).await;
}

/// A program in C, unlike one in Rust, dies of writing to somebody who has left (SIGPIPE), unless each write says otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn listeners_that_leave_do_not_take_the_engine_with_them() {
    let sockets = TempDir::new().unwrap();
    let at = |name: &str| format!("ipc://{}", sockets.path().join(name).display());
    for (live, replay) in [(at("live"), at("replay")), (ANYWHERE.to_owned(), ANYWHERE.to_owned())] {
        let mut engine = Engine::busy(&live, &replay, &archive());
        for _ in 0..10 {
            let followed = engine.follow();
            let held = engine.held();
            followed.until(View::Exact, held).await;
            drop(followed);
            engine.work("work 500");
        }
        let held = engine.held();
        engine.follow().until(View::Exact, held).await;
        engine.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_examples_of_the_documentation_do_what_they_say() {
    let (folder, program) = compile("cc", C99, "examples/engine.c", &shared());
    let python = here("../target/venv/bin/python");
    assert!(python.exists(), "no {}: run tests/setup.sh first", python.display());
    let mut script = Command::new(python);
    script.arg(here("examples/engine.py")).arg(shared());
    for (command, folder) in [(Command::new(program), Some(folder)), (script, None)] {
        let engine = Engine::start(command, folder);
        engine.follow().until(View::Exact, [11, 12]).await;
        engine.stop();
    }
}

#[test]
fn the_examples_stand_in_the_documentation_as_they_are_tested() {
    let page = std::fs::read_to_string(here("../docs/engine.md")).unwrap();
    for (name, language) in [("engine.c", "c"), ("engine.py", "python")] {
        let source = std::fs::read_to_string(here("examples").join(name)).unwrap();
        let block = format!("```{language}\n{source}```");
        assert!(page.contains(&block), "docs/engine.md does not show engine/examples/{name} as it is");
    }
}

#[test]
fn what_does_not_fit_is_refused_in_numbers_and_words_and_the_header_is_what_the_library_is() {
    let (_folder, program) = compile("cc", C99, "tests/careless.c", &archive());
    let mut child = Command::new(program).stdout(Stdio::piped()).spawn().unwrap();
    let code = ended(&mut child);
    let told = std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
    assert_eq!(code, Some(0), "{told}");
    let layout: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("layout ")).collect();
    let settings = |field: &str, at: usize| format!("warmline_publisher_settings.{field} {at}");
    let run = |field: &str, at: usize| format!("warmline_run.{field} {at}");
    let expected = [
        format!("abi {ABI}"),
        format!("settings {}", size_of::<Settings>()),
        settings("endpoint", offset_of!(Settings, endpoint)),
        settings("replay_endpoint", offset_of!(Settings, replay_endpoint)),
        settings("topic", offset_of!(Settings, topic)),
        settings("block_size", offset_of!(Settings, block_size)),
        settings("buffer_steps", offset_of!(Settings, buffer_steps)),
        settings("heartbeat_ms", offset_of!(Settings, heartbeat_ms)),
        settings("rank", offset_of!(Settings, rank)),
        settings("compact", offset_of!(Settings, compact)),
        settings("reserved", offset_of!(Settings, reserved)),
        format!("run {}", size_of::<Run>()),
        run("blocks", offset_of!(Run, blocks)),
        run("block_count", offset_of!(Run, block_count)),
        run("parent", offset_of!(Run, parent)),
        run("lora", offset_of!(Run, lora)),
        run("cache_salt", offset_of!(Run, cache_salt)),
        run("tier", offset_of!(Run, tier)),
        run("reserved", offset_of!(Run, reserved)),
    ];
    assert_eq!(layout, expected);
}

#[test]
fn the_numbers_of_the_header_are_those_of_the_library() {
    let header = std::fs::read_to_string(here("include/warmline_engine.h")).unwrap();
    let codes = ["POINTER", "COUNT", "TIER", "TEXT", "STRUCT", "FORKED", "HASH", "DEFECT"];
    for (name, trouble) in codes.iter().zip(Trouble::ALL) {
        let line = format!("WARMLINE_{name} = {}", trouble as i32);
        assert!(header.contains(&line), "{line}: {}", CStr::to_string_lossy(trouble.words()));
    }
    for (number, tier) in Tier::ALL.iter().enumerate() {
        let line = format!("WARMLINE_{} = {number}", tier.name().to_uppercase());
        assert!(header.contains(&line), "{line}");
    }
}

#[test]
fn the_header_is_good_c_plus_plus_and_good_old_c() {
    let (_folder, program) = compile("c++", &["-std=c++11", "-pedantic"], "tests/header.cpp", &shared());
    assert_eq!(ended(&mut Command::new(program).spawn().unwrap()), Some(0));
    let header = here("include/warmline_engine.h");
    let options = ["-std=c90", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c"];
    let ran = Command::new("cc").args(options).arg(header).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}
