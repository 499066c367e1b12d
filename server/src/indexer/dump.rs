//! All that an indexer knows, told to another: in our own form, from which an exact view can be gone on, and as events in
//! JSON, as other indexers tell and read it.

use std::collections::BTreeMap;

use blocks::{Block, EngineHash, Event, Stored, Tier, TokensHash, View};
use events::copy;
use events::follow::Mark;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::registry::{Copied, Inherited, Registration, default_group};

/// The type of our own form: for each view a line of JSON, and so many bytes as it says.
pub(super) const OWN: &str = "application/x-warmline-views";

/// The line before a view's bytes.
#[derive(Serialize, Deserialize)]
struct Head {
    #[serde(flatten)]
    registration: Registration,
    mark: Option<Place>,
    bytes: u64,
}

/// A [`Mark`] in JSON.
#[derive(Serialize, Deserialize)]
struct Place {
    last: u64,
    proof: u64,
    /// `exact`, `recovering` or `stale`: how far the source itself was in step.
    source: String,
    broken: Vec<u64>,
}

/// Every view in our own form.
pub(super) fn own(copies: &[Copied]) -> Vec<u8> {
    let mut out = Vec::new();
    for Copied { registration, mark, events } in copies {
        let bytes = copy::encode(events, registration.block_size);
        let mark = mark.as_ref().map(Place::from);
        let head = Head { registration: registration.clone(), mark, bytes: bytes.len() as u64 };
        // Writing to a vector cannot fail, and neither can these types.
        let _ = serde_json::to_writer(&mut out, &head);
        out.push(b'\n');
        out.extend(bytes);
    }
    out
}

/// Reads our own form.
///
/// # Errors
/// Why not, in words.
pub(super) fn read_own(mut bytes: &[u8]) -> Result<Vec<Inherited>, String> {
    let mut views = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("a head has no end")?;
        let head: Head = serde_json::from_slice(&bytes[..end]).map_err(|error| error.to_string())?;
        let rest = &bytes[end + 1..];
        let (view, rest) = usize::try_from(head.bytes)
            .ok()
            .and_then(|len| rest.split_at_checked(len))
            .ok_or("it ends in the middle of a view")?;
        let events = copy::decode(view).map_err(|error| error.to_string())?;
        let mark = head.mark.map(Mark::try_from).transpose()?;
        views.push(Inherited { registration: head.registration, mark, events });
        bytes = rest;
    }
    Ok(views)
}

// === JSON ===

/// One partition.
#[derive(Serialize, Deserialize)]
struct Entry {
    block_size: u32,
    events: Vec<RouterEvent>,
}

#[derive(Serialize, Deserialize)]
struct RouterEvent {
    worker_id: u64,
    #[serde(default)]
    storage_tier: StorageTier,
    event: CacheEvent,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StorageTier {
    #[default]
    Device,
    HostPinned,
    Disk,
    External,
}

#[derive(Serialize, Deserialize)]
struct CacheEvent {
    event_id: u64,
    data: Data,
    #[serde(default)]
    dp_rank: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Data {
    Stored(StoreData),
    Removed { block_hashes: Vec<u64> },
    Cleared,
}

#[derive(Serialize, Deserialize)]
struct StoreData {
    parent_hash: Option<u64>,
    start_position: Option<u32>,
    blocks: Vec<BlockData>,
}

#[derive(Serialize, Deserialize)]
struct BlockData {
    block_hash: u64,
    tokens_hash: u64,
}

/// Every view as events in JSON, by `model:group`.
pub(super) fn json(copies: Vec<Copied>) -> Vec<u8> {
    let mut parts: BTreeMap<String, Entry> = BTreeMap::new();
    for Copied { registration, events, .. } in copies {
        let key = format!("{}:{}", registration.model_name, registration.routing_group);
        let entry =
            parts.entry(key).or_insert(Entry { block_size: registration.block_size, events: Vec::new() });
        for (at, event) in events.into_iter().enumerate() {
            entry.events.push(RouterEvent::of(&registration, at as u64, event));
        }
    }
    serde_json::to_vec(&parts).unwrap_or_default()
}

/// Reads events in JSON: what each worker holds. Where it is followed, they do not say.
///
/// # Errors
/// Why not, in words.
pub(super) fn read_json(bytes: &[u8]) -> Result<Vec<Inherited>, String> {
    let parts: BTreeMap<String, &RawValue> =
        serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let mut views = Vec::new();
    for (key, entry) in parts {
        let entry: Entry = match serde_json::from_str(entry.get()) {
            Ok(entry) => entry,
            Err(error) => {
                // One that it could not tell itself says so in place of its events.
                tracing::warn!(part = key, %error, "a part of what a peer knows cannot be read");
                continue;
            }
        };
        let (model, group) = key.split_once(':').ok_or_else(|| format!("`{key}` is not model:group"))?;
        let mut workers: BTreeMap<(u64, u32), Vec<Event>> = BTreeMap::new();
        for event in entry.events {
            let worker = (event.worker_id, event.event.dp_rank);
            workers.entry(worker).or_default().push(event.into_event());
        }
        for ((instance_id, dp_rank), events) in workers {
            let registration = Registration {
                instance_id,
                dp_rank,
                model_name: model.to_owned(),
                routing_group: if group.is_empty() { default_group() } else { group.to_owned() },
                block_size: entry.block_size,
                endpoint: String::new(),
                replay_endpoint: None,
            };
            views.push(Inherited { registration, mark: None, events });
        }
    }
    Ok(views)
}

// === impl RouterEvent ===

impl RouterEvent {
    fn of(registration: &Registration, event_id: u64, event: Event) -> Self {
        let (storage_tier, data) = match event {
            Event::Stored(stored) => {
                let block =
                    |block: &Block| BlockData { block_hash: block.engine.0, tokens_hash: block.tokens.0 };
                let data = StoreData {
                    parent_hash: stored.parent.map(|parent| parent.0),
                    start_position: None,
                    blocks: stored.blocks.iter().map(block).collect(),
                };
                (StorageTier::from(stored.tier), Data::Stored(data))
            }
            Event::Removed { blocks, tier } => {
                let block_hashes = blocks.into_iter().map(|block| block.0).collect();
                (StorageTier::from(tier), Data::Removed { block_hashes })
            }
            Event::Cleared => (StorageTier::Device, Data::Cleared),
        };
        let event = CacheEvent { event_id, data, dp_rank: registration.dp_rank };
        Self { worker_id: registration.instance_id, storage_tier, event }
    }

