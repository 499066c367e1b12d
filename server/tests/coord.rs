//! `warmline coord explain` and `warmline doctor`, run against a real Redis: what an operator reads at night.

use std::process::{Command, Output};

use bytes::Bytes;
use coord::backend::{Config, Registry};
use coord::jobs::{Jobs, Options};
use coord::kit::servers::{self, Server};
use coord::wait::Waits;
use coord::{Coord, Key, Name};

fn name(word: &str) -> Name {
    Name::new(word).unwrap()
}

fn warmline(server: &Server, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warmline"));
    for (variable, _) in std::env::vars().filter(|(variable, _)| variable.starts_with("WARMLINE_")) {
        command.env_remove(variable);
    }
    command.env("WARMLINE_COORDINATION_BACKEND", "redis").env("WARMLINE_COORD_DSN", server.dsn());
    command.args(words).output().unwrap()
}

fn says(ran: &Output, words: &[&str]) {
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    for word in words {
        assert!(said.contains(word), "`{word}` is not in\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_says_what_is_pending_who_holds_it_and_what_happens_next() {
    let server = Server::start(servers::Options::default()).await.unwrap();
    let config = Config { backend: "redis".to_owned(), dsn: server.dsn(), ..Config::default() };
    let backend = Registry::new().make(&config).await.unwrap();
    let coord = Coord::new(backend, name("gw-1"), 1);

    let jobs = Jobs::begin(&coord, Vec::new(), Options::default());
    let parts: Vec<Name> = (0..30).map(|i| name(&format!("line-{i:02}"))).collect();
    jobs.open(&name("nightly"), 3, &name("deliver"), Bytes::new(), &parts, true).await.unwrap();
    jobs.settle(&name("nightly"), 3, &parts[0]).await.unwrap();
    let ran = warmline(&server, &["coord", "explain", "nightly"]);
    assert!(ran.status.success());
    says(
        &ran,
        &[
            "job nightly, epoch 3",
            "29 of 30 parts",
            "by gw-1",
            "line-01",
            "and 9 more",
            "next: in 1",
            "given up",
        ],
    );
    for part in &parts[1..] {
        jobs.settle(&name("nightly"), 3, part).await.unwrap();
    }
    let ran = warmline(&server, &["coord", "explain", "nightly"]);
    says(&ran, &["every part is settled", "next: gw-1 runs handler `deliver`", "any other may"]);

    let waits = Waits::begin(&coord);
    waits.expect(&name("req-1"), &name("embedding"), vec![name("a"), name("b")]).await.unwrap();
    waits.arrive(&name("req-1"), &name("embedding"), &name("a"), Some("half way".into())).await.unwrap();
    let ran = warmline(&server, &["coord", "explain", "req-1"]);
    says(&ran, &["request req-1: pending are", "1 of embedding", "embedding said last: half way"]);

    coord.add(&Key::new("hits").unwrap(), 7).await.unwrap();
    says(&warmline(&server, &["coord", "explain", "hits"]), &["key hits: a counter at 7"]);
    let claim = Key::new("leader").unwrap();
    coord.claim(&claim, &name("gw-1"), std::time::Duration::from_mins(1)).await.unwrap();
    says(&warmline(&server, &["coord", "explain", "leader"]), &["key leader: claimed by gw-1"]);

    let ran = warmline(&server, &["coord", "explain", "nobody-knows"]);
    assert_eq!(ran.status.code(), Some(1));
    says(&ran, &["nothing is known of `nobody-knows`", "its time is over"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_tells_a_coordinator_that_works_from_one_that_does_not() {
    let mut server = Server::start(servers::Options::default()).await.unwrap();
    says(&warmline(&server, &["doctor"]), &["ok    coordination: redis at", "all of its shards"]);
    server.send(&["ACL", "SETUSER", "default", "-spublish"]).await.unwrap();
    says(
        &warmline(&server, &["doctor"]),
        &["BAD   coordination", "may not run a command that `tell` needs", "docs/replicas.md"],
    );
    server.kill();
    says(&warmline(&server, &["doctor"]), &["BAD   coordination", "cannot be reached"]);
}
