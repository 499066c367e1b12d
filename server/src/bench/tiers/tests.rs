//! A short load over a store whose memory is far too small: who has more of it cached, and whether everything adds up.

use super::*;

/// Sixty conversations of six turns, each of which comes back when two engines have long forgotten it.
fn plan() -> Plan {
    let line = |i: u64| {
        let (talk, turn) = (i % 60, i / 60);
        let ids: Vec<String> = (0..=2 * turn + 1).map(|block| (talk * 100 + block).to_string()).collect();
        let length = 512 * ids.len() - 100;
        let (at, ids) = (i * 60, ids.join(","));
        format!("{{\"timestamp\":{at},\"input_length\":{length},\"output_length\":20,\"hash_ids\":[{ids}]}}")
    };
    let lines: Vec<String> = (0..360).map(line).collect();
    let shape = Shape { block_size: 128, blocks: 160, ..Shape::default() };
    let hardware = Hardware {
        nodes: 2,
        memory: 1 << 30,
        disk: 1 << 40,
        link_rate: 10e9,
        link_latency: Duration::from_micros(100),
        disk_rate: 2e9,
        disk_latency: Duration::from_micros(200),
        pages: 1 << 28,
    };
    Plan {
        requests: sim::trace::read(lines.join("\n").as_bytes(), 128).unwrap(),
        engines: 2,
        shape,
        second: Second::default(),
        in_flight: 2,
        token_bytes: 64 << 10,
        hardware,
        threshold: 2,
        ahead: 64,
        event_delay: Duration::from_micros(1_300),
        seed: 1,
        runs: 1,
        routing: Routing::default(),
    }
}

#[test]
fn what_is_counted_adds_up_and_each_way_has_more_at_hand_than_the_one_before() {
    let plan = plan();
    let result = measure(&plan, |_| ()).unwrap();
    adds_up(&plan, &result);
    in_order(&result);
}

fn adds_up(plan: &Plan, result: &Result) {
    for (name, row) in &result.ways {
        let Tokens { prompt, device, memory, disk, computed } = row.tokens;
        assert_eq!(
            (row.requests, prompt),
            (360, plan.requests.iter().map(|one| one.job.prompt as u64).sum())
        );
        assert_eq!(device + memory + disk + computed, prompt, "{name}");
        let Some(store) = row.store else {
            assert_eq!((name.as_str(), memory + disk), ("no-store", 0));
            continue;
        };
        let Traffic { read_memory, read_disk, promoted, in_vain, put, .. } = store.traffic;
        assert!(read_memory >= memory * plan.token_bytes && read_disk >= disk * plan.token_bytes, "{name}");
        assert_eq!(promoted, store.promoted * plan.block_bytes(), "{name}");
        assert!(in_vain <= promoted && put > 0, "{name}: {store:?}");
        assert!(store.promotions > 0 || !["promotion", "warming"].contains(&name.as_str()), "{name}");
        assert_eq!(name == "warming", store.warm_asked > 0, "{name}");
        assert!(store.warm_in_time + store.warm_late + store.warm_cancelled <= store.warm_asked, "{name}");
    }
}

fn in_order(result: &Result) {
    let row = |name: &str| result.ways[name];
    assert!(row("store").cached_ratio() > row("no-store").cached_ratio() + 0.1, "{result:?}");
    let fast = |name: &str| row(name).tokens.memory + row(name).tokens.device;
    assert!(fast("promotion") > fast("store"), "{result:?}");
    assert!(fast("warming") > fast("promotion"), "{result:?}");
    assert!(fast("all-in-memory") > fast("warming"), "{result:?}");
    let mean = |name: &str| row(name).ttft_ms.mean;
    assert!(mean("all-in-memory") <= mean("warming") && mean("warming") < mean("no-store"), "{result:?}");
}

#[test]
fn the_same_load_ends_the_same() {
    let json = || serde_json::to_string(&one("warming", &plan()).unwrap()).unwrap();
    assert_eq!(json(), json());
}