    fn into_event(self) -> Event {
        let tier = Tier::from(self.storage_tier);
        match self.event.data {
            Data::Stored(data) => {
                let block = |block: &BlockData| Block {
                    engine: EngineHash(block.block_hash),
                    tokens: TokensHash(block.tokens_hash),
                };
                let blocks = data.blocks.iter().map(block).collect();
                Event::Stored(Stored { parent: data.parent_hash.map(EngineHash), blocks, tier })
            }
            Data::Removed { block_hashes } => {
                Event::Removed { blocks: block_hashes.into_iter().map(EngineHash).collect(), tier }
            }
            Data::Cleared => Event::Cleared,
        }
    }
}

impl From<Tier> for StorageTier {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::Device => Self::Device,
            Tier::Host => Self::HostPinned,
            Tier::Disk => Self::Disk,
            Tier::Store => Self::External,
        }
    }
}

impl From<StorageTier> for Tier {
    fn from(tier: StorageTier) -> Self {
        match tier {
            StorageTier::Device => Self::Device,
            StorageTier::HostPinned => Self::Host,
            StorageTier::Disk => Self::Disk,
            StorageTier::External => Self::Store,
        }
    }
}

// === impl Place ===

impl From<&Mark> for Place {
    fn from(mark: &Mark) -> Self {
        Self {
            last: mark.last,
            proof: mark.proof,
            source: mark.source.name().to_owned(),
            broken: mark.broken.iter().map(|name| name.0).collect(),
        }
    }
}

impl TryFrom<Place> for Mark {
    type Error = String;

    fn try_from(place: Place) -> Result<Self, String> {
        if place.last >= u64::MAX - 1 {
            return Err(format!("{} is no batch's number", place.last));
        }
        let views = [View::Exact, View::Recovering, View::Stale];
        let source = views.into_iter().find(|view| view.name() == place.source);
        Ok(Self {
            last: place.last,
            proof: place.proof,
            source: source.ok_or_else(|| format!("`{}` is no state of a view", place.source))?,
            broken: place.broken.into_iter().map(EngineHash).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied() -> Vec<Copied> {
        let registration = Registration {
            instance_id: u64::MAX - 1,
            dp_rank: 3,
            model_name: "a:model".replace(':', "-"),
            routing_group: "green".to_owned(),
            block_size: 16,
            endpoint: "tcp://10.0.0.5:5557".to_owned(),
            replay_endpoint: None,
        };
        let block = |name: u64| Block { engine: EngineHash(name), tokens: TokensHash(!name) };
        let events = vec![
            Event::Stored(Stored { parent: None, blocks: vec![block(1), block(2)], tier: Tier::Device }),
            Event::Stored(Stored { parent: Some(EngineHash(1)), blocks: vec![block(3)], tier: Tier::Host }),
            Event::Removed { blocks: vec![EngineHash(2)], tier: Tier::Device },
        ];
        let broken = vec![EngineHash(9)];
        let mark = Mark { last: 7, proof: u64::MAX, source: View::Exact, broken };
        vec![Copied { registration, mark: Some(mark), events }]
    }

    #[test]
    fn our_own_form_is_read_back_whole() {
        let copies = copied();
        let bytes = own(&copies);
        let read = read_own(&bytes).unwrap();
        assert_eq!((&read[0].registration, &read[0].mark), (&copies[0].registration, &copies[0].mark));
        assert_eq!(read[0].events, copies[0].events);
        for cut in [1, 40, bytes.len() - 1] {
            assert!(read_own(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(read_own(b"{}\n").is_err());
    }

    #[test]
    fn events_in_json_are_read_back_without_a_place_to_follow() {
        let copies = copied();
        let events = copies[0].events.clone();
        let read = read_json(&json(copies)).unwrap();
        assert_eq!((read[0].registration.instance_id, read[0].registration.dp_rank), (u64::MAX - 1, 3));
        assert_eq!((read[0].registration.endpoint.as_str(), &read[0].mark), ("", &None));
        assert_eq!(read[0].events, events);
        assert!(read_json(b"[]").is_err() && read_json(br#"{"x":{"block_size":1,"events":[]}}"#).is_err());
        let partly = br#"{"a:b":{"error":"no"},"c:d":{"block_size":1,"events":[{"worker_id":1,"event":{"event_id":0,"data":"cleared"}}]}}"#;
        assert_eq!(read_json(partly).unwrap().len(), 1);
    }
}
