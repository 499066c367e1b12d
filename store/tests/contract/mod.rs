//! The contract of a store, for any store: `holds` is run against the one in memory, and should be against every other.

use std::time::Duration;

use bytes::Bytes;
use store::resp::contract::{Life, Look, Only, Part, Put, Sink, Store, Tenant, Written};

/// Claims K1 to K5 of `resp::contract`, on an empty store of at least 1 MiB.
pub(crate) async fn holds<S: Store>(store: &S) {
    tenants_see_their_own(store).await;
    what_is_not_committed_is_not_there(store).await;
    conditions_decide_at_the_commit(store).await;
    what_was_handed_out_stays(store).await;
    missing_and_empty_differ(store).await;
    a_scan_tells_what_was_there_all_along(store).await;
    many_are_asked_as_one_after_the_other(store).await;
}

async fn put<S: Store>(store: &S, tenant: &Tenant, key: &[u8], value: &[u8], how: Put) -> Written {
    let mut sink = store.reserve(tenant, key, value.len()).wait().await.unwrap();
    assert_eq!(sink.space().len(), value.len(), "as much space as was asked for");
    sink.space().copy_from_slice(value);
    sink.commit(how).wait().await.unwrap()
}

async fn get<S: Store>(store: &S, tenant: &Tenant, key: &[u8]) -> Option<Bytes> {
    store.get(tenant, key, Part::Whole).wait().await.unwrap()
}

/// K1
async fn tenants_see_their_own<S: Store>(store: &S) {
    let (a, b) = (Tenant::new("k1-a"), Tenant::new("k1-b"));
    put(store, &a, b"k", b"of a", Put::default()).await;
    assert_eq!(get(store, &b, b"k").await, None);
    assert_eq!(store.look(&b, b"k").wait().await.unwrap(), None);
    assert!(!store.remove(&b, b"k").wait().await.unwrap());
    assert_eq!(store.count(&b).wait().await.unwrap(), 0);
    assert!(store.scan(&b, 0, 100).wait().await.unwrap().keys.is_empty());
    store.clear(&b).wait().await.unwrap();
    assert_eq!(get(store, &a, b"k").await.as_deref(), Some(b"of a".as_slice()));
    store.clear(&a).wait().await.unwrap();
    assert_eq!(store.count(&a).wait().await.unwrap(), 0);
}

/// K2
async fn what_is_not_committed_is_not_there<S: Store>(store: &S) {
    let tenant = Tenant::new("k2");
    put(store, &tenant, b"k", b"old", Put::default()).await;
    let mut sink = store.reserve(&tenant, b"k", 3).wait().await.unwrap();
    sink.space().copy_from_slice(b"new");
    assert_eq!(get(store, &tenant, b"k").await.as_deref(), Some(b"old".as_slice()));
    drop(sink);
    assert_eq!(get(store, &tenant, b"k").await.as_deref(), Some(b"old".as_slice()));
    drop(store.reserve(&tenant, b"other", 3).wait().await.unwrap());
    assert_eq!(store.look(&tenant, b"other").wait().await.unwrap(), None);
    assert_eq!(store.count(&tenant).wait().await.unwrap(), 1);
}

async fn conditions_decide_at_the_commit<S: Store>(store: &S) {
    let tenant = Tenant::new("only");
    let only = |only| Put { only, ..Put::default() };
    assert_eq!(put(store, &tenant, b"k", b"1", only(Only::Present)).await, Written::Unchanged);
    assert_eq!(put(store, &tenant, b"k", b"2", only(Only::Absent)).await, Written::Stored);
    assert_eq!(put(store, &tenant, b"k", b"3", only(Only::Absent)).await, Written::Unchanged);
    assert_eq!(get(store, &tenant, b"k").await.as_deref(), Some(b"2".as_slice()));
    let life = Put { only: Only::Present, life: Life::For(Duration::from_secs(1_000)), block: None };
    assert_eq!(put(store, &tenant, b"k", b"4", life).await, Written::Stored);
    let kept = Put { life: Life::Kept, ..Put::default() };
    assert_eq!(put(store, &tenant, b"k", b"55", kept).await, Written::Stored);
    let look = store.look(&tenant, b"k").wait().await.unwrap().unwrap();
    assert_eq!(look.len, 2);
    assert!(
        look.life.is_some_and(|life| life > Duration::from_secs(500) && life <= Duration::from_secs(1_000))
    );
}

