//! Frames that nobody should have sent: an error and a closed connection, in bounded memory, and others are unharmed.

use std::sync::Arc;

use store::link::ask::Ask;
use store::link::codec::{Names, Reader, Wire};
use store::link::frame::{HEAD, Head, Hello, Kind, LONGEST, NoNames, Reign, Whom, frame};
use store::master::name::{Millis, Name, Tenant, Tier, Version};
use store::master::{Error, Found, Glance, News, Order, Refused, Reserved};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::chance::Chance;
use crate::kit::{Chief, MIB, Plan, options};

/// Every tenant that is a text has a number.
struct Any(Tenant);

impl Names for Any {
    fn now(&self) -> Millis {
        Millis(1_000)
    }

    fn name(&self, _: Tenant) -> Arc<str> {
        "default".into()
    }

    fn tenant(&self, name: &str) -> Option<Tenant> {
        (name.len() < 200).then_some(self.0)
    }
}

fn any() -> Any {
    let nobody = Arc::new(store::master::Deaf);
    let master = store::master::Master::new(options(), nobody.clone(), nobody);
    Any(master.tenant("default").unwrap())
}

fn bytes(names: &Any, write: impl FnOnce(&mut store::link::codec::Writer<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut store::link::codec::Writer::new(&mut out, names));
    out
}

/// Reads it, and if that can be done, writes it as it was.
fn read<'a, T: Wire<'a>>(names: &'a Any, from: &'a [u8]) -> bool {
    let mut reader = Reader::new(from, names);
    let Ok(read) = reader.take::<T>() else { return false };
    if reader.end().is_err() {
        return false;
    }
    let again = bytes(names, |to| to.add(&read));
    // Names of tenants are all one here; nothing else may differ.
    assert!(again.len() <= from.len() + 64 * from.len(), "what was read is no larger than what arrived");
    true
}

fn samples(names: &Any) -> Vec<Vec<u8>> {
    let name = Name { tenant: names.0, key: b"key"[..].into() };
    let keys: Vec<&[u8]> = vec![b"one", b"", b"three"];
    let news = News::Lost { name: name.clone(), version: Version(9), tier: Tier::Disk };
    vec![
        bytes(names, |to| to.add(&Ask::Get(names.0, keys.clone()))),
        bytes(names, |to| to.add(&Ask::Reserve(store::master::Put::new(names.0, b"key", 77)))),
        bytes(names, |to| to.add(&Ask::Tell(1, 2, news))),
        bytes(names, |to| to.add(&Ask::Warm(names.0, keys, Millis(5_000)))),
        bytes(names, |to| to.add(&Ask::TakeOrders(100))),
        bytes(names, |to| to.add(&vec![Order::Drop { name, version: Version(7), tier: Tier::Memory }])),
        bytes(names, |to| to.add(&vec![Glance::Here { size: 5, ends: Some(Millis(9_000)) }, Glance::Absent])),
    ]
}

#[test]
fn whatever_bytes_come_reading_them_ends_in_a_thing_or_an_error() {
    let names = any();
    let samples = samples(&names);
    let mut chance = Chance(11);
    let (mut good, mut bad) = (0_u32, 0_u32);
    for turn in 0..200_000 {
        let mut input = if turn % 3 == 0 {
            (0..chance.below(60)).map(|_| chance.next() as u8).collect()
        } else {
            samples[chance.below(samples.len())].clone()
        };
        for _ in 0..chance.below(4) {
            let at = chance.below(input.len());
            match (chance.below(4), input.get_mut(at)) {
                (0, _) => input.truncate(at),
                (1, Some(byte)) => *byte ^= 1 << chance.below(8),
                (2, Some(byte)) => *byte = [0, 1, 0x7f, 0xff][chance.below(4)],
                _ => input.insert(at, chance.next() as u8),
            }
        }
        let read = [
            read::<Ask<'_>>(&names, &input),
            read::<Vec<Found>>(&names, &input),
            read::<Vec<Glance>>(&names, &input),
            read::<Vec<Order>>(&names, &input),
            read::<Result<Reserved, Refused>>(&names, &input),
            read::<Vec<Result<(), Error>>>(&names, &input),
            Head::split(&input, LONGEST).is_ok(),
        ];
        *if read[0] { &mut good } else { &mut bad } += 1;
    }
    assert!(good > 20_000 && bad > 20_000, "{good} and {bad}: both ways are walked");
}

#[test]
fn a_count_is_believed_only_as_far_as_bytes_follow() {
    let names = any();
    for count in [u32::MAX, 1 << 24, 5] {
        let mut input = count.to_le_bytes().to_vec();
        input.extend([0; 4]);
        assert!(Reader::new(&input, &names).take::<Vec<Glance>>().is_err(), "{count}");
        assert!(Reader::new(&input, &names).take::<Box<[u8]>>().is_err(), "{count}");
    }
    let head = [0xff; HEAD];
    assert!(Head::read(head, LONGEST).is_err());
}

async fn greeted(address: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut hello = Vec::new();
    let greeting = Hello { to: Whom::Master, secret: b"a secret of tests", seen: Reign::default() };
    frame(&mut hello, Kind::Hello, 0, &NoNames, |to| to.add(&greeting));
    stream.write_all(&hello).await.unwrap();
    let mut welcome = [0; HEAD + 12];
    stream.read_exact(&mut welcome).await.unwrap();
    stream
}

/// Whether the other side closes it.
async fn is_closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // Reset or ended: it is over.
    let _ = stream.read_to_end(&mut rest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_closes_on_whoever_talks_nonsense_and_serves_the_others() {
    let chief = Chief::begin(1, options()).await;
    let home = Plan::new("one", 8 * MIB, &[&chief]).begin().await;
    let mut chance = Chance(5);
    for turn in 0..200 {
        let mut stream = if turn % 2 == 0 {
            greeted(chief.address).await
        } else {
            TcpStream::connect(chief.address).await.unwrap()
        };
        let mut junk: Vec<u8> = (0..40 + chance.below(400)).map(|_| chance.next() as u8).collect();
        // Some of it begins as a frame does.
        if turn % 4 == 0 {
            let mut framed = Vec::new();
            frame(&mut framed, Kind::Ask, 1, &NoNames, |to| to.add(&junk[..].to_vec().into_boxed_slice()));
            junk = framed;
        }
        let _ = stream.write_all(&junk).await;
        // Half a frame alone is waited for, for a while: whoever sent it hangs up.
        let _ = stream.shutdown().await;
        is_closed(stream).await;
        home.put(b"k", b"v").await.unwrap();
    }
    assert_eq!(home.find(b"k").await.as_deref(), Some(b"v".as_slice()));
}

/// Before it has said who it is, nobody is answered; and nobody speaks for a node that has not joined.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_answered_before_a_node_has_joined() {
    let chief = Chief::begin(1, options()).await;
    let mut stream = greeted(chief.address).await;
    let names = any();
    let mut ask = Vec::new();
    frame(&mut ask, Kind::Ask, 77, &names, |to| to.add(&Ask::Count(names.0)));
    stream.write_all(&ask).await.unwrap();
    loop {
        let mut head = [0; HEAD];
        stream.read_exact(&mut head).await.unwrap();
        let head = Head::read(head, LONGEST).unwrap();
        let mut body = vec![0; head.len];
        stream.read_exact(&mut body).await.unwrap();
        if head.kind != Kind::Beat {
            assert_eq!((head.kind, head.id), (Kind::No, 77));
            break;
        }
    }
}