/// K3
async fn what_was_handed_out_stays<S: Store>(store: &S) {
    let tenant = Tenant::new("k3");
    let value: Vec<u8> = (0..100_000u32).map(|at| (at % 253) as u8).collect();
    put(store, &tenant, b"k", &value, Put::default()).await;
    let held = get(store, &tenant, b"k").await.unwrap();
    let part = store.get(&tenant, b"k", Part::Between(-10, -1)).wait().await.unwrap().unwrap();
    put(store, &tenant, b"k", &vec![0; 100_000], Put::default()).await;
    assert!(store.remove(&tenant, b"k").wait().await.unwrap());
    for turn in 0..4 {
        put(store, &tenant, b"k", &vec![turn; 100_000], Put::default()).await;
    }
    assert!(held == value && part == value[99_990..]);
}

/// K4
async fn missing_and_empty_differ<S: Store>(store: &S) {
    let tenant = Tenant::new("k4");
    put(store, &tenant, b"", b"", Put::default()).await;
    assert_eq!(get(store, &tenant, b"").await, Some(Bytes::new()));
    assert_eq!(store.look(&tenant, b"").wait().await.unwrap(), Some(Look { len: 0, life: None }));
    assert_eq!(get(store, &tenant, b"\0").await, None);
    assert!(store.remove(&tenant, b"").wait().await.unwrap());
    assert!(!store.remove(&tenant, b"").wait().await.unwrap());
    assert_eq!(get(store, &tenant, b"").await, None);
}

/// K5
async fn a_scan_tells_what_was_there_all_along<S: Store>(store: &S) {
    let tenant = Tenant::new("k5");
    let key = |at: usize| format!("key:{at}").into_bytes();
    for at in 0..100 {
        put(store, &tenant, &key(at), b"", Put::default()).await;
    }
    let (mut found, mut cursor, mut turn) = (std::collections::BTreeSet::new(), 0, 0);
    loop {
        let page = store.scan(&tenant, cursor, 7).wait().await.unwrap();
        found.extend(page.keys);
        cursor = page.next;
        if cursor == 0 {
            break;
        }
        // Meanwhile the even ones go, new ones come, and some are written again.
        store.remove(&tenant, &key(turn * 2)).wait().await.unwrap();
        put(store, &tenant, &key(1_000 + turn), b"", Put::default()).await;
        put(store, &tenant, &key(turn * 6 + 1), b"again", Put::default()).await;
        turn += 1;
        assert!(turn < 1_000, "a scan ends");
    }
    for at in (1..100).step_by(2) {
        assert!(found.contains(key(at).as_slice()), "{at} was there all along");
    }
}

async fn many_are_asked_as_one_after_the_other<S: Store>(store: &S) {
    let tenant = Tenant::new("many");
    put(store, &tenant, b"a", b"1", Put::default()).await;
    put(store, &tenant, b"c", b"3", Put::default()).await;
    let keys: [&[u8]; 4] = [b"a", b"b", b"c", b"a"];
    let each = store.get_many(&tenant, &keys).wait().await.unwrap();
    let each: Vec<Option<Bytes>> = each.into_iter().map(Result::unwrap).collect();
    let value = |value: &'static [u8]| Some(Bytes::from_static(value));
    assert_eq!(each, [value(b"1"), None, value(b"3"), value(b"1")]);
    let each = store.look_many(&tenant, &keys).wait().await.unwrap();
    let each: Vec<bool> = each.into_iter().map(|look| look.unwrap().is_some()).collect();
    assert_eq!(each, [true, false, true, true]);
    let each = store.remove_many(&tenant, &keys).wait().await.unwrap();
    let each: Vec<bool> = each.into_iter().map(Result::unwrap).collect();
    assert_eq!(each, [true, false, true, false]);
}
